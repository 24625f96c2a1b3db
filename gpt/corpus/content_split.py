"""The split by content: which passages validate, so many that they are the share that was asked for.

1. Passages have keys (see split.py); those below a threshold validate, about a share of all characters.
2. Of a dataset that is prepared anew with more text, the length of passages and all sides stay; the threshold may fall.
3. Training text that shares too much with validation is moved there or dropped (see overlap.py).
"""

import json
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gpt.choices import Overlap
from gpt.corpus.grams import BATCH_BYTES, folded, word_hashes
from gpt.corpus.overlap import Guard
from gpt.corpus.reading import Corpus, batches
from gpt.corpus.slices import DISTINCT, PASSAGES, WORD_HASHES, in_buckets, load_rows, records_at
from gpt.corpus.split import (
    ENOUGH,
    MAX_CHARACTERS,
    SIDES,
    TOO_MUCH,
    TRAIN,
    VALIDATION,
    ByContent,
    chosen,
    cut_passages,
    distinct,
    is_among,
    key_of_folded,
    passage_size,
    require_share,
)
from gpt.corpus.stages import digest
from gpt.errors import InputError, require
from gpt.files import read_json, sha256, write_whole
from gpt.log import log

MAX_OVERLAP = 0.1
WHOLE = 1 << 62  # characters of a passage: no document is cut into several
MOST_GROWTH, MOST_SHARE = 10, 1 / 3  # times what it is to be, and of all: what validation may become by what is moved
STILL_THERE = 0.5  # of the passages that were there: what makes a corpus the same one, grown
FORMAT = ("gpt-split", 1)
SPLIT, KEYS = "split.json", "split.keys"
ENOUGH_TO_CHOOSE = 3  # times the share of the keys are looked at, since chance moves the threshold no farther
LISTED = 5  # version of what is listed of passages
OTHER = 2**64 - 1  # by which keys of what was given to validate differ from those of the same text in the input
NONE = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True)
class SplitByContent:
    """Chooses what validates: a share of the text, or all of the files that are given for it."""

    share: float = 0.1
    overlap: Overlap = "move"
    max_overlap: float = MAX_OVERLAP
    """The share of its 13-grams that a passage of training may have in common with validation."""
    whole: ClassVar[bool] = False
    """No document is cut."""

    def __post_init__(self) -> None:
        """Raise InputError for shares that cannot be."""
        require_share(self.share)
        require(0 < self.max_overlap <= 1, "`max_overlap`", self.max_overlap, "above 0 and at most 1")

    def __call__(self, corpus: Corpus) -> ByContent:
        """Choose, and write down beside the stages' results what a larger corpus is to keep."""
        useful = min(self.share, MAX_CHARACTERS / max(1, corpus.counts["characters"]))
        settings = asdict(self) | {"files_validate": any(each.validates for each in corpus.slices)}
        before = _StoredSplit.read(corpus.before, settings)
        size = WHOLE if self.whole else passage_size(useful * corpus.counts["characters"], corpus.counts["characters"])
        size = before.passage if before else size
        keys, given = _listed(corpus, size)
        known, union, common = _union(before.keys, keys) if before else (NONE, keys.file, 0)
        corpus.is_grown = before is not None and common >= STILL_THERE * max(1, len(known))
        if given:
            divide = ByContent(size, 0, (before.exceptions if before else {}) | given)
        else:
            divide = ByContent(size, *_chosen(keys, useful, before, known))
        total = float(keys.characters)
        target = max(keys.validating(divide), useful * total)
        most = max(2 * target, min(MOST_GROWTH * target, MOST_SHARE * total))
        bounds = (total, 0.0) if given else (ENOUGH * target, min(most, total / 2))  # what was given stays what it is
        divide, overlap = Guard(corpus, self.overlap, self.max_overlap, known, bounds)(divide)
        if not given and (share := keys.validating(divide) / total) > TOO_MUCH * useful:
            log.warning(
                f"{share:.0%} of the text validates, where {useful:.1%} was asked for: so much of it is like what "
                "validates; `overlap` drop leaves that out instead"
            )
        if before and common == len(known) == keys.count:  # the same again: what was done is what was done at first
            overlap = before.overlap
        corpus.report["overlap"] = overlap
        _StoredSplit(settings, size, divide.threshold, divide.exceptions, union, overlap).write(corpus.stages.own)
        return divide


