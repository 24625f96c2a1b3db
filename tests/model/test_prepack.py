import copy
import os
import subprocess
import sys
from unittest import mock

import pytest
import torch
from helpers import VARIANTS, variant

from gpt import Engine, InputError, SamplingConfig
from gpt.model import prepack as prepacking
from gpt.model.cache import KVBlock, KVCache, RaggedBatch
from gpt.model.prepack import Float16Linear, Int8Linear, PrepackedLinear, can_prepack, prepack

fbgemm = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="float16 and int8 need an x86 processor"
)
onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
LAYERS = [
    pytest.param(PrepackedLinear, marks=onednn),
    pytest.param(Float16Linear, marks=fbgemm),
    pytest.param(Int8Linear, marks=fbgemm),
]
ROUNDED = [pytest.param(dtype, marks=fbgemm) for dtype in (torch.float16, torch.int8)]
TYPES = [pytest.param(torch.float32, marks=onednn), *ROUNDED]
SIZES = [(48, 24), (96, 257), (768, 100), (33, 7)]  # inputs and outputs


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def matrices(inputs, outputs, rows=64):
    generator = torch.Generator().manual_seed(inputs)
    x, weight, bias = (
        torch.randn(*shape, generator=generator) for shape in ((rows, inputs), (outputs, inputs), (outputs,))
    )
    x[3] *= 1000  # each row has its own scale
    x[4, 5] = 500
    return x, weight, bias


def prepacked(model, dtype):
    model = copy.deepcopy(model)
    prepack(model, dtype)
    return model


