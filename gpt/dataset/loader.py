"""Which samples each step reads: a pure function of the step, so the loader has no state to save.

Step i reads the samples i·B … (i + 1)·B − 1 of the run. What of the training split a sample is, the split's `Samples`
say (`gpt.dataset.order`). So the next step's batch is known, and is read while the one before is learned from
(`Prefetcher`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gpt.dataset.order import Stream
from gpt.dataset.shards import Split
from gpt.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Sequences to learn from."""

    inputs: Tensor
    """Token ids, (B, T) int64."""
    targets: Tensor
    """The id that follows each, (B, T) int64; those that do not count are IGNORE_INDEX."""
    documents: Tensor | None = None
    """Which document each input is part of, (B, T) int64: a run of equal numbers. None where none is kept apart."""
    sources: dict[str, list[int]] = field(default_factory=dict)
    """The rows of each source of a mixture, by its name; empty where there is one dataset."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors that there are of it, in this order."""
        return (self.inputs, self.targets) if self.documents is None else (self.inputs, self.targets, self.documents)


class Samples(Protocol):
    """Numbers what can be read, epoch after epoch, and writes a sample as a row of a batch."""

    counts: list[int]
    """Samples of an epoch of each source."""

    def fill(self, inputs: np.ndarray, targets: np.ndarray, sample: int) -> None:
        """Write a sample into (T,) each. Raises InputError if a shard cannot be read any longer."""

    def spans(self, sample: int) -> list[tuple[int, int]]:
        """Return where a sample stands: (the token before the first target, number of targets) of each piece."""
        ...

    def locate(self, sample: int) -> tuple[int, int]:
        """Return (number of the source, number of the sample among those of that source)."""
        ...

    def epochs(self, samples: int) -> list[float]:
        """Tell how often each source has been read after so many samples."""
        ...


MakeSamples = Callable[[Split, int, int], Samples]  # of a split, in windows of so many tokens, by a seed


class Loader:
    """Batches of B windows of T tokens from the training split."""

    def __init__(
        self,
        split: Split,
        batch: int,
        context_length: int,
        seed: int,
        samples: MakeSamples = Stream,
        end_of_text: int | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """Read the samples that are made of (split, T, seed): by default the windows of its plain stream.

        With the id `end_of_text`, batches tell documents apart; with the `names` of a mixture's sources, these.
        """
        self.batch_size, self.context_length, self.end_of_text = batch, context_length, end_of_text
        self.source, self.names = samples(split, context_length, seed), names

    @property
    def windows(self) -> int:
        """Samples in which every source could be read once."""
        return sum(self.source.counts)

    def epoch(self, step: int) -> dict[str, float]:
        """Tell how often all was read after so many steps ("epoch"), and each source of a mixture ("epoch/code")."""
        of_sources = zip(self.names, self.epochs(step), strict=True) if self.names else ()
        return {"epoch": step * self.batch_size / self.windows, **{f"epoch/{name}": n for name, n in of_sources}}

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
            self.source.fill(x, y, sample)
        documents = None if self.end_of_text is None else self._documents(inputs, samples)
        sources = self._sources(samples) if self.names else {}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), documents, sources)

    def _sources(self, samples: range) -> dict[str, list[int]]:
        """List the rows of each source of a mixture."""
        rows: dict[str, list[int]] = {name: [] for name in self.names}
        for row, sample in enumerate(samples):
            rows[self.names[self.source.locate(sample)[0]]].append(row)
        return rows

    def _documents(self, inputs: np.ndarray, samples: range) -> Tensor:
        """Number the documents of each row, (B, T): one begins with each piece of the split, and with each end-of-text.

        That stands before the next one's first target, as it does where a text is sampled or scored.
        """
        begins = inputs == self.end_of_text
        begins[:, 0] = True
        for row, sample in zip(begins, samples, strict=True):
            ends = np.cumsum([length for _, length in self.spans(sample)])
            row[ends[ends < self.context_length]] = True
        return torch.from_numpy(begins.cumsum(axis=1, dtype=np.int64))

    def epochs(self, step: int) -> list[float]:
        """Tell how often each source has been read after so many steps."""
        return self.source.epochs(step * self.batch_size)

    def spans(self, sample: int) -> list[tuple[int, int]]:
        """Return where a sample stands in the split of its source, as `Samples.spans` does."""
        return self.source.spans(sample)


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
        return Batch(*(tensor.pin_memory() for tensor in batch.tensors), sources=batch.sources)
