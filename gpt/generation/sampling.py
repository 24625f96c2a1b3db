"""From logits to the next token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gpt.tokens.loader import mix


def sample(logits: Tensor, temperature: float, top_k: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one id per row: (B, V) → (B,) int64, row i by one number of generator i.

    A row's draw depends on its own logits and generator only, so it is the same at any batch size.
    Temperature 0 takes the likeliest id, the lowest of equals.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    # The inverse of the cumulative distribution, in vocabulary order. The last of the sums is not exactly 1,
    # and rounding must not carry a draw past the last id that has any probability.
    cumulative = probabilities(logits, temperature, top_k).cumsum(dim=-1)  # (B, V)
    total = cumulative[:, -1:].contiguous()  # (B, 1)
    uniform = [torch.rand(1, dtype=torch.float64, generator=generator) for generator in generators]
    drawn = torch.searchsorted(cumulative, torch.stack(uniform).to(total.device) * total, right=True)
    return torch.minimum(drawn, torch.searchsorted(cumulative, total)).squeeze(1)


def probabilities(logits: Tensor, temperature: float, top_k: int) -> Tensor:
    """softmax(logits / temperature) over the k likeliest ids, ties with the k-th included: (B, V) float64 → (B, V)."""
    # In float64, so that rounding decides as little as possible; MPS has none, so there the CPU does it.
    scores = (logits.cpu() if logits.device.type == "mps" else logits).double() / temperature
    if top_k < scores.size(-1):
        weakest = scores.topk(top_k, dim=-1).values[:, -1:]  # (B, 1)
        scores = scores.masked_fill(scores < weakest, -torch.inf)
    return scores.softmax(dim=-1)


def sample_generators(seed: int, samples: int) -> list[torch.Generator]:
    """A generator for each sample, so that sample i draws the same numbers whatever is drawn beside it."""
    return [torch.Generator().manual_seed(mix(seed, i) >> 1) for i in range(samples)]