class SplitWhole(SplitByContent):
    """Chooses whole documents: each trains or validates."""

    whole: ClassVar[bool] = True


def reported(corpus: Corpus, divide: ByContent) -> ByContent:
    """Report what training knows of what validates, by a split that is made elsewhere, and change nothing of it."""
    _listed(corpus, divide.passage)
    divide, corpus.report["overlap"] = Guard(corpus, "report", MAX_OVERLAP, NONE, (0.0, 0.0))(divide)
    return divide


class _Keys:
    """The keys of all passages, in order and each once, and the characters of each: a bucket at a time in memory."""

    def __init__(self, corpus: Corpus, file: Path) -> None:
        """Put together what was listed of each slice, and write the keys into a file."""
        self._listed, self.file = [Path(f"{each.passages}{DISTINCT}") for each in corpus.slices], file
        self._buckets = self.count = self.characters = 0
        with open(file, "wb") as in_order:
            for keys, lengths in self:
                self._buckets += 1
                in_order.write(keys.astype("<u8").data)
                self.count, self.characters = self.count + len(keys), self.characters + int(lengths.sum())

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for parts in in_buckets(self._listed):
            yield distinct(np.concatenate([part() for part in parts]))

    def first(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Return those below the share, and at least as many again: all of them where they are few."""
        keys, lengths = zip(*islice(self, 1 + int(ENOUGH_TO_CHOOSE * share * self._buckets)), strict=True)
        return np.concatenate(keys), np.concatenate(lengths)

    def validating(self, divide: ByContent) -> float:
        """Count the characters that validate."""
        return sum(float(lengths[divide.sides(keys) == SIDES.index(VALIDATION)].sum()) for keys, lengths in self)


def _listed(corpus: Corpus, size: int) -> tuple[_Keys, dict[int, str]]:
    """List the passages of the corpus: their keys, and which of them are to validate."""
    tasks = zip(corpus.tasks(digest(LISTED, size), size), corpus.slices, strict=True)
    tasks = [replace(task, arguments=(*task.arguments, each.validates)) for task, each in tasks]
    found = corpus.stages.run("dividing", list_passages, tasks)
    for each, (place, _) in zip(corpus.slices, found, strict=True):
        each.passages = place
    given = [np.load(f"{each.passages}{DISTINCT}")[:, 0].tolist() for each in corpus.slices if each.validates]
    return _Keys(corpus, corpus.stages.own / "new.keys"), dict.fromkeys(chain.from_iterable(given), VALIDATION)


def _union(known: Path, keys: _Keys) -> tuple[np.ndarray, Path, int]:
    """Return the keys that were known, mapped into memory; a file of these and the new ones; how many are common."""
    union, common = keys.file.with_name("union.keys"), 0
    with open(union, "wb") as together:
        for parts in in_buckets([known, keys.file], load_rows):
            old, new = (part()[:, 0] for part in parts)
            both = np.union1d(old, new)
            together.write(both.astype("<u8").data)
            common += len(old) + len(new) - len(both)
    return load_rows(known, "r")[:, 0], union, common


def _chosen(keys: _Keys, share: float, before: "_StoredSplit | None", known: np.ndarray) -> tuple[int, dict[int, str]]:
    """Return the threshold, and the passages whose side differs from what it says.

    Of a text that has grown these are, beside those of before, passages that stay where they were, although what is new
    validates to a smaller share; and a new one that is more than half of all trains.
    """
    first, lengths = keys.first(share)
    if before is None:
        return chosen(first, lengths, share, keys.characters)
    now = min(int(share * 2**64), before.threshold)
    stay = known[slice(*np.searchsorted(known, np.array([now, before.threshold], dtype=np.uint64)))]
    heavy = first[2 * lengths > keys.characters]  # one at most
    new = heavy[~is_among(known, heavy)]
    sides = dict.fromkeys(stay.tolist(), VALIDATION) | dict.fromkeys(new.tolist(), TRAIN)
    return now, sides | before.exceptions


def list_passages(place: Path, text: Path, repeats: Path | None, _: None, size: int, validates: bool) -> dict[str, Any]:
    """Write (key, characters, number of its document among those that are kept, words) of each passage of a slice.

    The hashes of its words are written, too, and the (key, characters) of different passages, in order. Where all of
    it validates as given, it has keys of its own, so that what is like it in the input does not become validation.
    """
    rows = array("Q")
    with open(f"{place}{WORD_HASHES}", "wb") as words:
        for batch in batches(_cut(text, repeats, size), lambda passage: len(passage[2]), BATCH_BYTES):
            hashes, counts = word_hashes([passage for _, _, passage in batch])
            words.write(hashes.data)
            for (number, characters, passage), count in zip(batch, counts.tolist(), strict=True):
                rows.extend((key_of_folded(passage) ^ OTHER * validates, characters, number, count))
    listed = np.array(rows, dtype=np.uint64).reshape(-1, 4)
    np.save(f"{place}{PASSAGES}", listed)
    keys, lengths = distinct(listed[:, :2])
    np.save(f"{place}{DISTINCT}", np.column_stack([keys, lengths.astype(np.uint64)]))
    return {}


def _cut(text: Path, repeats: Path | None, size: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield of each passage of a slice the number of its document, its characters, and its text, folded."""
    for number, (_, content, _) in enumerate(records_at(text, repeats)):
        if len(content) <= 2 * size:
            yield number, len(content if content.isascii() else content.decode()), folded(content)
        else:
            for passage in cut_passages(content.decode(), size):
                yield number, len(passage), folded(passage.encode())


@dataclass(frozen=True)
class _StoredSplit:
    """What is kept of a split, so that text which is added later moves nothing from one side to the other."""

    settings: dict[str, Any]
    passage: int
    threshold: int
    exceptions: dict[int, str]
    keys: Path
    """A file of those of all passages, in order."""
    overlap: dict[str, Any]
    """What the guard found and did."""

    @classmethod
    def read(cls, directory: Path | None, asked: dict[str, Any]) -> "_StoredSplit | None":
        """Read the record of a dataset that is there, if it was divided by the same settings."""
        if directory is None or not (directory / SPLIT).exists():
            return None
        try:
            content = read_json(directory / SPLIT, "a split", format=FORMAT)
            if content.pop("digest") != digest(content, sha256(directory / KEYS)):
                raise InputError(f"{directory / SPLIT} or {directory / KEYS}: is damaged")
            exceptions = {int(key): side for key, side in content["exceptions"].items()}
            rest = {name: content[name] for name in ("settings", "passage", "threshold", "overlap")}
            record = cls(**rest, exceptions=exceptions, keys=directory / KEYS)
        except (InputError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            log.warning(f"{directory}: what it keeps of its split cannot be read ({error}); the text is divided anew")
            return None
        if record.settings != asked:
            log.warning(f"{directory}: was divided by other settings; text that trained there may validate now")
            return None
        return record

    def write(self, directory: Path) -> None:
        """Write the record into a directory, and move the keys there."""
        content = {"format": FORMAT[0], "version": FORMAT[1], **vars(self)} | {"exceptions": self._sides()}
        del content["keys"]
        write_whole(directory / SPLIT, json.dumps(content | {"digest": digest(content, sha256(self.keys))}))
        self.keys.replace(directory / KEYS)

    def _sides(self) -> dict[str, str]:
        """The exceptions as JSON has them."""
        return {str(key): side for key, side in sorted(self.exceptions.items())}
