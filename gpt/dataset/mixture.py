"""Several datasets in one run, each with a weight: which of them a sample is read from, and which sample of it that is.

1. The sources are the leaves of a tree, divided at each node into two halves of about the same weight.
2. Of the first n samples that come to a node, the nearest whole number to n times its share go to the first half, and
   the rest to the second. Both numbers never fall as n grows, so that they say to which half each sample goes.
3. Among the samples of a source, they keep their order: its own samples come in the order that they have when it is
   read alone, and as evenly as they can among those of the others.

All of this follows from the sample's number alone, in whole numbers: nothing is saved or sent, and nothing drifts.

Of the first n samples, whatever n is, a source of weight w has w·n, and is off by less than two: of two sources by at
most ½, of three by less than one. The proof: where the number of a node is off by e, that of its half is off by at most
s·e + ½, s being the share of the half. A half of several sources has a share of at most ⅔, so that none of these is off
by more than ½ + ⅔·½ + ⅔²·½ + … = 1½. A half of one source has a share below 1, and is off by less than 1½ + ½.
"""

import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt.dataset.dataset import Dataset, WeightedSource, open_dataset
from gpt.dataset.order import Stream
from gpt.dataset.shards import Split
from gpt.errors import InputError

if TYPE_CHECKING:
    from gpt.dataset.loader import Loader, MakeSamples, Samples


class Interleave:
    """Deals the samples of a run to K sources by their weights, whole numbers."""

    def __init__(self, weights: Sequence[int]) -> None:
        """Take the weights, which must not rise from one source to the next: so the halves of the tree are even."""
        assert all(one >= two > 0 for one, two in zip(weights, [*weights[1:], 1], strict=True))
        self.sums = [0, *accumulate(weights)]

    def locate(self, sample: int) -> tuple[int, int]:
        """Return (source, number of the sample among those of the source)."""
        first, stop, number = 0, len(self.sums) - 1, sample
        while stop - first > 1:
            middle = self._middle(first, stop)
            before, after = (self._to_first_half(first, middle, stop, count) for count in (number, number + 1))
            if after > before:
                stop, number = middle, before
            else:
                first, number = middle, number - before
        return first, number

    def counts(self, samples: int) -> list[int]:
        """Count how many of the run's first samples each source has."""
        return self._counts(0, len(self.sums) - 1, samples)

    def _counts(self, first: int, stop: int, samples: int) -> list[int]:
        if stop - first == 1:
            return [samples]
        middle = self._middle(first, stop)
        before = self._to_first_half(first, middle, stop, samples)
        return self._counts(first, middle, before) + self._counts(middle, stop, samples - before)

    def _to_first_half(self, first: int, middle: int, stop: int, count: int) -> int:
        part, whole = self.sums[middle] - self.sums[first], self.sums[stop] - self.sums[first]
        return (2 * part * count + whole) // (2 * whole)

    def _middle(self, first: int, stop: int) -> int:
        """Find where to divide the sources first … stop − 1, so that the halves are as even as can be."""
        twice = self.sums[first] + self.sums[stop]
        place = bisect_left(self.sums, twice, first + 1, stop - 1, key=lambda total: 2 * total)
        one, two = max(first + 1, place - 1), place
        return min(one, two, key=lambda cut: abs(2 * self.sums[cut] - twice))


class Interleaved:
    """Samples of several splits, as one of them: `Samples` of a mixture."""

    def __init__(self, parts: "Sequence[Samples]", weights: Sequence[int]) -> None:
        self.parts, self.interleave = parts, Interleave(weights)
        self.counts = [sum(part.counts) for part in parts]

    def fill(self, inputs: np.ndarray, targets: np.ndarray, sample: int) -> None:
        """Write a sample into (T,) each. Raises InputError if a shard cannot be read any longer."""
        source, number = self.locate(sample)
        self.parts[source].fill(inputs, targets, number)

    def locate(self, sample: int) -> tuple[int, int]:
        """Return (source, number of the sample among those of the source)."""
        return self.interleave.locate(sample)

    def spans(self, sample: int) -> list[tuple[int, int]]:
        """Return where a sample stands in the split of its source, as `Samples.spans` does."""
        source, number = self.locate(sample)
        return self.parts[source].spans(number)

    def epochs(self, samples: int) -> list[float]:
        """Tell how often each source has been read after so many samples."""
        return [read / count for read, count in zip(self.interleave.counts(samples), self.counts, strict=True)]


