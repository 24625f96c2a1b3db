import math
import platform
import weakref

import pytest
import torch
from processes import run_script
from torch.nn import functional as F

from gpt import InputError
from gpt.choices import IGNORE_INDEX
from gpt.device import autocast
from gpt.model import loss as head
from gpt.model.loss import next_token_loss, next_token_losses, require_finite, softcap, token_logprobs


@pytest.fixture(params=["plain", "in chunks"])
def case(request, monkeypatch):
    """Hidden states (3, 50, 16), a head for 97 ids, and targets, some of which do not count."""
    monkeypatch.setattr(head, "chunk_rows", lambda *_: 1000 if request.param == "plain" else 16)
    torch.manual_seed(0)
    hidden, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 50, 16), (97, 16)))
    targets = torch.randint(97, (3, 50))
    targets[0, :7] = targets[2, 33:] = IGNORE_INDEX
    return hidden, weight, targets


def by_formula(hidden, weight, targets, cap):
    """The negative logarithm of the softmax at each target that counts, one by one."""
    total = hidden.new_zeros(())
    for row, target in zip(hidden.flatten(0, 1), targets.flatten().tolist(), strict=True):
        if target != IGNORE_INDEX:
            logits = weight @ row
            logits = cap * torch.tanh(logits / cap) if cap else logits
            total = total - logits[target] + logits.exp().sum().log()
    return total


