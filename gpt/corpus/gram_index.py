"""What validates, by its 13-grams; and what of training shares them, slice by slice."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt.corpus.grams import BATCH_CHARACTERS, grams
from gpt.corpus.reading import PASSAGES, Corpus, documents_at
from gpt.corpus.split import SIDES, TRAIN, VALIDATION, ByContent, cut
from gpt.corpus.stages import digest

FOLLOWING = 1000  # characters, in which 12 words stand
OWNERS = 16  # a 13-gram of more passages than this tells nothing of one of them
GRAMS, SEEN = ".grams.npy", ".seen.npy"


@dataclass(frozen=True)
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
    limits: np.ndarray
    """How many of its grams training may know of each passage."""
    lengths: np.ndarray
    """Their characters."""

    @classmethod
    def build(cls, corpus: Corpus, divide: ByContent, most: float, watched: set[int]) -> "Index":
        """Build it from all that validates, and save it where the workers can read it."""
        key = (asdict(divide), most, sorted(watched))
        pairs, keys, lengths, base = [np.empty((0, 2), dtype=np.uint64)], list[int](), list[int](), 0
        tasks = corpus.tasks(digest(asdict(divide)), divide)
        for place, found in corpus.stages.run("indexing what validates", list_grams, tasks):
            pairs.append(np.load(f"{place}{GRAMS}"))
            pairs[-1][:, 1] += np.uint64(base)
            keys += found["keys"]
            lengths += found["lengths"]
            base = len(keys)
        together = np.concatenate(pairs)
        together = together[np.lexsort((together[:, 1], together[:, 0]))]
        unique, starts = np.unique(together[:, 0], return_index=True)
        owners = together[:, 1].astype(np.int64)
        sizes = np.bincount(owners, minlength=len(keys))
        limits = np.array([0.0 if each in watched else most for each in keys]) * sizes
        own = digest(key, corpus.digests, unique)
        index = cls(
            corpus.stages.own / f"index-{own}.npz", own, unique, np.append(starts, len(owners)), owners, sizes,
            np.array(keys, dtype=np.uint64), limits, np.array(lengths, dtype=np.int64),
        )  # fmt: skip
        np.savez(
            index.place, grams=unique, starts=index.starts, owners=owners, sizes=sizes, keys=index.keys, limits=limits
        )
        return index

    def share(self, seen: np.ndarray) -> float:
        """Return the share of the grams that were met."""
        return float(seen.mean()) if len(seen) else 0.0

    def known_from_many(self, seen: np.ndarray, most: float) -> set[int]:
        """Return the keys of passages of which more than the share was met."""
        met = np.bincount(self.owners, weights=np.repeat(seen, np.diff(self.starts)), minlength=len(self.keys))
        return {int(key) for key in self.keys[met > most * self.sizes]}


Passage = tuple[int, str, str]  # its key, its text, and what follows on the same side


def _passages(text: Path, kept: np.ndarray, listed: Path, divide: ByContent, side: str) -> Iterator[list[Passage]]:
    """Yield the passages of one side, some at a time."""
    rows = np.load(f"{listed}{PASSAGES}")
    is_mine = divide.sides(rows[:, 0]) == SIDES.index(side)
    wanted, batch, size = np.unique(rows[is_mine, 2]), list[Passage](), 0
    starts = np.searchsorted(rows[:, 2], wanted).tolist()
    stops = np.searchsorted(rows[:, 2], wanted, side="right").tolist()
    mine, keys, lengths = is_mine.tolist(), rows[:, 0].tolist(), rows[:, 1].tolist()
    chosen = np.zeros(len(kept), dtype=bool)
    chosen[np.flatnonzero(kept)[wanted.astype(np.int64)]] = True
    for document, start, stop in zip(documents_at(text, chosen), starts, stops, strict=True):
        texts = [*cut(document.text, lengths[start:stop]), ""]
        for place, passage, following in zip(range(start, stop), texts, texts[1:], strict=False):
            if mine[place]:
                goes_on = place + 1 < stop and mine[place + 1]
                batch.append((keys[place], passage, following[:FOLLOWING] if goes_on else ""))
                size += len(passage)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    yield batch


def list_grams(place: Path, text: Path, kept: np.ndarray, listed: Path, divide: ByContent) -> dict[str, Any]:
    """Write the 13-grams of what validates in a slice, (P, 2) of each gram and the number of its passage."""
    pairs, keys, lengths = [np.empty((0, 2), dtype=np.uint64)], list[int](), list[int]()
    for batch in _passages(text, kept, listed, divide, VALIDATION):
        for (key, passage, _), found in zip(batch, grams([each[1:] for each in batch]), strict=True):
            own = np.unique(found)
            pairs.append(np.column_stack([own, np.full(len(own), len(keys), dtype=np.uint64)]))
            keys.append(key)
            lengths.append(len(passage))
    np.save(f"{place}{GRAMS}", np.concatenate(pairs))
    return {"keys": keys, "lengths": lengths}


def scan_slice(
    place: Path, text: Path, kept: np.ndarray, listed: Path, divide: ByContent, index: Path, most: float
) -> dict[str, Any]:
    """Find what of a slice's training shares too much; write which grams of validation it has."""
    with np.load(index) as content:
        held = dict(content)
    seen, filtered = np.zeros(len(held["grams"]), dtype=bool), _Filter(held["grams"])
    leaks = []
    for batch in _passages(text, kept, listed, divide, TRAIN):
        found = list(grams([each[1:] for each in batch]))
        ends = np.cumsum([len(own) for own in found])
        which, met = filtered.find(np.concatenate([held["grams"][:0], *found]))
        seen[met] = True
        owners = np.searchsorted(ends, which, side="right")
        for number in np.unique(owners).tolist():
            key, passage, _ = batch[number]
            share, others = _shares(met[owners == number], len(found[number]), held, most)
            if share > most:
                leaks.append(list(asdict(Leak(key, len(passage), share, others)).values()))
    np.save(f"{place}{SEEN}", np.packbits(seen))
    return {"leaks": leaks}