@dataclass(frozen=True, repr=False)
class Mixture(Dataset):
    """Several datasets with the same tokenizer; its splits are theirs one after the other, its path their names."""

    parts: tuple[WeightedSource, ...]

    @property
    def sources(self) -> tuple[WeightedSource, ...]:
        return self.parts

    def loader(
        self,
        batch: int,
        context_length: int,
        seed: int,
        samples: "MakeSamples" = Stream,
        end_of_text: int | None = None,
    ) -> "Loader":
        from gpt.dataset.loader import Loader

        def interleaved(_: Split, context_length: int, seed: int) -> Interleaved:
            parts = [samples(part.dataset.train, context_length, seed) for part in self.parts]
            return Interleaved(parts, whole_weights([part.weight for part in self.parts]))

        names = [part.name for part in self.parts]
        return Loader(self.train, batch, context_length, seed, interleaved, end_of_text, names)


def open_weighted(paths: Mapping[Path, Fraction], open_one: Callable[[Path], Dataset] = open_dataset) -> Dataset:
    """Open a dataset, or several as a mixture. Raises InputError as `open_dataset` and `mix_datasets` do."""
    weighted = [(open_one(path), weight) for path, weight in paths.items()]
    return weighted[0][0] if len(weighted) == 1 else mix_datasets(weighted)


def mix_datasets(weighted: Sequence[tuple[Dataset, Fraction]]) -> Mixture:
    """Make one dataset of several with weights, of which only the proportions count.

    In whatever order they are given, the mixture is the same: the heaviest comes first. Raises InputError if two have
    different tokenizers, or hold the same.
    """
    ordered = sorted(weighted, key=lambda pair: (-pair[1], pair[0].fingerprint))
    datasets, total = [dataset for dataset, _ in ordered], sum(weight for _, weight in ordered)
    _require_one_tokenizer(datasets)
    _require_different(datasets)
    shares = [weight / total for _, weight in ordered]
    names = source_names([dataset.path for dataset in datasets])
    heaviest, made_of = datasets[0], [dataset.corpus_fingerprint for dataset in datasets]
    return Mixture(
        Path(" ".join(f"{dataset.path}={float(weight):g}" for dataset, weight in ordered)),
        heaviest.tokenizer,
        Split("train", [shard for dataset in datasets for shard in dataset.train.shards]),
        Split("validation", [shard for dataset in datasets for shard in dataset.validation.shards]),
        _fingerprint([dataset.fingerprint for dataset in datasets], shares),
        heaviest.recipe | _one_template(datasets),
        [*chain.from_iterable(dataset.shards for dataset in datasets)],
        _fingerprint(made_of, shares) if all(made_of) else None,
        tuple(WeightedSource(*each) for each in zip(names, datasets, shares, strict=True)),
    )


def _one_template(datasets: Sequence[Dataset]) -> dict[str, str]:
    """Give the chat template of those that have one. Raises InputError for different ones."""
    found = {dataset.recipe["chat_template"]: dataset for dataset in datasets if "chat_template" in dataset.recipe}
    if len(found) > 1:
        one, other, *_ = found.values()
        raise InputError(
            f"`data`: {one.path} and {other.path} are written with different chat templates, and a run has one; "
            "prepare them with the same `template`"
        )
    return {"chat_template": next(iter(found))} if found else {}


def source_names(paths: Sequence[Path]) -> list[str]:
    """Name datasets by the last part of their paths, or where two have the same there, by the whole paths."""
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def whole_weights(shares: Sequence[Fraction]) -> list[int]:
    """Give the least whole numbers in the same proportions."""
    common = math.lcm(*(share.denominator for share in shares))
    return [int(share * common) for share in shares]


def mixed_fingerprint(weighted: Sequence[tuple[str, Fraction]]) -> str:
    """Name the mixture of datasets by their fingerprints and weights, in whatever order they are given."""
    ordered, total = sorted(weighted, key=lambda pair: (-pair[1], pair[0])), sum(weight for _, weight in weighted)
    return _fingerprint([name for name, _ in ordered], [weight / total for _, weight in ordered])


def _fingerprint(fingerprints: Sequence[str | None], shares: list[Fraction]) -> str:
    content = [[fingerprint, str(share)] for fingerprint, share in zip(fingerprints, shares, strict=True)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _require_one_tokenizer(datasets: list[Dataset]) -> None:
    first = datasets[0]
    for other in datasets[1:]:
        if other.tokenizer.fingerprint != first.tokenizer.fingerprint:
            one, two = (f"{d.path} ({d.tokenizer.kind}, {d.tokenizer.vocab_size:,} ids)" for d in (first, other))
            raise InputError(
                f"`data`: {one} and {two} are written with different tokenizers: prepare one of them with the other's "
                "(`tokenizer`)"
            )


def _require_different(datasets: list[Dataset]) -> None:
    seen: dict[str, Path] = {}
    for dataset in datasets:
        before = seen.setdefault(dataset.fingerprint, dataset.path)
        if before is not dataset.path:
            raise InputError(
                f"`data`: {before} and {dataset.path} hold the same: name one of them, with the sum of the weights"
            )
