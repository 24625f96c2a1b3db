"""Adapters on a model: against plain formulas, and in every way that a model is run."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from helpers import SHAPE, VARIANTS, exact, variant
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gpt import GPT, Engine, InputError, SamplingConfig
from gpt.config import OptimizerConfig, TrainConfig
from gpt.model import loss as head
from gpt.model.cache import KVBlock, KVCache
from gpt.model.lora import (
    Adapter,
    LayerAdapter,
    LoRAConfig,
    LoRALinear,
    _Dropout,
    adapter_of,
    add_adapter,
    merge,
    merged_weights,
    new_adapter,
    remove_adapter,
)
from gpt.model.prepack import can_prepack, keeps_bits, prepack
from gpt.training.optimizer import Optimizer, unscale_gradients

RANK = 3
ALL = LoRAConfig().targets


def ids(*shape):
    return torch.randint(257, shape, generator=torch.Generator().manual_seed(1))


def adapted(model, dropout=0.0, base_dtype=None, targets=ALL):
    """Put an adapter on a model that changes it visibly: B is not zero."""
    adapter = new_adapter(model, LoRAConfig(rank=RANK, alpha=6.0, targets=targets))
    kind = model.token_embedding.weight.dtype
    layers = {
        name: LayerAdapter(layer.A.to(kind), 0.2 * torch.randn(layer.B.shape, dtype=kind), layer.scale)
        for name, layer in adapter.layers.items()
    }
    add_adapter(model, Adapter(layers), dropout, base_dtype)
    return model


def formula(model):
    """W + scale · B·A of each adapted layer, differentiable by A and B."""
    return {
        f"{name}.weight": layer.weight + layer.scale * layer.lora_B @ layer.lora_A
        for name, layer in model.named_modules()
        if isinstance(layer, LoRALinear)
    }


@pytest.mark.parametrize("recompute", ["none", "activations", "blocks"])
@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_gradients_are_those_of_the_formula(name, recompute):
    """In float64, of a model whose matrices are W + scale · B·A, by the chain rule that torch knows."""
    model = adapted(exact(name)).train()
    plain = exact(name)
    tokens, documents = ids(2, 12), torch.arange(12).div(5).long().expand(2, 12)
    model.set_recompute(recompute)
    loss = model(tokens, targets=tokens, documents=documents)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == {n for n, _ in model.named_parameters() if "lora_" in n}
    loss.backward()
    weights = dict(plain.named_parameters()) | formula(model)
    expected = torch.func.functional_call(plain, weights, (tokens,), {"targets": tokens, "documents": documents})
    torch.testing.assert_close(loss, expected)
    for (n, p), gradient in zip(trained.items(), torch.autograd.grad(expected, list(trained.values())), strict=True):
        torch.testing.assert_close(p.grad, gradient, msg=n)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("name", VARIANTS)
def test_with_a_cache_and_merged_it_computes_the_same(name):
    model = adapted(exact(name))
    tokens = ids(1, 12)
    whole = model(tokens)
    cache = KVCache(KVBlock(model.config, dtype=torch.float64))
    steps = [model(tokens[:, :7], cache), *(model(tokens[:, t : t + 1], cache) for t in range(7, 12))]
    torch.testing.assert_close(torch.cat(steps, 1), whole)
    before = {n: t.clone() for n, t in merged_weights(model).items()}
    merge(model)
    assert not any(isinstance(m, LoRALinear) for m in model.modules())
    assert model.state_dict().keys() == exact(name).state_dict().keys()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    torch.testing.assert_close(model(tokens), whole)
    assert all(p.requires_grad for p in model.parameters())


def test_a_new_adapter_changes_nothing_and_can_be_taken_off():
    model, plain = variant("gpt2"), variant("gpt2")
    torch.manual_seed(5)
    adapter = new_adapter(model, LoRAConfig(rank=RANK))
    add_adapter(model, adapter)
    assert torch.equal(model(ids(1, 9)), plain(ids(1, 9)))
    found = adapter_of(model)
    assert found.layers.keys() == {f"blocks.{i}.{target}" for i in range(2) for target in ALL}
    for name, layer in found.layers.items():
        bound = 1 / math.sqrt(layer.A.size(1))  # Kaiming-uniform with a = √5
        assert layer.A.abs().max() <= bound and layer.A.std() > bound / 3 and not layer.B.any(), name
    assert adapter_of(plain) is None
    adapted_again = Adapter.of({n: p for n, p in model.named_parameters() if p.requires_grad}, 2.0)
    remove_adapter(model)
    assert torch.equal(model(ids(1, 9)), plain(ids(1, 9)))
    add_adapter(model, adapted_again)


def test_layers_may_have_ranks_and_scales_of_their_own():
    model, plain = exact("gpt2"), exact("gpt2")
    one, two = (
        LayerAdapter(torch.randn(r, 32).double(), torch.randn(96, r).double(), s) for r, s in ((2, 0.5), (5, 3))
    )
    add_adapter(model, Adapter({"blocks.0.attention.qkv": one, "blocks.1.attention.qkv": two}))
    with torch.no_grad():
        for i, (a, b, scale) in enumerate((one, two)):
            plain.blocks[i].attention.qkv.weight += scale * b @ a
    torch.testing.assert_close(model(ids(2, 9)), plain(ids(2, 9)))


# ---- dropout ----


def test_dropout_keeps_nothing_but_its_result_and_has_the_gradient_of_what_it_kept():
    x = torch.randn(200, 50, dtype=torch.float64)
    x[:, :9], x[:, 9:12] = 0.0, -0.0  # kept zeros are told from dropped ones
    x.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        torch.manual_seed(3)
        y = _Dropout.apply(x, 0.25)
    torch.manual_seed(3)
    dropped = torch.empty_like(x, dtype=torch.bool).bernoulli_(0.25)
    assert 0.2 < dropped.float().mean() < 0.3
    torch.testing.assert_close(y, torch.where(dropped, 0.0, x / 0.75))
    assert [t.data_ptr() for t in saved] == [y.data_ptr()]
    gradient = torch.randn_like(y)
    y.backward(gradient)
    torch.testing.assert_close(x.grad, torch.where(dropped, 0.0, gradient / 0.75))


@pytest.mark.parametrize(
    "recompute", ["none", "activations", "blocks", pytest.param("compiled", marks=pytest.mark.slow)]
)
def test_what_is_computed_again_drops_the_same(recompute):
    """Gradients are those of the masks of the forward pass: found by another way, of a loss without recomputing.

    Compiled up to the passes' graphs: torch's backend "eager", which leaves out even that, would draw anew.
    """
    model = adapted(exact("gpt2"), dropout=0.4).train()
    loss_of = torch.compile(model, backend="aot_eager") if recompute == "compiled" else model
    model.set_recompute("none" if recompute == "compiled" else recompute)
    tokens = ids(2, 12)
    torch.manual_seed(7)
    loss = loss_of(tokens, targets=tokens)
    loss.backward()
    name, parameter = next((n, p) for n, p in model.named_parameters() if n.endswith("mlp.fc_out.lora_A"))
    direction, h = torch.randn_like(parameter), 1e-5
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            parameter.add_(direction, alpha=sign * h)
            torch.manual_seed(7)
            losses.append(loss_of(tokens, targets=tokens))
            parameter.sub_(direction, alpha=sign * h)
    slope = (losses[0] - losses[1]) / (2 * h)
    torch.testing.assert_close((parameter.grad * direction).sum(), slope, rtol=1e-5, atol=1e-7, msg=name)
    assert not torch.allclose(loss, model.eval()(tokens, targets=tokens))


# ---- what is not kept ----


def saved_by(run):
    """The tensors that a forward pass keeps for the backward pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        run()
    return kept


