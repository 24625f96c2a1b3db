"""The split by content: which passages validate, so many that they are the share that was asked for.

1. Passages have keys (see split.py); those below a threshold validate, about a share of all characters.
2. Of a dataset that is prepared anew with more text, the threshold, the length of passages and all sides stay.
3. Training text that shares too much with validation is moved there or dropped (see overlap.py).
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gpt.choices import Overlap
from gpt.corpus.grams import BATCH_BYTES, folded, word_hashes
from gpt.corpus.overlap import Guard
from gpt.corpus.reading import PASSAGES, WORD_HASHES, Corpus, batches, records_at
from gpt.corpus.split import (
    ENOUGH,
    MAX_CHARACTERS,
    SIDES,
    TOO_MUCH,
    TRAIN,
    VALIDATION,
    ByContent,
    ByEnd,
    cut_passages,
    distinct,
    key_of_folded,
    passage_size,
    require_share,
    threshold,
)
from gpt.corpus.stages import digest
from gpt.errors import InputError, require
from gpt.files import read_json, write_whole
from gpt.log import log

MAX_OVERLAP = 0.1
WHOLE = 1 << 62  # characters of a passage: no document is cut into several
MOST_GROWTH, MOST_SHARE = 10, 1 / 3  # times what it is to be, and of all: what validation may become by what is moved
STILL_THERE = 0.5  # of the passages that were there: what makes a corpus the same one, grown
FORMAT = ("gpt-split", 1)
RECORD, KEYS = "split.json", "split.keys"
LISTED = 2  # version of what is listed of passages


@dataclass(frozen=True)
class SplitByContent:
    """Chooses what validates: a share of the text, or of some files all."""

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

    def __call__(self, corpus: Corpus) -> ByContent | ByEnd:
        """Choose, and write down beside the stages' results what a larger corpus is to keep."""
        useful = min(self.share, MAX_CHARACTERS / max(1, corpus.counts["characters"]))
        settings = asdict(self) | {"files_validate": any(each.validates for each in corpus.slices)}
        before = _Record.read(corpus.before, settings)
        size = WHOLE if self.whole else passage_size(useful * corpus.counts["characters"])
        size = before.passage if before else size
        keys, lengths, given = _listed(corpus, size)
        known = before.keys if before else keys[:0]
        corpus.is_grown = before is not None and np.isin(known, keys, assume_unique=True).mean() >= STILL_THERE
        if given:
            divide = ByContent(size, 0, (before.exceptions if before else {}) | given)
        else:
            divide = ByContent(size, *_chosen(keys, lengths, useful, before))
        total, validating = float(lengths.sum()), _validating(divide, keys, lengths)
        if validating > total / 2 and not given:
            return self._by_end(keys, useful)
        target = max(validating, useful * total)
        most = max(2 * target, min(MOST_GROWTH * target, MOST_SHARE * total))
        bounds = (ENOUGH * target, min(most, total / 2))
        mode = "drop" if given and self.overlap == "move" else self.overlap  # what was given is all that validates
        divide, overlap = Guard(corpus, mode, self.max_overlap, known, bounds)(divide)
        share = _validating(divide, keys, lengths) / total
        if not given and share > TOO_MUCH * useful:
            log.warning(
                f"{share:.0%} of the text validates, where {useful:.1%} was asked for: so much of it is like what "
                "validates; `overlap` drop leaves that out instead"
            )
        if before and np.array_equal(known, keys):  # the same again: what was done to it is what was done at first
            overlap = before.overlap
        corpus.report["overlap"] = overlap
        record = _Record(settings, size, divide.threshold, divide.exceptions, np.union1d(known, keys), overlap)
        record.write(corpus.stages.own)
        return divide

    def _by_end(self, keys: np.ndarray, share: float) -> ByEnd:
        """Divide what has too few different passages. Raises InputError where no document may be cut."""
        if self.whole:
            raise InputError(
                f"{len(keys):,} different examples are too few to divide, or one outweighs the others: give more of "
                "them, or others by `validation`. Nothing was written"
            )
        log.warning("the text is too short, or too much like itself, to be divided by content: its end validates")
        return ByEnd(share)


class SplitWhole(SplitByContent):
    """Chooses whole documents: each trains or validates."""

    whole: ClassVar[bool] = True


def reported(corpus: Corpus, divide: ByContent) -> ByContent:
    """Report what training knows of what validates, by a split that is made elsewhere, and change nothing of it."""
    keys, _, _ = _listed(corpus, divide.passage)
    divide, corpus.report["overlap"] = Guard(corpus, "report", MAX_OVERLAP, keys[:0], (0.0, 0.0))(divide)
    return divide


