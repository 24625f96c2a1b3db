"""Where the documents of a dataset come from: of which document of the input each was made.

Shards follow the order of the slices, and a slice's part of the ledger says in order how many documents of each split a
document of the input became. So a document's number is found by counting, in the part of one slice.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from gpt.corpus.assembly import SLICES, read_slices
from gpt.corpus.documents import Range
from gpt.corpus.ledger import LEDGER, read_ledger
from gpt.dataset.dataset import Dataset
from gpt.dataset.manifest import SPLITS
from gpt.dataset.samples import SamplePiece
from gpt.dataset.shards import REPAIR
from gpt.errors import InputError
from gpt.log import log
from gpt.terminal import one_line


def has_ledger(directory: Path) -> bool:
    """Tell whether a dataset has a ledger: those of other programs, and of older versions, have none."""
    return (directory / LEDGER).exists()


@dataclass
class _Place:
    """Where in the ledger the search for a split stands: at the document called `name`."""

    slice: int = -1
    first: int = 0
    """The first document of the split that was made of it; `stop` is the first that was not."""
    stop: int = 0
    following: Iterator[tuple[int, str]] = field(default_factory=lambda: iter(()))
    """How many were made of each that comes after it, and what that is called."""
    name: str = ""


class Origins:
    """Names the documents of the input, such as 'notes/a.jsonl, line 7', of which a dataset's documents were made."""

    def __init__(self, dataset: Dataset) -> None:
        """Read what the dataset says of its slices. Raises InputError if that is damaged, or is of other shards."""
        self._path = dataset.path
        slices = read_slices(dataset.path).get("slices")
        try:
            if not isinstance(slices, dict):
                raise TypeError
            shards = [entry["result"]["shards"] for entry in slices.values()]
            self._parts = [Range(begin, begin + size) for begin, size in (e["ledger"] for e in slices.values())]
            self._ends = {  # of each split: the documents up to the end of each slice
                split: [*accumulate(sum(s["documents"] for s in own if s["split"] == split) for own in shards)]
                for split in SPLITS
            }
            hashes = [[s["sha256"] for own in shards for s in own if s["split"] == split] for split in SPLITS]
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{dataset.path / SLICES}: cannot be read, or is damaged; {REPAIR}") from None
        if hashes != [[info.sha256 for info in dataset.shards if info.split == split] for split in SPLITS]:
            raise InputError(f"{dataset.path / SLICES}: is of other shards than manifest.json; {REPAIR}")
        self._places = {split: _Place() for split in SPLITS}

    def of(self, split: str, number: int) -> str:
        """Return the name of what a document was made of; quickest where numbers are asked for in order.

        Raises InputError if the ledger is damaged, or does not count so many documents.
        """
        place, ends = self._places[split], self._ends[split]
        index = bisect_right(ends, number)
        if index < len(ends) and (index != place.slice or number < place.first):
            begin = ends[index - 1] if index else 0
            place = self._places[split] = _Place(index, begin, begin, self._named(split, self._parts[index]))
        while number >= place.stop:
            count, place.name = next(place.following, (0, ""))
            if not count:
                raise InputError(
                    f"{self._path / LEDGER}: has no document {number:,} of {split}, and the shards do; {REPAIR}"
                )
            place.first, place.stop = place.stop, place.stop + count
        return place.name

    def _named(self, split: str, part: Range) -> Iterator[tuple[int, str]]:
        for entry in read_ledger(self._path, part):
            if entry.get(split, 0) > 0:
                yield entry[split], entry["document"]


class Names:
    """Says where the documents of a dataset come from, as far as it has kept that."""

    def __init__(self, dataset: Dataset) -> None:
        self._origins: Origins | None = None
        try:
            self._origins = Origins(dataset) if has_ledger(dataset.path) else None
        except InputError as error:
            self._give_up(error)

    def __call__(self, split: str, number: int) -> str:
        """Return the name of what a document was made of; '' where that is not known, which is said once."""
        try:
            return one_line(self._origins.of(split, number)) if self._origins else ""
        except InputError as error:
            self._give_up(error)
            return ""

    def _give_up(self, error: InputError) -> None:
        log.warning(f"{error}; so documents are shown without the names of what they were made of")
        self._origins = None


def names_of(dataset: Dataset, pieces: Sequence[SamplePiece]) -> dict[tuple[int, int], str]:
    """Name what the documents of samples were made of, by (source, number); those of which it is known."""
    numbers = {(piece.source, number) for piece in pieces for number in range(piece.first, piece.last + 1)}
    names = {source: Names(dataset.sources[source].dataset) for source in {source for source, _ in numbers}}
    found = {(source, number): names[source]("train", number) for source, number in sorted(numbers)}
    return {document: name for document, name in found.items() if name}
