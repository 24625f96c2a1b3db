"""The ledger of a corpus, ledger.jsonl.gz: what became of every document, and of every byte of the input.

A line for each document, in the order of reading: its name, its bytes in UTF-8, and of how many documents of each split
it became part; or the reason why it was left out. After those of a file comes one for the file: its bytes, and how many
of them were no text, such as the fields of a record, markup, or what packing saves (then fewer than none). A large file
has several, each for what comes before it, and a pipe, whose bytes nobody counts, has none of its own.
"""

import functools
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt.corpus.documents import Range
from gpt.corpus.ranges import opened
from gpt.corpus.slices import ENTRIES, names_at, repeats_at, slices_of
from gpt.corpus.split import Piece
from gpt.corpus.stages import digest
from gpt.dataset.manifest import SPLITS
from gpt.dataset.shards import REPAIR
from gpt.errors import InputError
from gpt.files import parse_json, read_json, write_whole

LEDGER = "ledger.jsonl.gz"
PART = ".ledger.gz"  # of a slice
NUMBER = re.compile(r"(?<![\w-])\d(?:[\d,.]*\d)?")  # and not the 8 of UTF-8
REPEATS = "the same content as "
OVERLAPS = "shares its 13-grams with validation"
LONGEST = 1 << 20  # bytes of an entry
GZIP = 31  # what zlib calls a gzip file of the largest window
MOST_SOURCES = 100  # of a slice, the largest, that are reported


@dataclass
class Outcome:
    """What became of a document that was kept: in how many pieces it is in each split."""

    characters: int
    """That are in no piece."""
    pieces: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    """Why it is left out, if it is."""
    kept: int = 0
    """Characters that are in a piece."""

    def add(self, piece: Piece) -> None:
        self.characters, self.kept = self.characters - len(piece.text), self.kept + len(piece.text)
        self.pieces[piece.split] = self.pieces.get(piece.split, 0) + 1

    def leave_out(self, reason: str) -> None:
        """Take it out of all pieces."""
        self.pieces.clear()
        self.reason, self.kept = reason, 0


def write_spool(directory: Path, places: Sequence[str], bases: Sequence[int]) -> Path:
    """Write down where the slices lie, and with which number the documents of each begin; return the file."""
    file = directory / f"spool-{digest(places)}.json"
    write_whole(file, json.dumps({"places": places, "bases": bases}))
    return file


def write_ledger(
    place: Path, text: Path, repeats: Path | None, spool: Path, outcomes: Iterator[Outcome]
) -> dict[str, Any]:
    """Write a slice's part of the ledger, entry by entry, and sum it up; outcomes are asked for as they are entered."""
    reasons, read, used, documents_kept = Counter[str](), Counter[str](), Counter[str](), 0
    number, longest, size, characters, packing = 0, [0, ""], 0, 0, zlib.compressobj(6, wbits=GZIP)
    repeated = _repeated(rows, spool) if len(rows := repeats_at(repeats)) else {}
    with open(f"{text}{ENTRIES}", encoding="utf-8") as entries, open(f"{place}{PART}", "wb") as packed:
        for line in entries:
            entry = json.loads(line)
            if "source" in entry:
                entry["other"] = entry["bytes"] - size
                read[entry["source"]] += entry["bytes"]
                used[entry["source"]] += characters
                size = characters = 0
            else:
                size += entry["bytes"]
                if "reason" not in entry:
                    longest = max(longest, [entry["bytes"], entry["document"]])
                    outcome = Outcome(0, reason=repeated[number]) if number in repeated else next(outcomes)
                    entry |= _fate(outcome)
                    characters += outcome.kept
                    documents_kept += bool(outcome.pieces)
                    number += 1
                if "reason" in entry:
                    reasons[kind_of(entry["reason"])] += 1
            packed.write(packing.compress(f"{json.dumps(entry)}\n".encode()))
        packed.write(packing.flush())
    assert next(outcomes, None) is None
    largest = dict(used.most_common(MOST_SOURCES))
    sources = {"read": {name: read[name] for name in largest}, "kept": largest}
    sums = {"documents_kept": documents_kept, "characters_kept": used.total()}
    return sums | {"longest": longest, "left_out": dict(reasons), "sources": sources}