def _listed(corpus: Corpus, size: int) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """List the passages of the corpus: keys in order, the characters of each, and which of them are to validate."""
    tasks = corpus.tasks(digest(LISTED, size), size)
    corpus.passages = [place for place, _ in corpus.stages.run("dividing", list_passages, tasks)]
    rows = [np.load(f"{place}{PASSAGES}") for place in corpus.passages]
    given = [row[:, 0] for row, each in zip(rows, corpus.slices, strict=True) if each.validates]
    return *distinct(np.concatenate([row[:, :2] for row in rows])), {
        int(key): VALIDATION for part in given for key in part
    }


def _validating(divide: ByContent, keys: np.ndarray, lengths: np.ndarray) -> float:
    """Count the characters that validate."""
    return float(lengths[divide.sides(keys) == SIDES.index(VALIDATION)].sum())


def _chosen(
    keys: np.ndarray, lengths: np.ndarray, share: float, before: "_Record | None"
) -> tuple[int, dict[int, str]]:
    """Return the threshold, which is the share, and the passages that validate or do not although it says otherwise.

    These are some of a small text, of which chance would choose far too much or too little; and of a text that has
    grown those that stay where they were, although what is new validates to a smaller share.
    """
    usual = int(share * 2**64)
    if before is None:
        limit = threshold(keys, lengths, share)
        between = keys[(keys >= min(usual, limit)) & (keys < max(usual, limit))] if usual != limit else keys[:0]
        return usual, dict.fromkeys(between.tolist(), VALIDATION if limit > usual else TRAIN)
    now = min(usual, before.threshold)
    stay = before.keys[(before.keys >= now) & (before.keys < before.threshold)]
    return now, dict.fromkeys(stay.tolist(), VALIDATION) | before.exceptions


def list_passages(place: Path, text: Path, kept: np.ndarray, _: None, size: int) -> dict[str, Any]:
    """Write (key, characters, number of its document among those that are kept, words) of each passage of a slice.

    The hashes of its words are written, too.
    """
    rows = list[tuple[int, int, int, int]]()
    with open(f"{place}{WORD_HASHES}", "wb") as words:
        for batch in batches(_cut(text, kept, size), lambda passage: len(passage[2]), BATCH_BYTES):
            hashes, counts = word_hashes([passage for _, _, passage in batch])
            words.write(hashes.data)
            rows += [
                (key_of_folded(passage), characters, number, count)
                for (number, characters, passage), count in zip(batch, counts.tolist(), strict=True)
            ]
    np.save(f"{place}{PASSAGES}", np.array(rows, dtype=np.uint64).reshape(-1, 4))
    return {}


def _cut(text: Path, kept: np.ndarray, size: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield of each passage of a slice the number of its document, its characters, and its text, folded."""
    for number, (_, content, _) in enumerate(records_at(text, kept)):
        if len(content) <= 2 * size:
            yield number, len(content if content.isascii() else content.decode()), folded(content)
        else:
            for passage in cut_passages(content.decode(), size):
                yield number, len(passage), folded(passage.encode())


@dataclass(frozen=True)
class _Record:
    """What is kept of a split, so that text which is added later moves nothing from one side to the other."""

    settings: dict[str, Any]
    passage: int
    threshold: int
    exceptions: dict[int, str]
    keys: np.ndarray
    """Of all passages, in order."""
    overlap: dict[str, Any]
    """What the guard found and did."""

    @classmethod
    def read(cls, directory: Path | None, asked: dict[str, Any]) -> "_Record | None":
        """Read the record of a dataset that is there, if it was divided by the same settings."""
        if directory is None or not (directory / RECORD).exists():
            return None
        try:
            content = read_json(directory / RECORD, "a split", format=FORMAT)
            keys = np.fromfile(directory / KEYS, dtype="<u8")
            if content.pop("digest") != digest(content, keys):
                raise InputError(f"{directory / RECORD} or {directory / KEYS}: is damaged")
            exceptions = {int(key): side for key, side in content["exceptions"].items()}
            rest = {name: content[name] for name in ("settings", "passage", "threshold", "overlap")}
            record = cls(**rest, exceptions=exceptions, keys=keys)
        except (InputError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            log.warning(f"{directory}: what it keeps of its split cannot be read ({error}); the text is divided anew")
            return None
        if record.settings != asked:
            log.warning(f"{directory}: was divided by other settings; text that trained there may validate now")
            return None
        return record

    def write(self, directory: Path) -> None:
        """Write the record into a directory."""
        keys = self.keys.astype("<u8")
        keys.tofile(directory / KEYS)
        content = {"format": FORMAT[0], "version": FORMAT[1], **vars(self)} | {"exceptions": self._sides()}
        del content["keys"]
        write_whole(directory / RECORD, json.dumps(content | {"digest": digest(content, keys)}))

    def _sides(self) -> dict[str, str]:
        """The exceptions as JSON has them."""
        return {str(key): side for key, side in sorted(self.exceptions.items())}