def _shares(met: np.ndarray, size: int, held: dict[str, np.ndarray], most: float) -> tuple[float, list[int]]:
    """Return what a passage shares with validation, and the keys of the passages there with which.

    `met` are the places of its grams in the index, of `size` grams in all.
    """
    own, starts = len(met) / size, held["starts"]
    met = np.unique(met)
    met = met[starts[met + 1] - starts[met] <= OWNERS]
    owners = np.concatenate([held["owners"][starts[gram] : starts[gram + 1]] for gram in met]) if len(met) else met
    owners, counts = np.unique(owners, return_counts=True)
    over = counts > held["limits"][owners]
    of_other = float((counts / held["sizes"][owners])[over].max(initial=0.0))
    if over.any() and of_other <= most:  # one that is known from many places
        of_other = float(np.nextafter(most, 1))
    chosen = owners if own > most else owners[over]
    return max(own, of_other), held["keys"][chosen].tolist()


class _Filter:
    """Finds hashes among those of an index: a table of their first bits says of most that they are not there."""

    def __init__(self, hashes: np.ndarray) -> None:
        self._hashes = hashes
        bits = min(27, max(16, len(hashes).bit_length() + 3))
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, dtype=bool)
        self._table[(hashes >> self._shift).astype(np.int64)] = True

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of those hashes that are there, and their places in the index."""
        likely = np.flatnonzero(self._table.take(hashes >> self._shift, mode="clip"))
        if not len(likely) or not len(self._hashes):
            return likely[:0], likely[:0]
        places = np.minimum(np.searchsorted(self._hashes, hashes[likely]), len(self._hashes) - 1)
        there = self._hashes[places] == hashes[likely]
        return likely[there], places[there]
