"""Which tokens each step reads: a pure function of (seed, step), so the loader has no state to save.

1. The training stream of N tokens has N − 1 targets (each token but the first). An epoch reads each once.
2. The targets are taken as a ring, turned by an amount drawn per epoch, and cut into windows of T targets; the
   last window is shorter and filled up with targets that do not count.
3. The windows of an epoch come in an order drawn per epoch, by a permutation that needs no memory.
4. Sample s of the run is window s mod W of epoch ⌊s / W⌋, where W is the number of windows; step i reads the
   samples i·B … (i + 1)·B − 1.

So the next step's batch is known, and is read while the one before is learned from (`Prefetcher`).
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpt.choices import IGNORE_INDEX
from gpt.dataset.order import permuted
from gpt.dataset.shards import Split
from gpt.errors import InputError
from gpt.hashing import mix

BLOCK = 1024  # samples


@dataclass(frozen=True)
class Batch:
    """Sequences to learn from."""

    inputs: Tensor
    """Token ids, (B, T) int64."""
    targets: Tensor
    """The id that follows each, (B, T) int64; those that do not count are IGNORE_INDEX."""
    documents: Tensor | None = None
    """Which document each input is part of, (B, T) int64; None where the loader does not tell."""


class Loader:
    """Batches of B windows of T tokens from the training split."""

    def __init__(self, split: Split, batch: int, context_length: int, seed: int) -> None:
        self.split, self.batch_size, self.context_length, self.seed = split, batch, context_length, seed
        self.targets = split.tokens - 1
        self.windows = -(-self.targets // context_length)
        self._block: tuple[int, list[list[tuple[int, int]]]] = (-1, [])

    def epoch(self, step: int) -> float:
        """Tell how often the whole split has been read after so many steps."""
        return step * self.batch_size / self.windows

    def samples(self, step: int) -> range:
        """Return the numbers of the samples that a step reads; steps and samples count from 0."""
        return range(step * self.batch_size, (step + 1) * self.batch_size)

    def batch(self, step: int, first: int = 0, count: int | None = None) -> Batch:
        """Read what a step learns from.

        Of the B rows, `first` and `count` choose those that one of several processes is to read.
        Raises InputError if a shard cannot be read any longer.
        """
        samples = self.samples(step)[first:][:count]
        inputs, targets = np.empty((2, len(samples), self.context_length), dtype=np.int64)
        for x, y, sample in zip(inputs, targets, samples, strict=True):
            _fill(x, y, [self.split.read(start, length + 1) for start, length in self.spans(sample)])
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets))

    def spans(self, sample: int) -> list[tuple[int, int]]:
        """Return (the token before a sample's first target, number of targets), twice where the ring wraps; cached."""
        number, index = divmod(sample, BLOCK)
        if number != self._block[0]:
            self._block = number, self._spans_of(range(number * BLOCK, (number + 1) * BLOCK))
        return self._block[1][index]

    def _spans_of(self, samples: range) -> list[list[tuple[int, int]]]:
        spans = []
        for epoch in range(samples[0] // self.windows, samples[-1] // self.windows + 1):
            begin = epoch * self.windows
            indices = np.arange(max(samples[0], begin), min(samples[-1] + 1, begin + self.windows)) - begin
            offset = mix(self.seed, epoch, 2) % self.targets
            for window in permuted(indices, self.windows, mix(self.seed, epoch, 1)).tolist():
                first = window * self.context_length
                count = min(self.context_length, self.targets - first)
                start = (first + offset) % self.targets
                before_the_wrap = min(count, self.targets - start)
                spans.append([p for p in ((start, before_the_wrap), (0, count - before_the_wrap)) if p[1]])
        return spans


class Prefetcher:
    """Reads a step's batch in a thread, while the one before is learned from. A context manager, which ends the thread.

    The batches are the loader's, whatever steps are asked for; those of steps one after the other are there sooner.
    """

    def __init__(self, loader: Loader, first: int = 0, count: int | None = None, device: str = "cpu") -> None:
        """Read this process's rows, as in `Loader.batch`; for 'cuda' into pinned memory, which is copied sooner."""
        self._loader, self._rows = loader, (first, count)
        self._gpu = torch.cuda.current_device() if device == "cuda" else None  # a thread begins with the first one
        self._thread = ThreadPoolExecutor(1, "next batch")
        self._next: tuple[int, Future[Batch]] | None = None

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def fault(self, step: int) -> InputError | None:
        """Wait until a step's batch is read; say why it cannot be, if so."""
        fault = self._begun(step).exception()
        if fault is None or isinstance(fault, InputError):
            return fault
        raise fault

    def batch(self, step: int) -> Batch:
        """Return a step's batch, and begin to read the next one. Raises InputError as `Loader.batch` does."""
        batch = self._begun(step).result()
        self._begun(step + 1)
        return batch

    def _begun(self, step: int) -> "Future[Batch]":
        if self._next is None or self._next[0] != step:
            self._next = step, self._thread.submit(self._read, step)
        return self._next[1]

    def _read(self, step: int) -> Batch:
        batch = self._loader.batch(step, *self._rows)
        if self._gpu is None:
            return batch
        torch.cuda.set_device(self._gpu)
        return Batch(batch.inputs.pin_memory(), batch.targets.pin_memory())


def _fill(inputs: np.ndarray, targets: np.ndarray, pieces: list[np.ndarray]) -> None:
    """Write pieces of the stream as inputs and their targets, into (T,) each, and fill these up."""
    filled = 0
    for piece in pieces:
        end = filled + len(piece) - 1
        inputs[filled:end], targets[filled:end] = piece[:-1], piece[1:]
        filled = end
    inputs[filled:], targets[filled:] = 0, IGNORE_INDEX
