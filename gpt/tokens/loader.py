"""Which tokens each step reads: a pure function of (seed, step), so the loader has no state to save.

1. The training stream of N tokens has N − 1 targets (each token but the first). An epoch reads each once.
2. The targets are taken as a ring, turned by an amount drawn per epoch, and cut into windows of T targets; the
   last window is shorter and filled up with targets that do not count.
3. The windows of an epoch come in an order drawn per epoch, by a permutation that needs no memory.
4. Sample s of the run is window s mod W of epoch ⌊s / W⌋, where W is the number of windows; step i reads the
   samples i·B … (i + 1)·B − 1.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt.config import IGNORED
from gpt.tokens.shards import Split

FEISTEL_ROUNDS = 6
BLOCK = 1024  # samples


class Loader:
    """Batches of B windows of T tokens from the training split."""

    def __init__(self, split: Split, batch: int, context: int, seed: int) -> None:
        self.split, self.batch_size, self.context, self.seed = split, batch, context, seed
        self.targets = split.tokens - 1
        self.windows = -(-self.targets // context)
        self._block: tuple[int, list[list[tuple[int, int]]]] = (-1, [])

    def samples(self, step: int) -> range:
        """The numbers of the samples that a step reads, steps and samples counted from 0."""
        return range(step * self.batch_size, (step + 1) * self.batch_size)

    def batch(self, step: int, first: int = 0, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step: (B, T) int64 each; targets that do not count are IGNORED.

        Of the B rows, `first` and `count` choose those that one of several processes is to read.
        """
        samples = self.samples(step)[first:][:count]
        inputs = np.zeros((len(samples), self.context), dtype=np.int64)
        targets = np.full((len(samples), self.context), IGNORED, dtype=np.int64)
        for x, y, sample in zip(inputs, targets, samples, strict=True):
            _fill(x, y, [self.split.read(start, length + 1) for start, length in self._place(sample)])
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def _place(self, sample: int) -> list[tuple[int, int]]:
        """(The token before the first of a sample's targets, how many), twice at the ring's seam; kept by the block."""
        number, index = divmod(sample, BLOCK)
        if number != self._block[0]:
            self._block = number, self._places(range(number * BLOCK, (number + 1) * BLOCK))
        return self._block[1][index]

    def _places(self, samples: range) -> list[list[tuple[int, int]]]:
        places = []
        for epoch in range(samples[0] // self.windows, samples[-1] // self.windows + 1):
            begin = epoch * self.windows
            indices = np.arange(max(samples[0], begin), min(samples[-1] + 1, begin + self.windows)) - begin
            turn = mix(self.seed, epoch, 2) % self.targets
            for window in permuted(indices, self.windows, mix(self.seed, epoch, 1)).tolist():
                place = window * self.context
                count = min(self.context, self.targets - place)
                start = (place + turn) % self.targets
                before_the_seam = min(count, self.targets - start)
                places.append([p for p in ((start, before_the_seam), (0, count - before_the_seam)) if p[1]])
        return places


def _fill(inputs: np.ndarray, targets: np.ndarray, pieces: list[np.ndarray]) -> None:
    """Write pieces of the stream as inputs and their targets, one after the other, into (T,) each."""
    filled = 0
    for piece in pieces:
        end = filled + len(piece) - 1
        inputs[filled:end], targets[filled:end] = piece[:-1], piece[1:]
        filled = end


def mix(*numbers: Any) -> Any:
    """A 64-bit hash of some integers (the finaliser of SplitMix64, Steele et al. 2014, chained).

    An array of uint64 among them gives an array of hashes.
    """
    state = 0
    for number in numbers:
        state = (state ^ number) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


_MASK = 2**64 - 1


def permuted(indices: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a keyed permutation of 0 … size − 1 sends each of the indices, (N,).

    A Feistel network over the next even number of bits, walked until it lands inside
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    low = (np.uint64(1) << half) - np.uint64(1)
    result = indices.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & low
        for round_number in range(FEISTEL_ROUNDS):
            left, right = right, left ^ mix(key, round_number, right) & low
        result[outside] = left << half | right
        outside = result >= size
    return result