@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16])
def test_a_layer_keeps_no_copy_of_its_weight_and_nothing_for_its_gradient(base_dtype):
    linear = nn.Linear(64, 96)
    layer = LoRALinear(linear, LayerAdapter(torch.randn(4, 64), torch.randn(96, 4), 0.5), dropout=0.1)
    layer.requires_grad_(False)
    layer.lora_A.requires_grad_()
    layer.lora_B.requires_grad_()
    layer.weight.data = layer.weight.data.to(base_dtype)
    x = torch.randn(50, 64, requires_grad=True)
    kept = saved_by(lambda: layer(x))
    own = {t.data_ptr() for t in (layer.weight, layer.lora_A, layer.lora_B)}
    others = [t for t in kept if t.data_ptr() not in own]
    assert all(t.numel() <= 50 * 64 for t in others)
    assert sum(t.numel() for t in {t.data_ptr(): t for t in others}.values()) == 50 * 64 + 50 * 4  # dropped x, and A·x
    assert layer(x).dtype == torch.float32


def test_a_base_in_bfloat16_computes_with_rounded_weights_and_exact_gradients():
    linear = nn.Linear(16, 24)
    rounded = copy.deepcopy(linear)
    rounded.weight.data = rounded.weight.data.bfloat16().float()
    adapter = LayerAdapter(torch.randn(4, 16), torch.randn(24, 4), 0.5)
    results = []
    for base, kind in ((linear, torch.bfloat16), (rounded, torch.float32)):
        layer = LoRALinear(base, adapter).requires_grad_(False)
        layer.weight.data = layer.weight.data.to(kind)
        x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        results.append((y, x.grad))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


