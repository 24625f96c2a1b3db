"""From logits to the next token.

In this order, which is that of Hugging Face transformers: repetition penalty, temperature, top-k, top-p, min-p, and
a draw from what is left.

Letters in shapes: B rows, V vocabulary, N candidates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, are_deterministic_algorithms_enabled

from gpt.choices import Overflow
from gpt.errors import bounded, check_limits, require
from gpt.hashing import mix
from gpt.model.loss import require_finite


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn. From repetition_penalty to min_p, they apply in the order in which they stand."""

    max_tokens: int = bounded(200, ge=1)
    """New tokens per sample, at the most."""
    repetition_penalty: float = bounded(1.0, ge=0.001, le=1000, note="1 changes nothing")
    """Makes ids that the text already has less likely, above 1; divides their logits, or multiplies negative ones."""
    temperature: float = bounded(0.8, ge=0, note="0 is greedy")
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = bounded(50, ge=1, note="a number above the vocabulary means all")
    """Draw among the k likeliest tokens; above the vocabulary means all."""
    top_p: float = bounded(1.0, gt=0, le=1, note="1 means all")
    """Draw among the likeliest tokens whose probabilities add up to this."""
    min_p: float = bounded(0.0, ge=0, le=1, note="0 means all")
    """Draw among the tokens that have at least this share of the likeliest one's probability."""
    seed: int | None = bounded(None, ge=0, le=2**63 - 1)
    """Seed of the draws; without one every call draws afresh."""
    overflow: Overflow = "slide"
    """On a full context: error refuses before, slide keeps the newer half, keep-prefix the first quarter too."""

    def __post_init__(self) -> None:
        check_limits(self)
        require(self.overflow in get_args(Overflow), "`overflow`", self.overflow, " or ".join(get_args(Overflow)))


def sample(
    logits: Tensor, sampling: SamplingConfig, generators: Sequence[torch.Generator], seen: Sequence[Tensor] = ()
) -> Tensor:
    """Draw one id per row: (B, V) → (B,) int64, row i by one number of generator i.

    A row's draw depends on its own logits, generator and `seen` ids only, so it is the same at any batch size.
    Temperature 0 takes the likeliest id, the lowest of equals. Raises InputError if a row's largest is not finite.
    """
    require_finite(logits)
    # MPS has no float64, and CUDA no sum of all before each number that always rounds alike.
    logits = logits.cpu() if logits.device.type == "mps" or are_deterministic_algorithms_enabled() else logits
    if sampling.temperature == 0:
        return apply_penalty(logits, sampling.repetition_penalty, seen).argmax(dim=-1)
    # The inverse of the cumulative distribution, in vocabulary order. The last of the sums is not exactly 1,
    # and rounding must not carry a draw past the last id that has any probability.
    ids, probabilities = candidates(logits, sampling, seen)
    cumulative = probabilities.cumsum(dim=-1)  # (B, N)
    total = cumulative[:, -1:].contiguous()  # (B, 1)
    uniform = [torch.rand(1, dtype=torch.float64, generator=generator) for generator in generators]
    index = torch.searchsorted(cumulative, torch.stack(uniform).to(total.device) * total, right=True)
    index = torch.minimum(index, torch.searchsorted(cumulative, total))
    return ids.gather(1, index).squeeze(1)


def candidates(logits: Tensor, sampling: SamplingConfig, seen: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
    """List what may be drawn at a temperature above 0: ids (B, N) in vocabulary order, and probabilities, float64.

    As many as the row with the most needs; those beyond a row's own have probability 0. `seen` has for each row the
    ids of its text so far, which the repetition penalty makes less likely.
    """
    # In float64, so that rounding decides as little as possible. The likeliest are the same at any temperature, which
    # can wait until there are few; a very low one must not make the largest infinite.
    ids, scores = keep_top_k(apply_penalty(logits, sampling.repetition_penalty, seen), sampling.top_k)
    scores = (scores.double() - scores.amax(dim=-1, keepdim=True)) / sampling.temperature
    if sampling.top_p < 1:
        scores = keep_top_p(scores, sampling.top_p)
    if sampling.min_p > 0:
        probabilities = scores.softmax(dim=-1)
        least = sampling.min_p * probabilities.amax(dim=-1, keepdim=True)
        scores = scores.masked_fill(probabilities < least, -torch.inf)
    return ids, scores.softmax(dim=-1)


@torch.no_grad()
def draw_logprob(logits: Tensor, ids: Tensor, sampling: SamplingConfig) -> float:
    """Give the natural logarithm of the probability that just these ids are drawn one after another: −∞ for never.

    From logits (T, V) and ids (T,), at a temperature above 0 and without a repetition penalty.
    """
    if logits.device.type == "mps":  # which has no float64
        logits, ids = logits.cpu(), ids.cpu()
    own = logits.gather(1, ids.unsqueeze(1))  # (T, 1)
    if ((logits > own).sum(dim=-1) >= sampling.top_k).any():
        return -math.inf  # as of most texts, and quicker than what follows
    kept, probabilities = candidates(logits, sampling)  # (T, N)
    drawn = torch.where(kept == ids.unsqueeze(1), probabilities, 0.0).sum(dim=-1)
    return float(drawn.log().sum())


def apply_penalty(logits: Tensor, penalty: float, seen: Sequence[Tensor]) -> Tensor:
    """Divide positive logits of the ids seen by the penalty, and multiply negative ones (Keskar et al. 2019, "CTRL"):
    (B, V) → (B, V), in float64 and apart from the logits if there is one."""
    if penalty == 1:
        return logits
    scores = logits.to(torch.float64, copy=True)
    for row, known in zip(scores, seen, strict=True):
        ids = known.to(row.device)
        row[ids] = torch.where(row[ids] < 0, row[ids] * penalty, row[ids] / penalty)
    return scores


def keep_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Keep each row's k highest scores, ties with the k-th included (Fan et al. 2018): ids and scores, (B, N) each."""
    B, V = scores.shape
    if k >= V:
        return torch.arange(V, device=scores.device).expand(B, V), scores
    best, ids = scores.topk(k + 1, dim=-1)
    weakest = best[:, k - 1 : k]  # (B, 1)
    if (best[:, k:] == weakest).any():
        best, ids = scores.topk(int((scores >= weakest).sum(dim=-1).max()), dim=-1)
        best = best.masked_fill(best < weakest, -torch.inf)
    else:
        best, ids = best[:, :k], ids[:, :k]
    ids, order = ids.sort(dim=-1)
    return ids, best.gather(1, order)


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """Keep the likeliest ids until their probabilities reach p, at least one, of equals the higher ids first.

    The others become −∞.

    (B, N) → (B, N) (Holtzman et al. 2020).
    """
    ascending, order = scores.sort(dim=-1, stable=True)
    removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    removed[:, -1] = False
    return scores.masked_fill(removed.scatter(1, order, removed), -torch.inf)


def sample_generator(seed: int, i: int) -> torch.Generator:
    """Make the generator of sample i of a seed, which draws the same numbers whatever is drawn beside it."""
    return torch.Generator().manual_seed(mix(seed, i) >> 1)
