"""What is rounded and what is not, and that torch's setting is left as it was."""

import platform

import pytest
import torch
from processes import Script
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gpt import GPT, ModelConfig
from gpt import products as module
from gpt.errors import InputError
from gpt.model.attention import Segment, attend
from gpt.products import onednn_products, require_rounding


def products():
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.mark.parametrize("before", ["none", "ieee", "bf16"])
def test_a_callers_setting_comes_back(before):
    torch.backends.mkldnn.matmul.fp32_precision = before
    of_cuda = torch.backends.cuda.matmul.fp32_precision
    try:
        with pytest.raises(ZeroDivisionError), onednn_products():
            assert (products(), torch.backends.cuda.matmul.fp32_precision) == ("bf16", of_cuda)
            raise ZeroDivisionError
        assert products() == before
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"


def rounded(x):
    return x.detach().bfloat16().float()


def test_rounded_products_are_those_of_rounded_matrices_and_added_up_in_float32(rounds):
    """Forward and backward, by hand; the same numbers without rounding are two thousandths apart."""
    x, weight = torch.randn(256, 128, requires_grad=True), torch.randn(96, 128, requires_grad=True)
    bias, gradient = torch.randn(96, requires_grad=True), torch.randn(256, 96)
    before = F.linear(x, weight)
    with onednn_products():
        y = F.linear(x, weight, bias)
        y.backward(gradient)
    assert {t.dtype for t in (y, x.grad, weight.grad, bias.grad)} == {torch.float32}
    for found, a, b, added in (
        (y, x, weight.T, bias.detach()),
        (x.grad, gradient, weight, 0.0),
        (weight.grad, gradient.T, x, 0.0),
    ):
        torch.testing.assert_close(found.detach(), rounded(a) @ rounded(b) + added, rtol=1e-5, atol=1e-4)
        assert not torch.allclose(found, a.detach() @ b.detach() + added, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(bias.grad, gradient.sum(0))
    assert F.linear(x, weight).equal(before)
    torch.testing.assert_close(before.double(), x.double() @ weight.double().T, rtol=0, atol=128 * 2**-24 * 16)


def test_products_that_are_not_rounded_have_the_error_of_float32():
    """Forward and backward, of some shapes; of what is added up, at most so many units of its last place."""
    if module.rounds():
        pytest.skip("this processor's oneDNN rounds float32 as it multiplies")
    for rows, inputs, outputs in ((1, 96, 64), (33, 128, 300), (256, 512, 96)):
        x, weight, gradient = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
        leaves = [part.clone().requires_grad_() for part in (x, weight)]
        with onednn_products():
            y = F.linear(*leaves)
            y.backward(gradient)
        for found, a, b in ((y, x, weight.T), (leaves[0].grad, gradient, weight), (leaves[1].grad, gradient.T, x)):
            error = (found.detach().double() - a.double() @ b.double()).abs()
            assert (error <= 16 * 2**-24 * (a.abs().double() @ b.abs().double())).all()


def attention(query, key, value, dropout):
    torch.manual_seed(1)
    return attend(query, [Segment(key, value)], dropout=dropout)


def recomputed(*given):
    return checkpoint(attention, *given, use_reentrant=False)


@pytest.mark.parametrize("way", [attention, recomputed])
@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=["fused", "plain products"])
def test_attention_is_not_rounded_in_either_pass_and_what_is_around_it_is(rounds, way, dropout):
    """To the last bit, as it is without; its gradient comes from a layer behind it and goes to one before it."""

    def passes(context):
        torch.manual_seed(0)
        x, before = torch.randn(128, 64, requires_grad=True), torch.randn(192, 64, requires_grad=True)
        parts = [torch.randn(2, 2, 64, 32, requires_grad=True) for _ in range(3)]
        with context:
            output = way(*parts, dropout)
            output.backward(torch.ones_like(output))
            F.linear(x, before).backward(torch.randn(128, 192))
        return [output.detach(), *(part.grad for part in parts)], before.grad

    exact, layer = passes(torch.enable_grad())
    found, moved = passes(onednn_products())
    assert all(torch.equal(*pair) for pair in zip(exact, found, strict=True))
    assert not torch.allclose(layer, moved, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("way", [attention, recomputed])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_in_the_backward_pass_the_layers_before_attention_and_behind_it_are_rounded(way, dropout):
    """The setting, as each layer's gradient is computed; also where only some of attention's inputs have one."""
    x, weight, seen = torch.randn(2, 2, 16, 8), torch.randn(8, 8, requires_grad=True), []

    def noted(gradient):
        seen.append(products())

    for frozen in (False, True):
        seen.clear()
        with onednn_products():
            query, after = x @ weight, x if frozen else x @ weight
            query.register_hook(noted)
            output = way(query, after, x, dropout)
            (output @ weight).sum().backward()
            seen.append(products())
        assert seen == ["bf16", "bf16"]
    assert products() != "bf16"


def test_attention_is_left_to_mkl_in_both_passes_and_where_it_is_computed_again(monkeypatch):
    config = ModelConfig(n_layer=2, n_head=2, n_embd=64, context_length=32, vocab_size=64)
    fused, seen = F.scaled_dot_product_attention, []

    def noted(*given, **named):
        output = fused(*given, **named)
        seen.append(("forward", products()))
        if output.requires_grad:
            output.register_hook(lambda _: seen.append(("backward", products())))
        return output

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    ids = torch.arange(4 * 32).view(4, 32) % 61
    for recompute, times in (("none", 2), ("blocks", 4)):
        seen.clear()
        model = GPT(config)
        model.set_recompute(recompute)
        with onednn_products():
            model(ids, targets=ids).backward()
        assert sorted(seen) == [("backward", "ieee")] * 2 + [("forward", "ieee")] * times


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_is_computed_again_has_the_same_bits(dropout, masked):
    """Attention, too: torch takes modes away where a backward pass begins, so that the setting itself is asked."""
    config = ModelConfig(n_layer=2, n_head=2, n_embd=64, context_length=32, vocab_size=64, dropout=dropout)
    ids = torch.arange(4 * 32).view(4, 32) % 61
    documents = (torch.arange(32) // 20).expand(4, -1) if masked else None
    found = []
    for recompute in ("none", "activations", "blocks"):
        torch.manual_seed(0)
        model = GPT(config)
        model.set_recompute(recompute)
        with onednn_products():
            model(ids, targets=ids, documents=documents).backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for others in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], others, strict=True))


