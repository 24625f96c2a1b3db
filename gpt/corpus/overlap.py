"""The guard of the validation split: training text that shares more than a stated part of its 13-grams with it.

1. The 13-grams of all that validates are put in order, with the passages in which each stands.
2. Every passage of training is held against them. It shares too much if that is more than the stated part of its own
   13-grams, or of those of one passage of validation, as where that is quoted.
3. What shares too much is moved to validation, or dropped; where validation would become too large, its passages go to
   training instead. Then it begins again, until there is nothing more to do; no passage moves twice. If a passage of
   validation is still known from many places, a little from each, all that knows any of it shares too much.

Of two passages that were on opposite sides before text was added, none moves. Of one that was there and a new one, the
new one does: it goes to the side of the other.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt.choices import Overlap
from gpt.corpus.grams import BATCH_CHARACTERS, grams
from gpt.corpus.reading import Corpus, documents_at
from gpt.corpus.split import DROPPED, TRAIN, VALIDATION, ByContent, key_of, passages
from gpt.corpus.stages import Task, digest
from gpt.errors import InputError
from gpt.log import log

FOLLOWING = 1000  # characters, in which 12 words stand
OWNERS = 16  # a 13-gram of more passages than this tells nothing of one of them
MOST_DROPPED = 0.5  # of the text, before that is an error
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


@dataclass
class OverlapReport:
    """Shares of the 13-grams of validation, each counted once, that training has, too; and what was done."""

    before: float = 0.0
    after: float = 0.0
    grams: int = 0
    """Of validation, in the end."""
    moved: int = 0
    """Passages of training to validation."""
    returned: int = 0
    """Passages of validation to training."""
    dropped: int = 0
    left: int = 0
    """Passages of training that share too much and are left there."""


class Guard:
    """Finds what shares too much, and changes sides until nothing does."""

    def __init__(
        self, corpus: Corpus, mode: Overlap, most: float, known: np.ndarray, bounds: tuple[float, float]
    ) -> None:
        """Take the keys that were divided before, in order, and how many characters validation may come to have."""
        self._corpus, self._mode, self._most, self._known, self._bounds = corpus, mode, most, known, bounds

    def __call__(self, divide: ByContent) -> tuple[ByContent, dict[str, Any]]:
        """Return what divides the text, and the report. Raises InputError where too much would be dropped."""
        report, watched, first = OverlapReport(), set[int](), True
        while True:
            index = Index.build(self._corpus, divide, self._most, watched)
            leaks, seen = self._scan(divide, index)
            report.after, report.grams, report.left = index.share(seen), len(index.grams), len(leaks)
            if first:
                report.before, first = report.after, False
            changes = self._changes(divide, leaks, index, report) if self._mode != "report" else {}
            if changes:
                divide = replace(divide, exceptions=divide.exceptions | changes)
                continue
            more = index.known_from_many(seen, self._most) - watched if self._mode != "report" else set()
            if not more:
                return divide, self._said(report)
            watched |= more

    def _scan(self, divide: ByContent, index: "Index") -> tuple[list[Leak], np.ndarray]:
        """Hold all of training against the index: what shares too much, and which grams were met, (G,) bool."""
        leaks, seen = list[Leak](), np.zeros(len(index.grams), dtype=bool)
        arguments = (divide, index.place, self._most)
        tasks = _tasks(self._corpus, digest(asdict(divide), index.digest, self._most), arguments)
        for place, found in self._corpus.stages.run("comparing training with validation", scan_slice, tasks):
            leaks += [Leak(*leak) for leak in found["leaks"]]
            seen |= np.unpackbits(np.load(f"{place}{SEEN}"), count=len(seen)).astype(bool)
        return leaks, seen

    def _changes(self, divide: ByContent, leaks: list[Leak], index: "Index", report: OverlapReport) -> dict[int, str]:
        """Choose new sides, by key, for what shares most at first, as far as that is allowed."""
        self._require_little(leaks)
        lengths = dict(zip(index.keys.tolist(), index.lengths.tolist(), strict=True))
        changes, size, (least, most) = dict[int, str](), float(index.lengths.sum()), self._bounds
        for leak in sorted(leaks, key=lambda leak: (-leak.share, leak.key)):
            stays = self._is_known(leak.key) or leak.key in divide.exceptions
            if self._mode == "drop" and not stays:
                changes[leak.key] = DROPPED
                report.dropped += 1
            elif size + leak.characters <= most and not stays:
                changes[leak.key] = VALIDATION
                size += leak.characters
                report.moved += 1
            else:
                for other in leak.others:
                    free = not (self._is_known(other) or other in divide.exceptions or other in changes)
                    if free and (self._is_known(leak.key) or size - lengths[other] >= least):
                        changes[other] = TRAIN
                        size -= lengths[other]
                        report.returned += 1
        return changes

    def _require_little(self, leaks: list[Leak]) -> None:
        """Raise InputError where too much would be dropped."""
        total = sum(leak.characters for leak in leaks)
        if self._mode == "drop" and total > MOST_DROPPED * self._corpus.counts["characters"]:
            raise InputError(
                f"`overlap` drop would leave out {total:,} of {self._corpus.counts['characters']:,} characters: so "
                "much shares its 13-grams with validation, as texts do that are made from a template; give `overlap` "
                "report, or a larger `max_overlap`"
            )

    def _is_known(self, key: int) -> bool:
        place = int(np.searchsorted(self._known, np.uint64(key)))
        return place < len(self._known) and int(self._known[place]) == key

    def _said(self, report: OverlapReport) -> dict[str, Any]:
        done = [f"{count:,} {words}" for count, words in (
            (report.moved, "moved to validation"),
            (report.returned, "moved to training"),
            (report.dropped, "dropped"),
        ) if count]  # fmt: skip
        was = f", and was {report.before:.2%} before: of passages {', '.join(done)}" if done else ""
        log.info(f"overlap: {report.after:.2%} of validation's 13-grams stand in training{was}")
        if report.left:
            log.warning(
                f"{report.left:,} passages of training share more than {self._most:.0%} with validation, as texts do "
                "that are made from a template; `overlap` drop leaves them out"
            )
        return asdict(report)


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
        tasks = _tasks(corpus, digest(asdict(divide)), (divide,))
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
        own = digest(key, corpus.digests, hashlib.sha256(unique).hexdigest())
        index = cls(
            corpus.stages.directory / f"index-{own}.npz", own, unique, np.append(starts, len(owners)), owners, sizes,
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


def _tasks(corpus: Corpus, key: str, arguments: tuple[Any, ...]) -> list[Task]:
    slices = zip(corpus.digests, corpus.labels, corpus.places, corpus.kept, strict=True)
    return [
        Task(digest(own, hashlib.sha256(kept).hexdigest(), key), label, (text, kept, *arguments))
        for own, label, text, kept in slices
    ]


def _passages(text: Path, kept: np.ndarray, divide: ByContent, side: str) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yield key, text and grams of the passages of one side; those of a piece have the grams of the whole piece."""
    batch, size = list[tuple[int, str, str]](), 0

    def hashed() -> Iterator[tuple[int, str, np.ndarray]]:
        found = grams([(passage, following) for _, passage, following in batch])
        for (key, passage, _), own in zip(batch, found, strict=True):
            yield key, passage, own

    for document in documents_at(text, kept):
        for key, passage, following in _with_following(document.text, divide, side):
            batch.append((key, passage, following))
            size += len(passage)
            if size >= BATCH_CHARACTERS:
                yield from hashed()
                batch, size = [], 0
    yield from hashed()


