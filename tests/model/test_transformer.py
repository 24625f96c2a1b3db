import math
from dataclasses import replace

import pytest
import torch
from helpers import SHAPE, VARIANTS, exact, ngram_buckets, variant
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from gpt import GPT, InputError, ModelConfig


def by_formula(model, ids):
    """GPT-2 written out from its description, in the precision of the weights: (B, T) → (B, T, V)."""
    weights = dict(model.state_dict())
    config = model.config

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    T, D = ids.size(1), config.n_embd // config.n_head
    x = weights["token_embedding.weight"][ids] + weights["position_embedding.weight"][:T]
    for layer in range(config.n_layer):
        block = f"blocks.{layer}"
        query, key, value = linear(norm(x, f"{block}.attention_norm"), f"{block}.attention.qkv").chunk(3, dim=-1)
        heads = []
        for head in range(config.n_head):
            part = slice(head * D, (head + 1) * D)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(D)
            scores = scores + torch.full((T, T), -math.inf, dtype=x.dtype).triu(1)
            heads.append(scores.softmax(-1) @ value[..., part])
        x = x + linear(torch.cat(heads, dim=-1), f"{block}.attention.out_proj")
        inner = gelu(linear(norm(x, f"{block}.mlp_norm"), f"{block}.mlp.fc_in"))
        x = x + linear(inner, f"{block}.mlp.fc_out")
    return norm(x, "final_norm") @ weights["token_embedding.weight"].T


def modern_by_formula(model, ids):
    """All variants at once, written out by loops from their papers, in the precision of the weights."""
    weights, config = dict(model.state_dict()), model.config
    T, H, K, D = ids.size(1), config.n_head, config.n_kv_head, config.head_dim

    def rms(x, weight=1.0):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    def turned(x):
        """RoFormer, equation 34, for each position; pairs are D/2 apart."""
        result = torch.empty_like(x)
        for t in range(T):
            for i in range(D // 2):
                angle = t * 10_000 ** (-2 * i / D)
                c, s = math.cos(angle), math.sin(angle)
                result[:, t, i] = x[:, t, i] * c - x[:, t, i + D // 2] * s
                result[:, t, i + D // 2] = x[:, t, i] * s + x[:, t, i + D // 2] * c
        return result

    x = weights["token_embedding.weight"][ids]
    rows = [[ngram_buckets(sequence[: t + 1], longest=3, rows=50) for t in range(T)] for sequence in ids.tolist()]
    x = x + weights["ngram_embedding.table.weight"][torch.tensor(rows)].sum(dim=2)
    for layer in range(config.n_layer):
        block = f"blocks.{layer}"
        y = rms(x, weights[f"{block}.attention_norm.weight"]) @ weights[f"{block}.attention.qkv.weight"].T
        queries, keys, values = y.split([H * D, K * D, K * D], dim=-1)
        if layer % 2 == (config.n_layer - 1) % 2:
            values = values + weights["value_embedding.table.weight"].split(K * D, dim=-1)[layer // 2][ids]
        mask = torch.ones(T, T).tril()
        if layer % 2 == 0:
            mask = mask.triu(-5)  # a window of six
        heads = []
        for h in range(H):
            own, shared = slice(h * D, (h + 1) * D), slice(h * K // H * D, (h * K // H + 1) * D)
            scores = turned(rms(queries[..., own])) @ turned(rms(keys[..., shared])).transpose(1, 2) / math.sqrt(D)
            heads.append(scores.masked_fill(mask == 0, -math.inf).softmax(-1) @ values[..., shared])
        x = x + torch.cat(heads, dim=-1) @ weights[f"{block}.attention.out_proj.weight"].T
        inner = rms(x, weights[f"{block}.mlp_norm.weight"]) @ weights[f"{block}.mlp.fc_in.weight"].T
        inner = inner.clamp(min=0) ** 2
        x = x + inner @ weights[f"{block}.mlp.fc_out.weight"].T
    logits = rms(x, weights["final_norm.weight"]) @ weights["lm_head.weight"].T
    return 3.0 * torch.tanh(logits / 3.0)


def test_the_modern_model_is_the_formula_in_float64():
    ids = torch.randint(257, (2, 20), generator=torch.Generator().manual_seed(1))
    model = variant("modern").double()
    torch.testing.assert_close(model(ids), modern_by_formula(model, ids), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_no_token_has_a_part_in_what_is_predicted_before_it(name, training):
    """Each token in turn is another: it changes the logits, and the losses, of its own position and of none before."""
    model, T = exact(name).train(training), 24
    ids = torch.randint(256, (T,), generator=torch.Generator().manual_seed(1))
    changed = torch.where(torch.eye(T, dtype=torch.bool), ids + 1, ids)  # the t-th sequence in its t-th token
    logits, before = model(changed), model(ids[None])[0]
    targets = torch.randint(257, (1, T), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        losses = model(changed, targets=targets.expand(T, T), reduction="none")
        losses_before = model(ids[None], targets=targets, reduction="none")[0]
    for t in range(T):
        torch.testing.assert_close(logits[t, :t], before[:t], rtol=0, atol=1e-12)
        torch.testing.assert_close(losses[t, :t], losses_before[:t], rtol=0, atol=1e-5)  # they are in float32
        assert (logits[t, t] - before[t]).abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(VARIANTS.keys() - {"gpt2"}))
def test_each_variant_differs_from_gpt2_and_learns(name):
    """Its loss has a gradient for every weight."""
    model = variant(name).train()
    ids = torch.randint(257, (2, 48), generator=torch.Generator().manual_seed(1))
    model(ids, targets=ids).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, parameter_name
    assert model.config != SHAPE


def test_the_last_position_alone_has_the_logits_of_the_full_pass(model):
    ids = torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(ids, last=True), model(ids)[:, -1])


def test_projections_can_begin_with_zeros():
    """Each block then adds nothing, and an untied head says nothing."""
    model = GPT(replace(SHAPE, zero_init_residual=True, tie_embeddings=False))
    ids = torch.randint(257, (2, 40))
    torch.testing.assert_close(
        model.hidden_states(ids),
        model.final_norm(model.token_embedding(ids) + model.position_embedding(torch.arange(40))),
    )
    assert model(ids).eq(0).all()
    assert model.blocks[0].mlp.fc_in.weight.std() > 0.01


@pytest.mark.parametrize(("what", "share"), [("activations", 0.9), ("blocks", 0.5)])
@pytest.mark.parametrize("name", ["rope", "modern"])
def test_recomputing_gives_the_same_gradients_and_keeps_less(name, what, share):
    """Bit for bit, with dropout, whose masks are drawn the same again."""
    gradients, kept = [], []
    for recompute in ("none", what):
        model = variant(name).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
        model.set_recompute(recompute)
        ids = torch.randint(257, (4, 48), generator=torch.Generator().manual_seed(1))
        kept.append([])
        torch.manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept[-1].append(x.numel()) or x, lambda x: x):
            loss = model(ids, targets=ids)
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))
    assert sum(kept[1]) < share * sum(kept[0])


@pytest.mark.parametrize("name", ["gpt2", "modern"])
def test_recomputing_activations_repeats_no_product(name):
    counts = {}
    for recompute in ("none", "activations", "blocks"):
        model = variant(name).train()
        model.set_recompute(recompute)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(2, 48, dtype=torch.int64), targets=torch.zeros(2, 48, dtype=torch.int64)).backward()
        counts[recompute] = counter.get_total_flops()
    assert counts["none"] == counts["activations"] < counts["blocks"]


def test_the_model_is_the_formula_in_float64(model):
    ids = torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(1))
    model = model.double()
    torch.testing.assert_close(model(ids), by_formula(model, ids), rtol=1e-10, atol=1e-10)