def test_threads_that_leave_in_any_order_leave_torchs_setting_as_it_was():
    before, first, second = products(), onednn_products(), onednn_products()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert products() == "bf16"
    second.__exit__(None, None, None)
    assert products() == before


def test_a_backward_pass_outside_leaves_torchs_setting_as_it_was():
    before, parts = products(), [torch.randn(2, 2, 16, 8, requires_grad=True) for _ in range(3)]
    with onednn_products():
        output = attention(*parts, 0.0)
    output.sum().backward()
    assert products() == before
    with onednn_products(), torch.no_grad():
        assert attention(*parts, 0.0).grad_fn is None


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_rounded_products_are_for_a_cpu(as_if_it_rounds, device):
    with pytest.raises(InputError, match=f"`float32_matmul_precision` medium: is for a CPU, and this is {device}: use"):
        require_rounding(device)


def test_a_processor_that_would_not_round_is_refused(monkeypatch):
    monkeypatch.setattr(module, "rounds", lambda: False)
    with pytest.raises(InputError, match="`float32_matmul_precision` medium: would change nothing here; .* highest$"):
        require_rounding("cpu")


@pytest.mark.process
@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN's limit is of x86 processors")
@pytest.mark.parametrize("limit", ["AVX2", "AVX512_CORE", "AVX512_CORE_BF16"])
def test_a_processor_that_would_not_round_is_found_out(tmp_path, limit):
    """torch itself says that two of these three have bfloat16."""
    program = tmp_path / "asks.py"
    program.write_text("from gpt import products\nassert not products.rounds()\nprint('asked')\n", encoding="utf-8")
    asked = Script(program, cwd=tmp_path, ONEDNN_MAX_CPU_ISA=limit)
    assert asked.end() == 0, asked.said()
    assert asked.said() == "asked\n"
