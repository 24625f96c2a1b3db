"""Which tokens each step reads: a pure function of (seed, step), so the loader has no state to save.

1. The training stream of N tokens has N − 1 targets (each token but the first). An epoch reads each once.
2. The targets are taken as a ring, turned by an amount drawn per epoch, and cut into windows of T targets; the
   last window is shorter and filled up with targets that do not count.
3. The windows of an epoch come in an order drawn per epoch, by a permutation that needs no memory.
4. Sample s of the run is window s mod W of epoch ⌊s / W⌋, where W is the number of windows; step i reads the
   samples i·B … (i + 1)·B − 1.
"""

from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from gpt.tokens.shards import Split

IGNORED = -100  # a target that does not count; what cross_entropy ignores by default
FEISTEL_ROUNDS = 6


class Loader:
    """Batches of B windows of T tokens from the training split."""

    def __init__(self, split: Split, batch: int, context: int, seed: int) -> None:
        self.split, self.batch_size, self.context, self.seed = split, batch, context, seed
        self.targets = split.tokens - 1
        self.windows = -(-self.targets // context)

    def samples(self, step: int) -> range:
        """The numbers of the samples that a step reads, steps and samples counted from 0."""
        return range(step * self.batch_size, (step + 1) * self.batch_size)

    def batch(self, step: int, first: int = 0, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step: (B, T) int64 each; targets that do not count are IGNORED.

        Of the B rows, `first` and `count` choose those that one of several processes is to read.
        """
        samples = self.samples(step)[first:][:count]
        pairs = [self.window(sample) for sample in samples]
        inputs, targets = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*pairs, strict=True))
        return inputs, targets

    def window(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of one sample of the run: (T,) int64 each."""
        epoch, index = divmod(sample, self.windows)
        place = permuted(index, self.windows, mix(self.seed, epoch, 1)) * self.context
        turn = mix(self.seed, epoch, 2) % self.targets
        count = min(self.context, self.targets - place)
        start = (place + turn) % self.targets
        before_the_seam = min(count, self.targets - start)
        pieces = [(start, before_the_seam), (0, count - before_the_seam)]  # the ring's end joins its beginning
        return _padded([self.split.read(first, length + 1) for first, length in pieces if length], self.context)


def row_hashes(samples: range, inputs: Tensor, targets: Tensor) -> Tensor:
    """A 63-bit hash of each row and its sample number, (B,) int64.

    Their sum names the batch, however its rows are divided between processes.
    """
    rows = zip(samples, inputs.numpy(), targets.numpy(), strict=True)
    digests = [
        blake2b(x.tobytes() + y.tobytes(), digest_size=8, key=sample.to_bytes(8, "little")).digest()
        for sample, x, y in rows
    ]
    return torch.tensor([int.from_bytes(digest, "little") >> 1 for digest in digests], dtype=torch.int64)


def consecutive_windows(split: Split, context: int) -> int:
    """How many windows of T targets, one after the other, hold every target of a split once."""
    return -(-(split.tokens - 1) // context)


def read_windows(split: Split, context: int, windows: range) -> tuple[Tensor, Tensor]:
    """Inputs and targets of some of the consecutive windows: (B, T) int64 each, the last one filled with IGNORED."""
    pairs = []
    for start in (window * context for window in windows):
        pairs.append(_padded([split.read(start, min(context, split.tokens - 1 - start) + 1)], context))
    inputs, targets = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*pairs, strict=True))
    return inputs, targets


def _padded(pieces: list[np.ndarray], context: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of the stream as inputs and their targets, filled up to (T,)."""
    inputs, targets = np.zeros(context, dtype=np.int64), np.full(context, IGNORED, dtype=np.int64)
    filled = 0
    for piece in pieces:
        end = filled + len(piece) - 1
        inputs[filled:end], targets[filled:end] = piece[:-1], piece[1:]
        filled = end
    return inputs, targets


def mix(*numbers: int) -> int:
    """A 64-bit hash of some integers (the finaliser of SplitMix64, Steele et al. 2014, chained)."""
    state = 0
    for number in numbers:
        state = (state ^ number) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


_MASK = 2**64 - 1


def permuted(index: int, size: int, key: int) -> int:
    """Where a keyed permutation of 0 … size − 1 sends `index`.

    A Feistel network over the next even number of bits, walked until it lands inside
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, -(-(size - 1).bit_length() // 2))
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for round_number in range(FEISTEL_ROUNDS):
            left, right = right, left ^ mix(key, round_number, right) & low
        index = left << half | right
        if index < size:
            return index