class Made(TorchDispatchMode):
    """Notes the shapes of all tensors that operations make."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not any(result is a for a in args):
            given = {a.data_ptr() for a in args if isinstance(a, torch.Tensor)}
            if result.data_ptr() not in given:
                self.shapes.add(tuple(result.shape))
        return result


@pytest.mark.parametrize("cap", [0.0, 3.0])
def test_a_frozen_head_has_no_gradient_and_no_memory_for_one(cap, monkeypatch):
    monkeypatch.setattr(head, "chunk_rows", lambda *_: 8)
    targets = ids(30)
    gradients = []
    for frozen in (False, True):
        torch.manual_seed(0)
        hidden, weight = torch.randn(30, 16, requires_grad=True), torch.randn(257, 16, requires_grad=not frozen)
        with Made() as made:
            head.next_token_loss(hidden, weight, targets, cap).backward()
        gradients.append(hidden.grad)
        assert ((257, 16) in made.shapes) is not frozen
        assert (weight.grad is None) is frozen
    assert torch.equal(*gradients)


def test_only_adapters_have_optimizer_state_and_a_part_in_the_norm():
    model = adapted(variant("gpt2")).train()
    optimizer = Optimizer(model, OptimizerConfig(weight_decay=0.0))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model(ids(2, 9), targets=ids(2, 9)).backward()
    expected = math.sqrt(sum(float(p.grad.square().sum()) for n, p in model.named_parameters() if "lora_" in n))
    assert unscale_gradients(model, 1.0) == pytest.approx(expected)
    optimizer.step()
    assert {entry.rpartition("/")[0] for entry in optimizer.state_dict()} == {n for n in before if "lora_" in n}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is ("lora_" not in name), name


# ---- other ways to run it ----


@pytest.mark.skipif(not can_prepack(GPT(SHAPE)), reason="this torch has no oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_prepacked_it_is_what_its_merged_weights_are(dtype):
    model, merged = adapted(variant("modern")), adapted(variant("modern"))
    torch.manual_seed(0)
    merged.load_state_dict(model.state_dict())
    whole = model(ids(1, 9))
    merge(merged)
    for each in (model, merged):
        prepack(each, dtype)
    with torch.inference_mode():
        assert torch.equal(model(ids(1, 9)), merged(ids(1, 9)))
        if dtype == torch.float32:
            torch.testing.assert_close(model(ids(1, 9)), whole, rtol=1e-4, atol=1e-4)
    assert keeps_bits(model) == keeps_bits(merged)


def test_the_engine_continues_alike_merged_and_compiled_and_not(dynamo):
    model = adapted(variant("gpt2"))
    model.requires_grad_(False)
    merged = copy.deepcopy(model)
    merge(merged)
    results = []
    for each, compiled in ((model, False), (merged, False), (model, True)):
        engine = Engine(each, max_batch=2, compiled=compiled)
        requests = [engine.submit([1, 2, 3 + i], SamplingConfig(max_tokens=8, temperature=0)) for i in range(2)]
        list(engine.run())
        results.append([request.output_ids for request in requests])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("base_dtype", [None, torch.bfloat16])
def test_autocast_computes_near_what_float32_does(base_dtype):
    model = adapted(variant("gpt2"), base_dtype=base_dtype).train()
    tokens = ids(2, 12)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(tokens, targets=tokens)
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
        assert gradients[-1].dtype == torch.float32
    assert F.cosine_similarity(*gradients, dim=0) > 0.98


# ---- what is refused ----


def test_targets_that_name_nothing_are_refused_with_those_there_are():
    for targets, message in (
        (
            ("attention.qvk",),
            r"`lora.targets` attention.qvk: .*did you mean 'attention.qkv'.*There are: attention.qkv, .*",
        ),
        ((), "`lora.targets` names no layer; there are: attention.qkv, attention.out_proj, mlp.fc_in, mlp.fc_out"),
        (("lm_head",), "names no linear layer of a block"),
    ):
        with pytest.raises(InputError, match=message):
            new_adapter(variant("untied"), LoRAConfig(rank=2, targets=targets))


def test_an_adapter_of_another_model_or_upon_another_is_refused():
    a, b = torch.zeros(2, 32), torch.zeros(96, 2)
    for name, layer, message in (
        ("blocks.7.attention.qkv", LayerAdapter(a, b, 1.0), "the model has none of that name"),
        (
            "blocks.0.attention.qkv",
            LayerAdapter(a[:, :9], b, 1.0),
            "maps 9 numbers to 96, and the model's layer 32 to 96",
        ),
        ("blocks.0.attention.qkv", LayerAdapter(a, b[:5], 1.0), "to 5, and .*another model"),
    ):
        model = variant("gpt2")
        with pytest.raises(InputError, match=message):
            add_adapter(model, Adapter({name: layer}))
        assert adapter_of(model) is None and all(p.requires_grad for p in model.parameters())
    with pytest.raises(InputError, match="has an adapter already"):
        adapted(adapted(variant("gpt2")))
    with pytest.raises(InputError, match="an adapter has lora_A for x, where it has lora_A and lora_B"):
        Adapter.of({"x.lora_A": a}, 1.0)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="`lora.rank` 8: adapters are for trained weights: .*`init_from`"):
        TrainConfig(lora=LoRAConfig(rank=8))
    with pytest.raises(InputError, match="`lora.rank` is 0, so that no other setting of lora has a meaning"):
        TrainConfig(lora=LoRAConfig(alpha=64), init_from="x")
    with pytest.raises(InputError, match=r"`lora.rank` 100,000: is above `model.n_embd` 768"):
        TrainConfig(lora=LoRAConfig(rank=100_000), init_from="x")
    with pytest.raises(InputError, match="`optimizer.name` muon: is not for adapters.*adamw"):
        TrainConfig(lora=LoRAConfig(rank=8), init_from="x", optimizer=OptimizerConfig(name="muon"))
    for name, value, message in (
        ("rank", -1, r"`lora.rank` is -1; it must be at least 0 \(0 trains all"),
        ("alpha", 0.0, "`lora.alpha` is 0.0; it must be above 0"),
        ("dropout", 1.0, "`lora.dropout` is 1.0; it must be at least 0 and below 1"),
    ):
        with pytest.raises(InputError, match=message):
            replace(LoRAConfig(), **{name: value})