def relative_error(actual, expected):
    """Of each row, by the size of what is expected there; the worst."""
    return ((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


@onednn
@pytest.mark.parametrize("size", SIZES)
def test_float32_is_that_of_a_linear_layer(size):
    x, weight, bias = matrices(*size)
    exact = x.double() @ weight.double().t()
    assert relative_error(PrepackedLinear(weight, None)(x), exact) < 1e-6
    assert relative_error(PrepackedLinear(weight, bias)(x.view(4, 16, -1)).flatten(0, 1), exact + bias) < 1e-6


@fbgemm
@pytest.mark.parametrize("scale", [1.0, 1e-5])  # most of which have fewer bits in float16
@pytest.mark.parametrize("size", SIZES)
def test_float16_is_that_of_rounded_weights(size, scale):
    x, weight, bias = matrices(*size)
    exact = x.double() @ (weight * scale).half().double().t()
    assert relative_error(Float16Linear(weight * scale, None)(x), exact) < 1e-6
    found = Float16Linear(weight * scale, bias)(x.view(4, 16, -1)).flatten(0, 1)
    assert relative_error(found, exact + bias) < 1e-6
    assert relative_error(exact, x.double() @ (weight.double() * scale).t()) < (1e-3 if scale == 1 else 0.02)


@fbgemm
def test_float16_does_not_hide_what_is_not_finite():
    broken = torch.randn(3, 16)
    broken[1, 4] = torch.nan
    assert Float16Linear(torch.randn(8, 16), None)(broken).isfinite().all(dim=1).tolist() == [True, False, True]


@fbgemm
@pytest.mark.parametrize(
    ("value", "said"), [(65504.0, ""), (-65504.0, ""), (65510.0, "65,510"), (-1e6, "1,000,000"), (torch.nan, "nan")]
)
def test_float16_refuses_what_is_out_of_its_range(value, said):
    weight = torch.randn(8, 16)
    weight[3, 5] = value
    if not said:
        torch.testing.assert_close(Float16Linear(weight, None)(torch.eye(16)), weight.half().float().t())
        return
    with pytest.raises(InputError, match=f"`dtype` float16: the weights go up to {said}, and its numbers to 65,504"):
        Float16Linear(weight, None)


@pytest.fixture(params=[1, 2])
def rows_of_integers(request, monkeypatch):
    """As how many rows of integers an int8 layer takes each of its activations."""
    if request.param == 2:
        monkeypatch.setattr(prepacking, "overflows", lambda: True)
        monkeypatch.setattr(Int8Linear, "found", {})  # of one row
    elif prepacking.overflows():
        pytest.skip("this processor has no AVX-512 VNNI, or FBGEMM is told to do without")
    return request.param


def rounded_by_row(x, weight):
    """Round each row of activations to 256 levels from its lowest to its highest, and weights by output; float64."""
    lowest = x.double().amin(dim=1, keepdim=True)
    step = (x.double().amax(dim=1, keepdim=True) - lowest) / 255
    scale = weight.double().abs().amax(dim=1, keepdim=True) / 127
    weights = (weight / scale).round() * scale
    return (((x - lowest) / step).round() * step + lowest) @ weights.t(), x.double() @ weights.t()


@fbgemm
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("size", SIZES)
def test_int8_is_that_of_rounded_weights(size, rows_of_integers):
    """With 14 bits, what activations lose is far below what weights do."""
    x, weight, bias = matrices(*size)
    rounded, unrounded = rounded_by_row(x, weight)
    exact, near = (rounded, 1e-3) if rows_of_integers == 1 else (unrounded, 2e-3)
    assert relative_error(Int8Linear(weight, None)(x), exact) < near
    assert relative_error(Int8Linear(weight, bias)(x.view(4, 16, -1)).flatten(0, 1), exact + bias) < near
    assert relative_error(unrounded, x.double() @ weight.double().t()) < 0.02
    assert relative_error(rounded[5:], unrounded[5:]) < 0.02  # of rows in which no number sticks out


@fbgemm
def test_int8_does_not_overflow_where_all_is_as_large_as_can_be(rows_of_integers):
    """A processor without VNNI adds products of two in 16 bits."""
    for sign in (1.0, -1.0):
        layer = Int8Linear(torch.full((40, 3072), sign), None)
        torch.testing.assert_close(
            layer(torch.full((5, 3072), 7.0)), torch.full((5, 40), sign * 7 * 3072), rtol=1e-5, atol=0
        )
        ends = torch.full((5, 3072), 7.0)
        ends[:, ::2] = -1.0  # each pair has the largest level, and the lowest
        ends[:, :64] = 7.0
        torch.testing.assert_close(layer(ends), sign * ends.sum(dim=1, keepdim=True).expand(5, 40), rtol=1e-5, atol=0)


@fbgemm
@pytest.mark.process
def test_the_overflow_is_found_where_fbgemm_does_without_vnni():
    program = "from gpt.model.prepack import overflows; print(overflows())"
    limit = {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"}
    found = subprocess.run([sys.executable, "-c", program], env=os.environ | limit, capture_output=True, check=True)
    assert found.stdout.split() == [b"True"]


@fbgemm
@pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_vnni") or "FBGEMM_ENABLE_INSTRUCTIONS" in os.environ,
    reason="this processor has no AVX-512 VNNI, or FBGEMM is told to do without",
)
def test_nothing_overflows_with_vnni():
    assert not prepacking.overflows()


@fbgemm
@pytest.mark.usefixtures("rows_of_integers")
def test_int8_knows_zeros_and_does_not_hide_what_is_not_finite():
    weight, bias = torch.randn(8, 16), torch.randn(8)
    weight[2] = 0
    layer = Int8Linear(weight, bias)
    assert torch.equal(layer(torch.zeros(3, 16)), bias.expand(3, 8))
    assert layer(torch.randn(3, 16))[:, 2].equal(bias[2].expand(3))
    broken = torch.randn(3, 16)
    broken[1, 4] = torch.nan
    assert layer(broken).isfinite().all(dim=1).tolist() == [True, False, True]


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("size", [*SIZES, (768, 2304), (3072, 768), (768, 5000)])
def test_a_row_is_the_same_bit_for_bit_in_any_company(kind, size):
    check_company(kind, size)


@fbgemm
@pytest.mark.usefixtures("several_threads", "rows_of_integers")
@pytest.mark.parametrize("size", [(96, 257), (768, 2304)])
def test_so_is_one_of_either_way_to_integers(size):
    check_company(Int8Linear, size)


def check_company(kind, size):
    x, weight, bias = matrices(*size, rows=600)
    layer = kind(weight, bias)
    together = layer(x)
    for rows in (1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 128, 512):
        assert torch.equal(layer(x[:rows]), together[:rows])
        assert torch.equal(layer(x[600 - rows :]), together[600 - rows :])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_packed_model_has_the_logits_of_the_plain_full_pass(name, dtype):
    """Whole, in pieces through a cache, and in rows of different lengths.

    float32 within 1e-4 of the largest logit, float16 within 1e-3, int8 within a tenth of the logits' deviation.
    """
    model, ids = variant(name), torch.randint(257, (3, 48), generator=torch.Generator().manual_seed(1))
    small, plain = prepacked(model, dtype), model(ids)
    near = {torch.float32: 1e-4, torch.float16: 1e-3}.get(dtype, 0.1) * plain.std()
    assert (small(ids) - plain).square().mean(dim=-1).sqrt().max() < near
    caches, lengths = [KVCache(KVBlock(model.config)) for _ in range(3)], (1, 20, 33)
    for row, cache, length in zip(ids, caches, lengths, strict=True):
        small(row[None, :length], cache)
    for step in range(10):
        newest = torch.stack([row[length + step] for row, length in zip(ids, lengths, strict=True)])
        logits = small(newest[:, None], RaggedBatch(caches), last=True)
        expected = torch.stack([row[length + step] for row, length in zip(plain, lengths, strict=True)])
        assert (logits - expected).square().mean(dim=-1).sqrt().max() < near


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["gpt2", "modern"])
def test_a_packed_model_draws_the_same_at_any_batch_size_to_the_last_bit(name, dtype):
    model = prepacked(variant(name), dtype)
    prompts = [[5, 17, 200, 3], [9], [7, 8, 9, 10], list(range(30)), [40, 41], [5, 17, 200, 3]]
    sampling = SamplingConfig(max_tokens=21, seed=5)  # the longest goes beyond the context
    drawn = []
    for batch, order in [(1, range(6)), (16, range(6)), (3, [4, 2, 0, 5, 3, 1]), (5, [5, 4, 3, 2, 1, 0])]:
        engine = Engine(model, batch)
        requests = {engine.submit(prompts[j], sampling, j, top_logprobs=1): j for j in order}
        found = [[] for _ in prompts]
        for token in engine.run():
            found[requests[token.request]].append((token.id, token.logprob, token.top_logprobs))
        drawn.append(found)
    assert all(found == drawn[0] for found in drawn)


@onednn
def test_packing_twice_leaves_it_and_the_head_stays_tied():
    model = variant("gpt2")
    once = prepacked(model, torch.float32)
    assert once.token_embedding.weight.equal(model.token_embedding.weight)
    assert isinstance(once.lm_head, PrepackedLinear)
    prepack(once)
    assert (once(torch.tensor([[1, 2]])) - model(torch.tensor([[1, 2]]))).abs().max() < 1e-4
    assert can_prepack(model)
    assert not can_prepack(model.double())


@pytest.mark.parametrize("name", ["float16", "int8"])
def test_without_fbgemm_rounded_weights_are_refused(name, monkeypatch):
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["qnnpack"])
    with pytest.raises(InputError, match=rf"`dtype` {name}: needs an x86 processor"):
        prepack(variant("gpt2"), getattr(torch, name))


@fbgemm
def test_packing_that_fails_leaves_torchs_engine_as_it_was(monkeypatch):
    monkeypatch.setattr(PrepackedLinear, "__init__", mock.Mock(side_effect=MemoryError))
    engine = next(name for name in torch.backends.quantized.supported_engines if name not in ("none", "fbgemm"))
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    with pytest.raises(MemoryError):
        prepack(variant("gpt2"))
    assert torch.backends.quantized.engine == engine