def _fate(outcome: Outcome) -> dict[str, Any]:
    fate: dict[str, Any] = {split: outcome.pieces[split] for split in SPLITS if split in outcome.pieces}
    if outcome.reason:
        fate["reason"] = outcome.reason
    elif outcome.characters:
        fate |= {"dropped_characters": outcome.characters, "reason": OVERLAPS}
    return fate


def _repeated(repeats: np.ndarray, spool: Path) -> dict[int, str]:
    """Say what each document repeats, by its number; `repeats` are as `repeats_at` has them."""
    places, bases = _spool(spool)
    slices, numbers = slices_of(repeats[:, 1], np.array(bases))
    reasons = dict[int, str]()
    for each in np.unique(slices).tolist():
        own = slices == each
        for number, name in zip(repeats[own, 0].tolist(), names_at(Path(places[each]), numbers[own]), strict=True):
            reasons[number] = f"{REPEATS}{name}"
    return reasons


@functools.lru_cache(maxsize=2)
def _spool(file: Path) -> tuple[list[str], list[int]]:
    content = read_json(file)
    return content["places"], content["bases"]


def kind_of(reason: str) -> str:
    """Name the kind of a reason: what it says before it says where."""
    if reason.startswith(REPEATS):
        return "duplicate"
    kind = reason.partition(":")[0].partition(";")[0].partition(" at ")[0]
    return NUMBER.sub("N", kind)[:60]


def read_ledger(directory: Path, part: Range | None = None) -> Iterator[dict[str, Any]]:
    """Yield the entries of a dataset's ledger, one after another, or those of a part of its bytes.

    There are none where it has no ledger. A part is checked whole before its first entry is given, since its reader may
    need no more. Raises InputError for a ledger that is damaged.
    """
    file = directory / LEDGER
    if not file.exists():
        return
    try:
        where = part or Range(0, file.stat().st_size)
        if part is not None:
            with opened(file, where) as packed, gzip.GzipFile(fileobj=packed) as content:
                while content.read(LONGEST):
                    pass
        with opened(file, where) as packed, gzip.GzipFile(fileobj=packed) as lines:
            while line := lines.readline(LONGEST):
                yield _entry(line)
    except (OSError, EOFError, zlib.error, ValueError) as error:  # in reading: what is done with an entry is not here
        raise InputError(f"{file}: is damaged ({error}); {REPAIR}") from None


def _entry(line: bytes) -> dict[str, Any]:
    entry = parse_json(line)
    named = isinstance(entry, dict) and [type(entry.get(key)) for key in ("document", "source")]
    if named not in ([str, type(None)], [type(None), str]) or type(entry.get("bytes")) is not int:
        raise ValueError(f"it has the entry {line[:40]!r}")
    if any(type(entry.get(split, 0)) is not int for split in (*SPLITS, "dropped_characters")):
        raise ValueError("it has a number that is none")
    if any(not isinstance(entry.get(text, ""), str) for text in ("reason", "note")):
        raise ValueError("it has a reason that is no text")
    return entry


@dataclass(frozen=True)
class Loss:
    """A document that was left out, whole or in part, or kept with a loss."""

    fate: str
    """'left out', 'in part' or 'kept'."""
    name: str
    bytes: int | None
    """Of its text in UTF-8; of a file that gave no text its own, and None where it was not even opened."""
    reason: str


def losses(directory: Path, word: str = "") -> Iterator[Loss]:
    """Yield what was lost of a corpus, in order: that of which the reason, or its kind, holds a word, in any case.

    Raises InputError as `read_ledger` does.
    """
    waiting: Loss | None = None  # for the entry of its file, which says how large that is
    for entry in read_ledger(directory):
        if waiting is not None:
            is_own = entry.get("source") == waiting.name
            yield replace(waiting, bytes=entry["bytes"]) if is_own else waiting
            waiting = None
        reason = entry.get("reason") or entry.get("note", "")
        if not reason or not (word.lower() in reason.lower() or word.lower() in kind_of(reason).lower()):
            continue
        if lost := entry.get("dropped_characters"):
            reason += f": {lost:,} characters"
        fate = "kept" if "reason" not in entry else "in part" if any(map(entry.get, SPLITS)) else "left out"
        loss = Loss(fate, entry["document"], entry["bytes"] or None, reason)
        if loss.bytes is None:
            waiting = loss
        else:
            yield loss
    if waiting is not None:
        yield waiting
