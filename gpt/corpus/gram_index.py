"""What validates, by its 13-grams; and what of training shares them, slice by slice."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt.corpus.grams import FACTOR, WORD_FACTOR, WORDS, rolling
from gpt.corpus.reading import Corpus, is_first
from gpt.corpus.slices import PASSAGES, WORD_HASHES, in_buckets, load_rows
from gpt.corpus.split import SIDES, TRAIN, VALIDATION, ByContent, division_key
from gpt.corpus.stages import digest
from gpt.files import sha256

CHUNK = 1 << 15  # words whose grams are hashed at once: as many as stay in a processor's cache
AT_ONCE = 1 << 19  # words whose passages are held against validation at once, about
OWNERS = 16  # a 13-gram of more passages than this tells nothing of one of them
NONE = np.empty(0, dtype=np.uint64)
GRAMS, PAIRS = ".grams", functools.partial(load_rows, columns=2)  # of what validates in a slice, and its passage
SORTED_AT_ONCE = 1 << 23  # of those, about
SAVED, TABLES = {"grams": "<u8", "starts": "<i8", "owners": "<u4"}, "tables.npy"  # of the index
SHARES, COMMON = ".shares.npz", ".common"  # of what trains there
OF_EACH = "keys", "lengths", "sizes"  # passage that validates, listed of a slice
LAST = 2**32 - 1  # of two numbers in one, the bits of the second


@dataclass(frozen=True, slots=True)
class Leak:
    """A passage of training that shares too much, and the passages of validation with which."""

    key: int
    characters: int
    share: float
    """Of its 13-grams, or of those of a passage of validation: the larger one."""
    others: list[int]
    """Their keys."""


@dataclass(frozen=True)
class Index:
    """The 13-grams of validation, in order, each once; and in which passages each stands."""

    place: Path
    digest: str
    grams: np.ndarray
    starts: np.ndarray
    """Where the passages of each gram begin in `owners`, and the end, (G + 1,)."""
    owners: np.ndarray
    """Numbers of passages, (P,)."""
    sizes: np.ndarray
    """How many different grams each passage has."""
    keys: np.ndarray
    lengths: np.ndarray
    """Their characters."""

    @classmethod
    def build(cls, corpus: Corpus, divide: ByContent) -> "Index":
        """Build it from all that validates, some million grams at a time, in files that the workers can read."""
        tasks = corpus.tasks(lambda listed: division_key(divide, listed), divide)
        listed = list(corpus.stages.run("indexing what validates", sort_grams, tasks))
        keys, lengths, sizes = ([one for _, each in listed for one in each[name]] for name in OF_EACH)
        before_each = np.cumsum([(0, 0), *((0, len(each["keys"])) for _, each in listed)], axis=0).astype(np.uint64)
        own = corpus.stages.own / f"index-{digest([task.key for task in tasks])}"
        own.mkdir(exist_ok=True)
        with ExitStack() as stack:
            files = [stack.enter_context(open(own / name, "wb")) for name in SAVED]
            for parts in in_buckets([Path(f"{place}{GRAMS}") for place, _ in listed], PAIRS):
                rows = _in_order([part() + before for part, before in zip(parts, before_each[:-1], strict=True)])
                starts = np.flatnonzero(is_first(rows[:, :1]))
                files[0].write(rows[starts, 0].data)
                files[1].write((starts + files[2].tell() // 4).data)
                files[2].write(rows[:, 1].astype("<u4").data)
            files[1].write(np.array([files[2].tell() // 4]).data)
        name = digest([each.key for each in corpus.slices], *(sha256(own / name) for name in SAVED))
        np.save(own / TABLES, _Filter.tables(_saved(own)[0]))
        return cls(own, name, *_saved(own), np.array(sizes), np.array(keys, dtype=np.uint64), np.array(lengths))

    def limits(self, most: float, watched: set[int]) -> np.ndarray:
        """Return how many of its grams training may know of each passage; of those that are watched, none."""
        return np.array([0.0 if each in watched else most for each in self.keys.tolist()]) * self.sizes

    def known_from_many(self, seen: np.ndarray, most: float) -> set[int]:
        """Return the keys of passages of which more than the share was met."""
        met = np.bincount(self.owners[np.repeat(seen, np.diff(self.starts))], minlength=len(self.keys))
        return {int(key) for key in self.keys[met > most * self.sizes]}


class _Grams:
    """The 13-grams that one side of a slice has, by the words that were listed of its passages.

    Of neighboring passages of a side, which are one piece of the text, a gram is of the passage in which it begins; a
    piece of fewer than 13 words has one gram.
    """

    def __init__(self, listed: Path, divide: ByContent, side: str) -> None:
        """Read the passages of a slice."""
        self.rows, self._words = np.load(f"{listed}{PASSAGES}"), Path(f"{listed}{WORD_HASHES}")
        counts = self.rows[:, 3].astype(np.int64)
        self._ends = np.cumsum(counts)  # of the passages, in words
        self._begins = self._ends - counts
        sides = divide.sides(self.rows[:, 0])
        self.is_mine = sides == SIDES.index(side)
        is_last = np.append((self.rows[1:, 2] != self.rows[:-1, 2]) | (sides[1:] != sides[:-1]), True)[: len(counts)]
        ends = self._ends[is_last]  # of the pieces
        lasts = ends[np.cumsum(is_last) - is_last] - (WORDS - 1)  # where none begins any more, for each passage
        self._stops = np.where(self.is_mine, np.maximum(np.minimum(self._ends, lasts), self._begins), self._begins)
        lengths = np.diff(ends, prepend=0) * self.is_mine[is_last]
        self._short = {length: (ends - length)[lengths == length] for length in range(1, WORDS)}
        self.sizes = self._stops - self._begins  # how many grams each passage has
        self.sizes[self.passages(np.concatenate([*self._short.values()]))] = 1

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield which words begin a gram, and the hashes, (G,) uint64 each, some at a time."""
        return itertools.chain.from_iterable(self.batches())

    def batches(self) -> Iterator[Iterator[tuple[np.ndarray, np.ndarray]]]:
        """Give of some passages at a time, whole ones, in order, what iterating yields."""
        is_last = np.append(np.diff(self._ends // AT_ONCE) > 0, True)[: len(self._ends)]
        return itertools.starmap(self._between, itertools.pairwise([0, *self._ends[is_last].tolist()]))

    def _between(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for begin in range(start, stop, CHUNK):
            end = min(stop, begin + CHUNK)
            own = slice(int(np.searchsorted(self._ends, begin, side="right")), int(np.searchsorted(self._begins, end)))
            listed = np.fromfile(self._words, dtype="<u4", count=end - begin + WORDS - 1, offset=4 * begin)
            spread = (listed.astype(np.uint64) + np.uint64(1)) * np.uint64(FACTOR)  # from hashes of 32 bits to 64
            edges = np.column_stack([self._begins[own], self._stops[own]]).clip(begin, end) - begin
            lengths = np.diff(edges.ravel(), prepend=0)
            if len(places := np.flatnonzero(np.repeat(np.arange(len(lengths)) % 2 == 1, lengths))):
                yield begin + places, rolling(spread, WORDS)[places]
            for length, starts in self._short.items():
                if len(places := starts[slice(*np.searchsorted(starts, [begin, end]))] - begin):
                    words = spread[places[:, None] + np.arange(length)].T
                    yield begin + places, functools.reduce(lambda all_, one: all_ * np.uint64(WORD_FACTOR) + one, words)

    def passages(self, places: np.ndarray) -> np.ndarray:
        """Return of which passages words are, by their places."""
        return np.searchsorted(self._ends, places, side="right")


def _saved(index: Path) -> list[np.ndarray]:
    """Map what is saved of an index into memory: grams, starts and owners."""
    files = [(index / name, kind) for name, kind in SAVED.items()]
    return [np.memmap(file, kind, "r") if file.stat().st_size else np.empty(0, kind) for file, kind in files]


def sort_grams(place: Path, text: Path, repeats: Path | None, listed: Path, divide: ByContent) -> dict[str, Any]:
    """Write the 13-grams of what validates in a slice, in order, and of each the number of its passage, (P, 2).

    Where all of a large slice validates, these are more than memory would hold: some at a time, by their first bits.
    """
    own = _Grams(listed, divide, VALIDATION)
    numbers, sizes = (np.cumsum(own.is_mine) - 1).view(np.uint64), np.zeros(own.is_mine.sum(), dtype=np.int64)
    with open(f"{place}{GRAMS}", "wb") as file:
        for first in range(1 << (bits := (int(own.sizes.sum()) // SORTED_AT_ONCE).bit_length())):
            now = ((p[here], h[here]) for p, h in own for here in [h >> np.uint64(64 - bits) == first])
            rows = _in_order([np.column_stack([h, numbers[own.passages(p)]]) for p, h in now])
            file.write((rows := rows[is_first(rows)]).data)
            sizes += np.bincount(rows[:, 1].view(np.int64), minlength=len(sizes))
    return dict(zip(OF_EACH, [*own.rows[own.is_mine, :2].T.tolist(), sizes.tolist()], strict=True))


def _in_order(parts: list[np.ndarray]) -> np.ndarray:
    """Put rows of (gram, passage) together, in order by the first; of one gram they stay as they are."""
    rows = np.concatenate([*parts, NONE.reshape(-1, 2)])
    return rows[np.argsort(rows[:, 0], kind="stable")]


def scan_slice(
    place: Path, text: Path, repeats: Path | None, listed: Path, divide: ByContent, index: Path
) -> dict[str, Any]:
    """Write what a slice's training has of validation, some passages at a time.

    This is which grams of validation it has, (M,); the share of its own ones that each passage has in common with all
    of validation, (P,); and (passage, passage of validation, grams that both have), (N, 3) uint32 in order.
    """
    hashes, starts, owners = _saved(index)
    filtered, own = _Filter(hashes, np.load(index / TABLES)), _Grams(listed, divide, TRAIN)
    seen, shares = np.zeros(len(hashes), dtype=bool), np.zeros(len(own.sizes))
    with open(f"{place}{COMMON}", "wb") as common:
        for batch in own.batches():
            found = [(places, *filtered.find(grams)) for places, grams in batch]
            if hits := [own.passages(places[which]) << 32 | met for places, which, met in found if len(which)]:
                pairs, counts = np.unique(np.concatenate(hits), return_counts=True)
                passages, met = pairs >> 32, pairs & LAST
                seen[met] = True
                np.add.at(shares, passages, counts / own.sizes[passages])
                common.write(_in_common(passages, met, starts, owners).data)
    np.savez(f"{place}{SHARES}", met=np.flatnonzero(seen), shares=shares)
    return {}


def _in_common(passages: np.ndarray, grams: np.ndarray, starts: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Count what pairs of passages have in common, but grams that too many have: (N, 3) uint32, see `scan_slice`."""
    first = starts[grams]
    several = starts[grams + 1] - first  # owners of each gram
    passages, first, several = (each[several <= OWNERS] for each in (passages, first, several))
    numbers = np.arange(int(several.sum())) - np.repeat(np.cumsum(several) - several, several)
    pairs = np.repeat(passages, several) << 32 | owners[np.repeat(first, several) + numbers]
    pairs, counts = np.unique(pairs, return_counts=True)
    return np.column_stack([pairs >> 32, pairs & LAST, counts]).astype("<u4")


def leaking(place: Path, limits: np.ndarray, most: float) -> np.ndarray:
    """Return the numbers of the passages of a slice's training that share too much, in order: see `scan_slice`."""
    passages, others, counts = _common_at(place)
    return np.union1d(passages[counts > limits[others]], np.flatnonzero(shares_at(place)["shares"] > most))


def shares_at(place: Path) -> Mapping[str, np.ndarray]:
    """Read which grams of validation a slice's training `met`, and `shares` of its passages: see `scan_slice`."""
    with np.load(f"{place}{SHARES}") as file:
        return dict(file)


def _common_at(place: Path) -> np.ndarray:
    return np.fromfile(f"{place}{COMMON}", dtype="<u4").reshape(-1, 3).T


def leaks_of(place: Path, listed: Path, index: Index, limits: np.ndarray, most: float) -> Iterator[Leak]:
    """Yield the passages of a slice's training that share too much, by what `scan_slice` found at the place."""
    (passages, others, counts), shares = _common_at(place), shares_at(place)["shares"]
    over = counts > limits[others]
    rows, numbers = np.load(f"{listed}{PASSAGES}", mmap_mode="r"), leaking(place, limits, most)
    bounds = np.searchsorted(passages, np.column_stack([numbers, numbers + 1])).tolist()
    for passage, own in zip(numbers.tolist(), bounds, strict=True):
        mine = slice(*own)
        of_other = float((counts[mine] / index.sizes[others[mine]])[over[mine]].max(initial=0.0))
        if over[mine].any() and of_other <= most:  # one that is known from many places
            of_other = float(np.nextafter(most, 1))
        chosen = others[mine] if shares[passage] > most else others[mine][over[mine]]
        key, characters = rows[passage, :2].tolist()
        yield Leak(key, characters, max(float(shares[passage]), of_other), index.keys[chosen].tolist())


class _Filter:
    """Finds hashes among those of an index: two tables of their bits say of nearly all others that they are not."""

    def __init__(self, hashes: np.ndarray, tables: np.ndarray) -> None:
        """Take the hashes, (G,) uint64 in order, and their `tables`."""
        self.hashes, self._tables = hashes, tables

    @staticmethod
    def tables(hashes: np.ndarray) -> np.ndarray:
        """Return which of their first bits the hashes have, and which of those of a product: (2, B) uint8, packed."""
        tables = np.zeros((2, 1 << min(27, max(13, len(hashes).bit_length() + 1))), dtype=np.uint8)
        for some in np.array_split(hashes, 1 + len(hashes) // AT_ONCE):
            for table, values in zip(tables, (some, some * np.uint64(FACTOR)), strict=True):
                bytes_, bits = _places(table, values)
                np.bitwise_or.at(table, bytes_, np.uint8(1) << bits)
        return tables

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of those hashes that are there, and their places in the index."""
        likely = np.flatnonzero(_is_in(self._tables[0], hashes))
        likely = likely[_is_in(self._tables[1], hashes[likely] * np.uint64(FACTOR)) == 1]
        places = np.minimum(np.searchsorted(self.hashes, hashes[likely]), len(self.hashes) - 1)
        there = self.hashes[places] == hashes[likely]
        return likely[there], places[there]


def _is_in(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the bits of a packed table that values have, (N,) uint8."""
    bytes_, bits = _places(table, values)
    return table.take(bytes_) >> bits & np.uint8(1)


def _places(table: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of a packed table, and the bits of those, that the first bits of values name."""
    shift = 65 - len(table).bit_length()
    return (values >> np.uint64(shift)).view(np.int64), (values >> np.uint64(shift - 3)).astype(np.uint8) & np.uint8(7)
