import math

import pytest
import torch
from torch.nn import functional as F

from gpt import GPT, InputError, ModelConfig
from gpt.model.attention import KVCache


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

    T, D = ids.size(1), config.width // config.n_head
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
        x = x + linear(torch.cat(heads, dim=-1), f"{block}.attention.projection")
        inner = gelu(linear(norm(x, f"{block}.mlp_norm"), f"{block}.mlp.expand"))
        x = x + linear(inner, f"{block}.mlp.contract")
    return norm(x, "final_norm") @ weights["token_embedding.weight"].T


def test_the_model_is_the_formula_in_float64(model):
    ids = torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(1))
    model = model.double()
    torch.testing.assert_close(model(ids), by_formula(model, ids), rtol=1e-10, atol=1e-10)


def test_float32_is_near_float64(model):
    ids = torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(1))
    single = model(ids)
    assert (single - model.double()(ids)).norm() / single.norm() < 1e-5


@pytest.mark.parametrize("batch", [1, 4])
def test_cached_decoding_equals_the_full_pass(model, batch):
    ids = torch.randint(257, (batch, 48), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        full = model(ids)
        cache = KVCache(model.config, batch, "cpu")
        pieces = [model(ids[:, :7], cache), model(ids[:, 7:20], cache)]
        pieces += [model(ids[:, t : t + 1], cache) for t in range(20, 48)]
    assert (torch.cat(pieces, dim=1) - full).abs().max() < 1e-4


def test_default_size():
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT(ModelConfig()).parameters()) == 124_439_808


def test_initialisation_is_gpt2s():
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=8, n_head=4, width=256, context=64, vocab_size=1000))
    for name, parameter in model.named_parameters():
        if "norm.weight" in name:
            assert parameter.eq(1).all(), name
        elif name.endswith("bias"):
            assert parameter.eq(0).all(), name
        else:
            residual = "projection" in name or "contract" in name
            expected = 0.02 / math.sqrt(2 * 8) if residual else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
            assert abs(parameter.mean().item()) < 5 * expected / math.sqrt(parameter.numel()), name


def test_an_untrained_model_predicts_evenly():
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=2, n_head=2, width=64, context=64, vocab_size=500)).eval()
    ids = torch.randint(500, (4, 64))
    targets = torch.randint(500, (4, 64))
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(math.log(500), abs=0.1)


def test_dropout_acts_in_its_three_places_and_only_in_training():
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=1, n_head=2, width=32, context=16, vocab_size=50, dropout=0.5))
    ids = torch.randint(50, (1, 16))
    assert not torch.equal(model(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))
    dropped = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(dropped) == 3  # embeddings, and the two residual branches
    for module in dropped:
        module.p = 0.0
    attention = model.train().blocks[0].attention
    x = torch.randn(1, 16, 32)
    assert not torch.equal(attention(x), attention(x))  # the attention weights


def test_too_long_a_sequence_is_refused(model):
    with pytest.raises(InputError, match="49 positions do not fit into the model's context of 48"):
        model(torch.zeros(1, 49, dtype=torch.int64))