def test_float32_is_near_float64(model):
    ids = torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(1))
    single = model(ids)
    assert (single - model.double()(ids)).norm() / single.norm() < 1e-5


def test_default_size():
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT(ModelConfig()).parameters()) == 124_439_808


def test_initialization_is_gpt2s():
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=8, n_head=4, n_embd=256, context_length=64, vocab_size=1000))
    for name, parameter in model.named_parameters():
        if "norm.weight" in name:
            assert parameter.eq(1).all(), name
        elif name.endswith("bias"):
            assert parameter.eq(0).all(), name
        else:
            residual = "out_proj" in name or "fc_out" in name
            expected = 0.02 / math.sqrt(2 * 8) if residual else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
            assert abs(parameter.mean().item()) < 5 * expected / math.sqrt(parameter.numel()), name


def test_an_untrained_model_predicts_evenly():
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=64, context_length=64, vocab_size=500)).eval()
    ids = torch.randint(500, (4, 64))
    targets = torch.randint(500, (4, 64))
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(math.log(500), abs=0.1)


def test_dropout_acts_in_its_three_places_and_only_in_training():
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=32, context_length=16, vocab_size=50, dropout=0.5))
    ids = torch.randint(50, (1, 16))
    assert not torch.equal(model(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))
    dropped = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(dropped) == 3  # embeddings, and the two residual branches
    for module in dropped:
        module.p = 0.0
    attention = model.train().blocks[0].attention
    x = torch.randn(1, 16, 32)
    scheme, where = model.position_embedding, torch.arange(16)
    assert not torch.equal(attention(x, scheme, where), attention(x, scheme, where))  # the attention weights


def test_too_long_a_sequence_is_refused(model):
    with pytest.raises(InputError, match="49 positions do not fit into the model's context of 48"):
        model(torch.zeros(1, 49, dtype=torch.int64))