@pytest.mark.parametrize("cap", [0.0, 5.0])
def test_the_loss_and_its_gradients_are_the_formula(case, cap):
    hidden, weight, _ = case
    expected = by_formula(*case, cap)
    loss = next_token_loss(*case, cap)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    gradients = torch.autograd.grad(loss * 0.3, (hidden, weight))
    for ours, reference in zip(gradients, torch.autograd.grad(expected * 0.3, (hidden, weight)), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("cap", [0.0, 5.0])
def test_compiled_without_a_scatter_the_gradients_have_the_same_bits(case, cap, dynamo, monkeypatch):
    hidden, weight, _ = case
    compiled = torch.compile(lambda *arguments: next_token_loss(*arguments, cap), dynamic=False)
    expected = torch.autograd.grad(next_token_loss(*case, cap), (hidden, weight))
    with monkeypatch.context() as patches:
        patches.setattr(torch.Tensor, "scatter_add_", None)
        found = torch.autograd.grad(compiled(*case), (hidden, weight))
    assert dynamo() >= 1
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("cap", [0.0, 5.0])
def test_the_sums_of_rows_come_after_the_sum_and_change_nothing_of_it(case, cap):
    hidden, weight, targets = case
    targets[1] = IGNORE_INDEX
    alone = next_token_loss(*case, cap)
    found = next_token_loss(*case, cap, by_row=True)
    assert torch.equal(found[0], alone)
    expected = [by_formula(hidden[row : row + 1], weight, targets[row : row + 1], cap).item() for row in range(3)]
    assert found[1:].tolist() == pytest.approx(expected, rel=1e-10)
    assert expected[1] == 0
    for ours, reference in zip(
        *(torch.autograd.grad(loss, (hidden, weight)) for loss in (found[0], alone)), strict=True
    ):
        assert torch.equal(ours, reference)


def test_a_batch_without_targets_has_loss_zero_and_no_nan(case):
    hidden, weight, targets = case
    loss = next_token_loss(hidden, weight, torch.full_like(targets, IGNORE_INDEX))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.eq(0).all()
    assert weight.grad.eq(0).all()


@pytest.mark.parametrize("cap", [0.0, 5.0])
def test_single_losses_add_up_and_are_zero_where_ignored(case, cap):
    hidden, weight, targets = case
    losses = next_token_losses(hidden, lambda part: softcap(F.linear(part, weight), cap), targets, weight.size(0))
    assert losses.shape == targets.shape
    assert losses[targets == IGNORE_INDEX].eq(0).all()
    assert losses.sum().item() == pytest.approx(by_formula(*case, cap).item(), rel=1e-10)
    logits = softcap(F.linear(hidden[1, 4], weight), cap)
    assert losses[1, 4].item() == pytest.approx(-math.log(logits.softmax(0)[targets[1, 4]].item()))


def test_in_bfloat16_the_loss_is_near_and_sums_are_float32(case):
    hidden, weight, targets = (x.detach().float() if x.is_floating_point() else x for x in case)
    hidden.requires_grad_(), weight.requires_grad_()
    with autocast("cpu", torch.bfloat16):
        loss = next_token_loss(hidden, weight, targets)
    loss.backward()
    assert loss.dtype == weight.grad.dtype == hidden.grad.dtype == torch.float32
    expected = by_formula(*case, 0.0)
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    (gradient,) = torch.autograd.grad(expected, case[1])
    assert (weight.grad - gradient).norm() / gradient.norm() < 0.02


def test_the_logits_of_all_positions_are_never_held():
    """One position more than a chunk has: no tensor of the graph or the passes is as large as all logits."""
    largest, size = [0], head.chunk_rows(20_000, "cpu") + 1

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            result = function(*arguments, **(options or {}))
            if isinstance(result, torch.Tensor):
                largest[0] = max(largest[0], result.numel())
            return result

    hidden, weight = torch.randn(2 * size, 8, requires_grad=True), torch.randn(20_000, 8, requires_grad=True)
    with Watch():
        next_token_loss(hidden, weight, torch.randint(20_000, (2 * size,))).backward()
    assert largest[0] == head.chunk_rows(20_000, "cpu") * 20_000


def test_log_probabilities_are_the_models_own():
    logits = 3 * torch.randn(4, 100)
    expected = logits.double().log_softmax(-1)
    own, ids, values = token_logprobs(logits, torch.tensor([3, 5, 0, 99]), 4)
    torch.testing.assert_close(own, torch.stack([expected[0, 3], expected[1, 5], expected[2, 0], expected[3, 99]]))
    torch.testing.assert_close(values, expected.sort(descending=True).values[:, :4])
    assert ids.tolist() == expected.argsort(descending=True)[:, :4].tolist()
    assert token_logprobs(logits, torch.tensor([3, 5, 0, 99]), 1000)[1].shape == (4, 100)


def test_a_tokens_loss_is_its_negative_logprob(case):
    """The one is computed in float32 for training, the other in float64 for whoever reads it."""
    hidden, weight, targets = (tensor.detach() for tensor in case)
    losses = next_token_losses(hidden, lambda part: F.linear(part, weight), targets, len(weight)).flatten()
    counted = targets.flatten() != IGNORE_INDEX
    logits = F.linear(hidden.flatten(0, 1), weight)[counted]
    own, _, _ = token_logprobs(logits, targets.flatten()[counted], 1)
    torch.testing.assert_close(-own, losses[counted])


@pytest.mark.parametrize("row", [[0.0, math.nan], [0.0, math.inf], [-math.inf, -math.inf]])
def test_rows_without_a_finite_largest_logit_are_refused(row):
    logits = torch.tensor([[0.0, 1.0], row])
    for use in (require_finite, lambda logits: token_logprobs(logits, torch.tensor([0, 0]), 1)):
        with pytest.raises(InputError, match="logits are not finite"):
            use(logits)
    require_finite(torch.tensor([[0.0, -math.inf]]))  # what is never drawn


def test_nothing_that_a_chunk_makes_outlives_it(monkeypatch):
    """What stays would split the freed memory that the next chunk is to have; all is there before the first."""
    monkeypatch.setattr(head, "chunk_rows", lambda *_: 8)
    made, alive = [], []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            if function is torch.ops.aten.mm.default and len(arguments[0]) == 8 and arguments[1].size(1) == 97:
                left = [tensor for tensor in (one() for one in made) if tensor is not None]
                alive.append(len({tensor.untyped_storage().data_ptr() for tensor in left}))  # as a chunk begins
            result = function(*arguments, **(options or {}))
            several = result if isinstance(result, (tuple, list)) else [result]
            made.extend(weakref.ref(one) for one in several if isinstance(one, torch.Tensor))
            return result

    hidden, weight = torch.randn(80, 16, requires_grad=True), torch.randn(97, 16, requires_grad=True)
    targets = torch.randint(97, (80,))
    for compute in (next_token_loss, lambda *_: next_token_losses(hidden, lambda x: x @ weight.T, targets, 97)):
        alive.clear()
        with Watch():
            compute(hidden, weight, targets)
        assert len(alive) == 10
        assert len(set(alive[1:])) == 1, alive


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is what keeps freed memory")
def test_many_chunks_take_the_memory_of_two(tmp_path):
    """A process of its own, as what others freed has room. A chunk has 16 MB; 64 of them would have 1 GB."""
    program = tmp_path / "program.py"
    program.write_text("""
import torch
from gpt.memory import retain_freed_memory, used_memory
from gpt.model.loss import next_token_loss, next_token_losses

retain_freed_memory("cpu")
hidden, weight = torch.randn(64 * 256, 128, requires_grad=True), torch.randn(16_000, 128, requires_grad=True)
targets = torch.randint(16_000, (64 * 256,))
next_token_loss(hidden[:512], weight, targets[:512]).backward()
before = used_memory()
next_token_loss(hidden, weight, targets).backward()
next_token_losses(hidden, lambda part: part @ weight.T, targets, 16_000)
print(used_memory() - before)
""")
    assert int(run_script(program, cwd=tmp_path)) < 200e6