def _with_following(text: str, divide: ByContent, side: str) -> Iterator[tuple[int, str, str]]:
    """Yield key and text of a document's passages of one side, and the beginning of what follows on the same side."""
    before: tuple[int, str] | None = None
    for passage in passages(text, divide.passage):
        key = key_of(passage)
        is_mine = divide.side(key) == side
        if before is not None:
            yield *before, passage[:FOLLOWING] if is_mine else ""
        before = (key, passage) if is_mine else None
    if before is not None:
        yield *before, ""


def list_grams(place: Path, text: Path, kept: np.ndarray, divide: ByContent) -> dict[str, Any]:
    """Write the 13-grams of what validates in a slice, (P, 2) of each gram and the number of its passage."""
    pairs, keys, lengths = [np.empty((0, 2), dtype=np.uint64)], list[int](), list[int]()
    for key, passage, found in _passages(text, kept, divide, VALIDATION):
        own = np.unique(found)
        pairs.append(np.column_stack([own, np.full(len(own), len(keys), dtype=np.uint64)]))
        keys.append(key)
        lengths.append(len(passage))
    np.save(f"{place}{GRAMS}", np.concatenate(pairs))
    return {"keys": keys, "lengths": lengths}


def scan_slice(
    place: Path, text: Path, kept: np.ndarray, divide: ByContent, index: Path, most: float
) -> dict[str, Any]:
    """Find what of a slice's training shares too much; write which grams of validation it has."""
    with np.load(index) as content:
        held = dict(content)
    seen, filtered = np.zeros(len(held["grams"]), dtype=bool), _Filter(held["grams"])
    leaks = []
    for key, passage, found in _passages(text, kept, divide, TRAIN):
        met = filtered.find(found)
        if len(met):
            seen[met] = True
            share, others = _shares(met, len(found), held, most)
            if share > most:
                leaks.append(asdict(Leak(key, len(passage), share, others)).values())
    np.save(f"{place}{SEEN}", np.packbits(seen))
    return {"leaks": [list(leak) for leak in leaks]}


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
        bits = min(26, max(16, len(hashes).bit_length() + 2))
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, dtype=bool)
        self._table[(hashes >> self._shift).astype(np.int64)] = True

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Return the places of those that are there, with repetitions."""
        likely = hashes[self._table[(hashes >> self._shift).astype(np.int64)]]
        places = np.searchsorted(self._hashes, likely)
        return (
            places[self._hashes[np.minimum(places, len(self._hashes) - 1)] == likely]
            if len(self._hashes)
            else places[:0]
        )
