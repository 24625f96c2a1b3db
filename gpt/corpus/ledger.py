"""The ledger of a corpus, ledger.jsonl.gz: what became of every document, and of every byte of the input.

A line for each document, in the order of reading: its name, its bytes in UTF-8, and of how many documents of each split
it became part; or the reason why it was left out. After those of a file comes one for the file: its bytes, and how many
of them were no text, such as the fields of a record, markup, or what packing saves (then fewer than none).
"""

import functools
import gzip
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt.corpus.reading import ENTRIES, name_at
from gpt.corpus.split import Piece
from gpt.dataset.manifest import SPLITS
from gpt.files import read_json, write_whole

LEDGER = "ledger.jsonl.gz"
PART = ".ledger.gz"  # of a slice
REPEATS = "the same content as "
OVERLAPS = "shares its 13-grams with validation"
MOST_SOURCES = 100  # of a slice, the largest, that are reported


@dataclass
class Outcome:
    """What became of a document that was kept: in how many pieces it is in each split."""

    characters: int
    """That are in no piece."""
    pieces: Counter[str] = field(default_factory=Counter)
    reason: str = ""
    """Why it is left out, if it is."""

    def add(self, piece: Piece) -> None:
        self.characters -= len(piece.text)
        self.pieces[piece.split] += 1

    def leave_out(self, reason: str) -> None:
        """Take it out of all pieces."""
        self.pieces.clear()
        self.reason = reason


def write_spool(directory: Path, places: Sequence[Path], bases: Sequence[int], key: str) -> Path:
    """Write down where the slices lie, and with which number their documents begin; return the file."""
    file = directory / f"spool-{key}.json"
    write_whole(file, json.dumps({"places": [str(place) for place in places], "bases": list(bases)}))
    return file


def write_ledger(
    place: Path, text: Path, firsts: np.ndarray, kept: np.ndarray, spool: Path, outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """Write a slice's part of the ledger, and sum it up."""
    results, sources, reasons = iter(outcomes), Counter[str](), Counter[str]()
    number, longest, size, lines = 0, [0, ""], 0, list[str]()
    with open(f"{text}{ENTRIES}", encoding="utf-8") as entries:
        for line in entries:
            entry = json.loads(line)
            if "source" in entry:
                entry["other"] = entry["bytes"] - size
                sources[entry["source"]] += entry["bytes"]
                size = 0
            else:
                size += entry["bytes"]
                if "reason" not in entry:
                    longest = max(longest, [entry["bytes"], entry["document"]])
                    entry |= _fate(next(results)) if kept[number] else _repetition(int(firsts[number]), spool)
                    number += 1
                if "reason" in entry:
                    reasons[kind_of(entry["reason"])] += 1
            lines.append(f"{json.dumps(entry)}\n")
    Path(f"{place}{PART}").write_bytes(gzip.compress("".join(lines).encode(), 6, mtime=0))
    return {"longest": longest, "left_out": dict(reasons), "sources": sources.most_common(MOST_SOURCES)}


def _fate(outcome: Outcome) -> dict[str, Any]:
    fate: dict[str, Any] = {split: outcome.pieces[split] for split in SPLITS if outcome.pieces[split]}
    if outcome.reason:
        fate["reason"] = outcome.reason
    elif outcome.characters:
        fate |= {"dropped_characters": outcome.characters, "reason": OVERLAPS}
    return fate


def _repetition(first: int, spool: Path) -> dict[str, Any]:
    places, bases = _spool(spool)
    slice_ = bisect_right(bases, first) - 1
    return {"reason": f"{REPEATS}{name_at(Path(places[slice_]), first - bases[slice_])}"}


@functools.lru_cache(maxsize=2)
def _spool(file: Path) -> tuple[list[str], list[int]]:
    content = read_json(file)
    return content["places"], content["bases"]


def kind_of(reason: str) -> str:
    """Name the kind of a reason: what it says before it says where."""
    if reason.startswith(REPEATS):
        return "duplicate"
    kind = reason.partition(":")[0].partition(";")[0].partition(" at ")[0]
    return "".join("N" if character.isdigit() else character for character in kind)[:60]


def read_ledger(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a dataset's ledger; none where it has none."""
    if (directory / LEDGER).exists():
        with gzip.open(directory / LEDGER, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)
