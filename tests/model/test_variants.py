"""A variant is an entry of a table: each is added here at runtime, and nothing else of the package knows it."""

import copy
import math
import typing
from dataclasses import replace

import pytest
import torch
from helpers import SHAPE, VARIANTS
from torch import nn
from torch.nn import functional as F

from gpt import GPT, Engine, InputError, ModelConfig, SamplingConfig
from gpt.config_io import overlay
from gpt.interop.huggingface_export import export
from gpt.model import config as config_module
from gpt.model.attention import MIXERS
from gpt.model.cache import KVBlock, KVCache, RaggedBatch, StaticCache
from gpt.model.layers import ACTIVATIONS, NORMS
from gpt.model.positions import POSITIONS, PositionHooks
from gpt.model.prepack import PrepackedActivation, can_prepack, prepack


class ALiBi(PositionHooks, nn.Module):
    """A head's own penalty on distance, added to its scores (Press et al. 2022): m = 2^(−8h/H) for h from 1 to H."""

    def __init__(self, n_embd, n_head, context_length):
        super().__init__()
        self.slopes = 2.0 ** (-8 * torch.arange(1, n_head + 1, dtype=torch.float64) / n_head)

    def on_scores(self, queries, keys):
        distance = queries.unsqueeze(-1) - keys  # (..., T, S)
        return -self.slopes[:, None, None] * self.penalty(distance.unsqueeze(-3))

    def penalty(self, distance):
        return distance


class Kerple(ALiBi):
    """The same with a logarithm, so that a wrong position does not only shift all scores (Chi et al. 2022)."""

    def penalty(self, distance):
        return distance.double().log1p()


SCHEMES = {"alibi": (ALiBi, lambda distance: distance), "kerple": (Kerple, torch.log1p)}


class RunningMean(nn.Module):
    """Each position gets the mean of the values so far: a mixer without scores."""

    def __init__(self, layer, n_embd, n_head, n_kv_head, bias, dropout, qk_norm, eps, sliding_window, scale):
        super().__init__()
        self.value, self.out_proj = (nn.Linear(n_embd, n_embd, bias=bias) for _ in range(2))

    def forward(self, x, positions, where, cache=None):
        assert cache is None
        steps = torch.arange(1, x.size(1) + 1).unsqueeze(1)
        return self.out_proj(self.value(x).cumsum(dim=1) / steps)

    def muon_parameters(self):
        for linear in (self.value, self.out_proj):
            yield linear.weight, [linear.out_features]


def scale_norm(n_embd, eps, bias):
    """Without any weight."""
    return nn.LayerNorm(n_embd, eps=eps, elementwise_affine=False)


def silu(x):
    return x * x.sigmoid()


NEW = {
    "positions": (POSITIONS, "alibi", ALiBi),
    "normalization": (NORMS, "scale", scale_norm),
    "activation": (ACTIVATIONS, "silu", silu),
    "mixer": (MIXERS, "mean", RunningMean),
}


@pytest.fixture
def added(monkeypatch):
    """Enters a new variant of a setting in its table; gives the change of a config that chooses it."""

    def add(setting):
        table, name, variant = NEW[setting]
        monkeypatch.setitem(table, name, variant)
        return {setting: name}

    return add


def large(config):
    """A model with large random weights, so that mistakes show; in float64, so that rounding decides nothing."""
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.double()


