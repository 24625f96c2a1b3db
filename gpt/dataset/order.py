"""The order in which a split is read: which of its windows each sample is, a pure function of (seed, sample).

1. A split of N tokens has N − 1 targets (each token but the first), which are cut into W windows of T targets at most;
   a shorter one is filled up with targets that do not count. An epoch reads each target once.
2. The windows of an epoch come in an order drawn per epoch, by a permutation that needs no memory.
3. Sample s is the window at place s mod W in the order of epoch ⌊s / W⌋.

`Stream` cuts wherever T targets end, `gpt.dataset.packing.Packed` at documents.
"""

import numpy as np

from gpt.choices import IGNORE_INDEX
from gpt.dataset.shards import Split
from gpt.hashing import mix

Spans = list[tuple[int, int]]  # the token before the first target, and the number of targets, of each piece
BLOCK = 1024  # samples
FEISTEL_ROUNDS = 6


class Shuffled:
    """Samples of T tokens from a split, without end and shuffled anew each epoch. Subclasses say where it is cut."""

    def __init__(self, split: Split, context_length: int, seed: int, count: int) -> None:
        self.split, self.context_length, self.seed = split, context_length, seed
        self.count = count
        """Samples of an epoch."""
        self.counts = [count]
        """Samples of an epoch, of the one source."""
        self._block: tuple[int, list[Spans]] = (-1, [])

    def cut(self, windows: np.ndarray, epoch: int) -> list[Spans]:
        """Say where these windows of an epoch are, (N,) numbers from 0 to `count` − 1."""
        raise NotImplementedError

    def fill(self, inputs: np.ndarray, targets: np.ndarray, sample: int) -> None:
        """Write a sample's ids and those that follow each, into (T,) each.

        Targets that only fill up the window, or that the split's mask excludes, are IGNORE_INDEX.
        Raises InputError if a shard cannot be read any longer.
        """
        filled = 0
        for start, length in self.spans(sample):
            ids, end = self.split.read(start, length + 1), filled + length
            inputs[filled:end], targets[filled:end] = ids[:-1], ids[1:]
            if self.split.is_masked:
                targets[filled:end][~self.split.learned(start + 1, length)] = IGNORE_INDEX
            filled = end
        inputs[filled:], targets[filled:] = 0, IGNORE_INDEX

    def locate(self, sample: int) -> tuple[int, int]:
        """Return (number of the source, number of the sample in it): there is one source."""
        return 0, sample

    def epochs(self, samples: int) -> list[float]:
        """Tell how often the split has been read after so many samples."""
        return [samples / self.count]

    def spans(self, sample: int) -> Spans:
        """Return (the token before its first target, number of targets) of each piece of a sample; cached."""
        number, index = divmod(sample, BLOCK)
        if number != self._block[0]:
            self._block = number, self._spans_of(range(number * BLOCK, (number + 1) * BLOCK))
        return self._block[1][index]

    def _spans_of(self, samples: range) -> list[Spans]:
        epochs, places = np.divmod(np.arange(samples.start, samples.stop), self.count)
        windows = permuted(places, self.count, mix(self.seed, epochs.astype(np.uint64), 1))
        epoch_numbers, begins = np.unique(epochs, return_index=True)
        parts = zip(np.split(windows, begins[1:]), epoch_numbers.tolist(), strict=True)
        return [spans for part, epoch in parts for spans in self.cut(part, epoch)]


class Stream(Shuffled):
    """Windows of the plain stream of tokens.

    Its targets are taken as a ring, turned by an amount drawn per epoch, and cut; the last window is shorter.
    """

    def __init__(self, split: Split, context_length: int, seed: int) -> None:
        self.targets = split.tokens - 1
        super().__init__(split, context_length, seed, -(-self.targets // context_length))

    def cut(self, windows: np.ndarray, epoch: int) -> list[Spans]:
        """Say where these windows of an epoch are: in two pieces where the ring wraps."""
        spans, offset = [], mix(self.seed, epoch, 2) % self.targets
        for window in windows.tolist():
            first = window * self.context_length
            count = min(self.context_length, self.targets - first)
            start = (first + offset) % self.targets
            before_the_wrap = min(count, self.targets - start)
            spans.append([p for p in ((start, before_the_wrap), (0, count - before_the_wrap)) if p[1]])
        return spans


def permuted(indices: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Map indices, (N,), each by the permutation of 0 … size − 1 that its key, (N,) uint64, stands for.

    It is a Feistel network over the next even number of bits, walked until it lands inside
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    low = (np.uint64(1) << half) - np.uint64(1)
    result = indices.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & low
        for round_number in range(FEISTEL_ROUNDS):
            left, right = right, left ^ mix(keys[outside], round_number, right) & low
        result[outside] = left << half | right
        outside = result >= size
    return result
