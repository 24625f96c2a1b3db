"""From hidden states to the loss of the next token, without ever holding the logits of all positions.

The logits of a batch are the largest tensor of a training step: for GPT-2 and 8 × 1,024 tokens 1.6 GB, and with their
gradient and the softmax between them three times that. Here a chunk of positions at a time goes from hidden states to
its loss and, at once, to its part of the gradients, so that nothing is computed twice and only a chunk is held.

Letters in shapes: N positions, C width, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import functional as F

from gpt.choices import IGNORE_INDEX
from gpt.errors import InputError

# Float32 logits held at a time: on a CPU what its cache likes (benchmarks/LOG.md), else what keeps kernels long.
CHUNK_BYTES, CHUNK_BYTES_ON_CPU = 1 << 30, 16 << 20
LEAST_ROWS = 256  # fewer make slow products


def softcap(logits: Tensor, cap: float) -> Tensor:
    """Squeeze logits to ±cap by cap·tanh(logits / cap); a cap of 0 leaves them as they are."""
    return cap * torch.tanh(logits / cap) if cap else logits


def precise(values: Tensor) -> Tensor:
    """Convert to float32, unless they are more precise."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def arithmetic_dtype(values: Tensor) -> torch.dtype:
    """Tell in which dtype products of these values are computed here: autocast's, or their own."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype


def chunk_rows(vocab_size: int, device: str) -> int:
    """Choose how many positions a chunk has."""
    return max(LEAST_ROWS, (CHUNK_BYTES_ON_CPU if device == "cpu" else CHUNK_BYTES) // (4 * vocab_size))


def next_token_loss(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float = 0.0, by_row: bool = False) -> Tensor:
    """Compute the cross-entropy in nats, summed over the targets that count: (..., C), (V, C) and (...) → ().

    A sum, so that micro-batches with different numbers of targets add up to the mean over a whole step. With `by_row`,
    the sum of each row of targets, (B, T), comes after it, without a gradient: (1 + B,).
    """
    states, aims = hidden.flatten(0, -2), targets.flatten()  # (N, C), (N,)
    if states.size(0) > chunk_rows(weight.size(0), states.device.type):
        total, losses = _ChunkedLoss.apply(states, weight, aims, cap, arithmetic_dtype(states))
    else:
        logprobs = F.log_softmax(precise(softcap(F.linear(states, weight), cap)), dim=1)
        total = F.nll_loss(logprobs, aims, ignore_index=IGNORE_INDEX, reduction="sum")
        if not by_row:
            return total
        losses = F.nll_loss(logprobs.detach(), aims, ignore_index=IGNORE_INDEX, reduction="none")
    return torch.cat([total.view(1), losses.view_as(targets).sum(1)]) if by_row else total


@torch.no_grad()
def next_token_losses(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, vocab_size: int) -> Tensor:
    """Compute each target's cross-entropy in nats, zero for those that do not count: (..., C) and (...) → (...).

    `head` makes logits (N, V) of hidden states (N, C).
    """
    losses = torch.empty(targets.shape, dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
    for part, aims, found in _chunks(vocab_size, hidden.flatten(0, -2), targets.flatten(), losses.view(-1)):
        found.copy_(F.cross_entropy(precise(head(part)), aims, ignore_index=IGNORE_INDEX, reduction="none"))
    return losses


def require_finite(logits: Tensor) -> None:
    """Raise InputError if the largest logit of a row (B, V) is not finite: no number, +∞, or all of the row are −∞."""
    if not math.isfinite(logits.amax(dim=-1).sum()):
        raise InputError("the model's logits are not finite: its weights are damaged or its training diverged")


def token_logprobs(logits: Tensor, ids: Tensor, best: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give natural logarithms of probability by the model alone, before any setting of sampling, in float64.

    (B, V) and (B,) ids → those of the ids, (B,), and ids and logarithms of the `best` likeliest, (B, best) each, in
    falling order. Raises InputError as `require_finite`.
    """
    require_finite(logits)
    # MPS has no float64.
    logarithms = (logits.cpu() if logits.device.type == "mps" else logits).double().log_softmax(dim=-1)
    values, likeliest = logarithms.topk(min(best, logarithms.size(-1)), dim=-1)
    return logarithms.gather(1, ids.to(logarithms.device).unsqueeze(1)).squeeze(1), likeliest, values


def _chunks(vocab_size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors of N rows alike, so that the logits of each part are a chunk."""
    rows = chunk_rows(vocab_size, tensors[0].device.type)
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


class _ChunkedLoss(torch.autograd.Function):
    """Compute the sum, and in the forward pass already its gradients, which only need to be scaled later.

    Beside the sum, (), each target's loss is returned, (N,), which has no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        matrix = weight.to(dtype)
        # A frozen head has no gradient, and no memory is taken for one.
        weight_gradient = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        # What stays is allocated before: between chunks it would split the memory that the next one is to have.
        hidden_gradient, total = torch.empty_like(hidden), precise(hidden.new_zeros(()))
        each = total.new_empty(targets.shape)
        chunks = _chunks(weight.size(0), hidden.to(dtype), targets, hidden_gradient, each)
        for part, aims, part_gradient, losses in chunks:
            logits = softcap(precise(part @ matrix.t()), cap)  # (rows, V)
            chunk_losses, gradient = _losses_and_gradient(logits, aims, cap)
            losses.copy_(chunk_losses)
            total += losses.sum()
            gradient = gradient.to(dtype)
            part_gradient.copy_(gradient @ matrix)
            if weight_gradient is None:
                continue
            if dtype == weight.dtype:
                weight_gradient.addmm_(gradient.t(), part)
            else:
                weight_gradient += gradient.t() @ part
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.mark_non_differentiable(each)
        return total, each

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # ty: ignore[incompatible-method-override]
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * scale, None if weight_gradient is None else weight_gradient * scale, None, None, None


def _losses_and_gradient(logits: Tensor, targets: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Compute a chunk's losses (rows,) from (rows, V), and the gradient of their sum by the logits before the cap.

    It is softmax − one-hot for a target that counts, and takes the place of the logits.
    """
    slope = 1 - (logits / cap).square() if cap else None
    counted = targets != IGNORE_INDEX
    aims = targets.clamp(min=0).unsqueeze(1)  # (rows, 1)
    normalizer = logits.logsumexp(1, keepdim=True)
    losses = (normalizer - logits.gather(1, aims)).squeeze(1) * counted
    gradient = logits.sub_(normalizer).exp_()
    if is_compiling():  # into one kernel with what is around it, which a scatter would cut in two
        gradient = gradient - (torch.arange(gradient.size(1), device=aims.device) == aims).to(gradient.dtype)
    else:
        gradient.scatter_add_(1, aims, gradient.new_full(aims.shape, -1.0))
    gradient *= counted.unsqueeze(1)
    return losses, gradient if slope is None else gradient.mul_(slope)