def random_ids(*shape):
    return torch.randint(257, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("recompute", ["none", "activations", "blocks"])
@pytest.mark.parametrize("setting", NEW)
def test_a_new_variant_trains(added, setting, recompute):
    """A step lowers the loss, has a gradient for every weight, and the same one whatever is recomputed."""
    config = replace(SHAPE, **added(setting))
    gradients, ids = [], random_ids(4, 48)
    for what in ("none", recompute):
        torch.manual_seed(0)
        model = GPT(config).train()
        model.set_recompute(what)
        loss = model(ids, targets=ids)
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(one.abs().max() > 0 and one.equal(two) for one, two in zip(*gradients, strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    optimizer.step()
    assert model(ids, targets=ids) < loss
    assert {id(weight) for weight, _ in model.muon_parameters()} == {
        id(module.weight) for module in model.blocks.modules() if isinstance(module, nn.Linear)
    }


@pytest.mark.parametrize("setting", sorted(NEW.keys() - {"mixer"}))
def test_a_new_variant_generates_prepacked_as_well(added, setting):
    """Ids with the log-probabilities of a full pass."""
    model = large(replace(SHAPE, **added(setting)))
    models = [model]
    if setting != "positions":  # ours is in float64
        models.append(copy.deepcopy(model).float())
        assert can_prepack(models[1])
        prepack(models[1])
        assert all(isinstance(block.mlp.activate, PrepackedActivation) for block in models[1].blocks)
    for some, tolerance in zip(models, (1e-5, 1e-3), strict=False):
        engine = Engine(some, max_batch=2)
        requests = [engine.submit([5, 17, i], SamplingConfig(max_tokens=20, seed=1), i, 1) for i in range(3)]
        tokens = list(engine.run())
        for request in requests:
            ids = torch.tensor([request.prompt + request.output_ids])
            logprobs = model(ids).log_softmax(dim=-1)[0, 2:-1].gather(1, ids[0, 3:, None])[:, 0]
            drawn = torch.tensor([token.logprob for token in tokens if token.request is request], dtype=torch.float64)
            torch.testing.assert_close(drawn, logprobs, rtol=0, atol=tolerance)


def test_a_new_activation_is_computed_as_it_says(added):
    mlp = GPT(replace(SHAPE, **added("activation"))).blocks[0].mlp
    x = torch.randn(2, 3, 32)
    torch.testing.assert_close(mlp(x), mlp.fc_out(F.silu(mlp.fc_in(x))))


@pytest.mark.parametrize("setting", NEW)
def test_a_new_variant_is_refused_where_it_is_not_known(added, setting, bpe, tmp_path):
    with pytest.raises(InputError, match=f"`model.{setting}` is '{NEW[setting][1]}'; it must be"):
        replace(SHAPE, **{setting: NEW[setting][1]})
    model = GPT(replace(SHAPE, **added(setting)))
    with pytest.raises(InputError, match=f"which has model.{setting} {NEW[setting][1]};"):
        export(model, bpe, tmp_path / "export")


@pytest.mark.parametrize("setting", config_module.TABLES)
def test_a_setting_has_the_choices_of_its_table(setting):
    """Those that --help shows and a TOML file may have."""
    hints = typing.get_type_hints(ModelConfig)
    assert typing.get_args(hints[setting]) == tuple(config_module.TABLES[setting])
    with pytest.raises(InputError, match=f"it must be '{next(iter(config_module.TABLES[setting]))}'"):
        overlay(ModelConfig(), {setting: "typo"}, "f")


# ---- a bias on scores ----


def biased_by_formula(model, ids, penalty):
    """Logits of ids (B, T): the model's own layers, but attention written out with loops."""
    config, T = model.config, ids.size(1)
    H, K, D = config.n_head, config.n_kv_head or config.n_head, config.head_dim
    x = model.token_embedding(ids)
    for layer, block in enumerate(model.blocks):
        query, key, value = block.attention.qkv(block.attention_norm(x)).split([H * D, K * D, K * D], dim=-1)
        window = config.window_of(layer) or T
        y = torch.zeros_like(x)
        for h in range(H):
            own, shared = slice(h * D, (h + 1) * D), slice(h * K // H * D, (h * K // H + 1) * D)
            slope = 2 ** (-8 * (h + 1) / H)
            for t in range(T):
                seen = range(max(0, t + 1 - window), t + 1)
                products = torch.stack([(query[:, t, own] * key[:, s, shared]).sum(dim=1) for s in seen])  # (S, B)
                distances = t - torch.tensor(seen, dtype=x.dtype).unsqueeze(1)
                weights = (products / math.sqrt(D) - slope * penalty(distances)).softmax(dim=0).unsqueeze(2)
                y[:, t, own] = sum(weight * value[:, s, shared] for weight, s in zip(weights, seen, strict=True))
        x = x + block.attention.out_proj(y)
        x = x + block.mlp(block.mlp_norm(x))
    return model.head(model.final_norm(x))


SHARED, WINDOW = VARIANTS["shared"], VARIANTS["window"]
BIASED = {"plain": {}, "shared": SHARED, "window": WINDOW, "both": SHARED | WINDOW}


@pytest.fixture(params=BIASED)
def shape(request):
    return replace(SHAPE, **BIASED[request.param])


@pytest.fixture(params=SCHEMES)
def biased(request, shape, monkeypatch):
    """A model, ids (3, 16), and their logits by the formula."""
    scheme, penalty = SCHEMES[request.param]
    monkeypatch.setitem(POSITIONS, request.param, scheme)
    model, ids = large(replace(shape, positions=request.param)), random_ids(3, 16)
    with torch.no_grad():
        return model, ids, biased_by_formula(model, ids, penalty)


def test_a_bias_on_scores_is_the_formula_in_a_full_pass(biased):
    model, ids, expected = biased
    for training in (False, True):
        torch.testing.assert_close(model.train(training)(ids), expected, rtol=0, atol=1e-9)


@torch.no_grad()
def test_a_bias_on_scores_is_the_formula_with_each_cache(biased):
    """One sequence in pieces, three of which two are neighbors of one length, and slots of which one is unused."""
    model, ids, expected = biased
    cache = KVCache(KVBlock(model.config, dtype=model.dtype))
    pieces = [model(ids[:1, :5], cache), model(ids[:1, 5:12], cache)]
    pieces += [model(ids[:1, t : t + 1], cache) for t in range(12, 16)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected[:1], rtol=0, atol=1e-9)
    block, lengths = KVBlock(model.config, dtype=model.dtype, sequences=3), [9, 9, 2]
    caches, slots = [KVCache(block, i) for i in range(3)], StaticCache(model.config, 4, "cpu", model.dtype)
    places = [0, 2, 3]
    for row, cache, place, length in zip(ids, caches, places, lengths, strict=True):
        model(row[None, :length], cache)
        model(row[None, :length], slots.slot(place))
    for step in range(7):
        at = [length + step for length in lengths]
        newest = ids[range(3), at, None]
        right = expected[range(3), at]
        torch.testing.assert_close(model(newest, RaggedBatch(caches), last=True), right, rtol=0, atol=1e-9)
        slots.begin_step(dict(zip(places, at, strict=True)))
        padded = torch.zeros(4, 1, dtype=torch.int64)
        padded[places] = newest
        torch.testing.assert_close(model(padded, slots, last=True)[places], right, rtol=0, atol=1e-9)
