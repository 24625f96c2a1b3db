"""The slices of a source: neighboring parts of it, which are read at a time, and become shards of their own.

Where a slice ends hangs on the names of parts and not on their number: a file more, or another one, changes the slice
around it, and the others stay as they are.

Once a slice is read, there are files of it: the texts, where each begins, the entries of the ledger (documents, and
what is left out between them), and the hashes of the texts in order.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpt.corpus.documents import Document, Skipped, hash_fraction
from gpt.corpus.sources import Identity, Source
from gpt.corpus.stages import digest
from gpt.text.added import Spans

LEAST_BYTES, MOST_BYTES = 1 << 22, 1 << 27  # of a slice, about
WANTED = 512  # slices of a large corpus
TEXTS, PLACES, ENTRIES, HASHES = ".texts", ".places", ".entries", ".hashes.npy"
PASSAGES, WORD_HASHES, DISTINCT = ".passages.npy", ".words", ".distinct.npy"  # by content_split.py
Load = Callable[..., np.ndarray]  # of a file; with a mode behind it the content is mapped into memory, as np.load does
BYTES_AT_ONCE = 1 << 25  # of rows that are compared, about
LENGTHS = struct.Struct("<QQQ")  # of a name, a text, and the bounds of what of it is learned, in bytes
SPECIAL = 1 << 62


@dataclass(frozen=True)
class Slice:
    """Some parts of a source, and what is left out between them unread."""

    parts: tuple[Any, ...]
    label: str
    digest: str
    """Of the names of its parts, and of what tells their content from another one."""
    bytes: int
    validates: bool = False
    """All of it does, as was asked for."""


def slice_bytes(total: int) -> int:
    """Choose how large slices are, in bytes, by the size of the corpus: a power of two."""
    return min(MOST_BYTES, max(LEAST_BYTES, 1 << max(0, total // WANTED - 1).bit_length()))


def cut_slices(source: Source, parts: Sequence[Any], size: int) -> Iterator[Slice]:
    """Divide the parts of a source into slices of about `size` bytes, from a quarter of it to little more.

    Of a file that was divided each part but the first begins one, since packed it may be large with few bytes.
    """
    pending, identities, held, validates = list[Any](), list[Identity](), 0, False
    for part in parts:
        if isinstance(part, Skipped):
            identity = Identity(part.name, 0, part.reason, validates)
        else:
            identity = source.identity(part)
        if identities and (identity.validates != validates or identity.goes_on):
            yield _slice(pending, identities)
            pending, identities, held = [], [], 0
        pending.append(part)
        identities.append(identity)
        held, validates = held + identity.bytes, identity.validates
        if held >= size or (held >= size // 4 and hash_fraction(identity.name) < 4 * max(identity.bytes, 1) / size):
            yield _slice(pending, identities)
            pending, identities, held = [], [], 0
    if pending:
        yield _slice(pending, identities)


def _slice(parts: list[Any], identities: list[Identity]) -> Slice:
    size = sum(identity.bytes for identity in identities)
    return Slice(tuple(parts), identities[0].name, digest(identities), size, identities[-1].validates)


# ---- what was read of a slice ----


@dataclass
class StoredSlice:
    """A slice that was read: its files lie at `place`, with endings, and `content` names what they hold."""

    label: str
    bytes: int
    validates: bool
    key: str
    place: Path
    content: str
    size: int
    """Documents."""
    repeats: Path | None = None
    """Where those are listed that repeat another."""
    passages: Path | None = None
    """Where its passages are listed, once it is divided by them."""

    @property
    def files(self) -> tuple[Path, Path | None, Path | None]:
        """Where texts, repetitions and passages are."""
        return self.place, self.repeats, self.passages


def stored(place: Path, key: str, read: Slice, contents: Sequence[str]) -> Iterator[StoredSlice]:
    """Yield the slices that a slice has become as it was read."""
    for number, content in enumerate(contents):
        own, size = place_of(place, number), read.bytes // len(contents)
        count = Path(f"{own}{PLACES}").stat().st_size // 8
        yield StoredSlice(read.label, size, read.validates, digest(key, number), own, content, count)


def place_of(place: Path, number: int) -> Path:
    """Return where the files of one of the slices are that a slice has become."""
    return Path(f"{place}.{number}") if number else place


def documents_at(place: Path, repeats: Path | None) -> Iterator[Document]:
    """Yield the documents of a slice in order, but those that are listed as repeating another."""
    for name, content, marks in records_at(place, repeats):
        document = Document(name.decode("utf-8", "surrogatepass"), content.decode())
        yield _marked(document, marks) if marks else document


def records_at(place: Path, repeats: Path | None) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield name, text, and bounds of what is learned, of those documents of a slice."""
    file = Path(f"{place}{TEXTS}")
    bounds = np.append(np.fromfile(f"{place}{PLACES}", dtype="<u8"), np.uint64(file.stat().st_size))
    kept = kept_of(len(bounds) - 1, repeats)
    with open(file, "rb") as texts:
        for start, stop in zip(bounds[:-1][kept].tolist(), bounds[1:][kept].tolist(), strict=True):
            texts.seek(start)
            record = texts.read(stop - start)
            name, content, _ = LENGTHS.unpack_from(record)
            begin = LENGTHS.size + name
            yield record[LENGTHS.size : begin], record[begin : begin + content], record[begin + content :]


def kept_of(size: int, repeats: Path | None) -> np.ndarray:
    """Tell which of so many documents of a slice repeat no other, (N,) bool."""
    return ~np.isin(np.arange(size), repeats_at(repeats)[:, 0])


def repeats_at(file: Path | None) -> np.ndarray:
    """Read which documents of a slice repeat another, in order, and the first like each, (R, 2) int64."""
    rows = np.fromfile(file, dtype="<i8").reshape(-1, 2) if file else np.empty((0, 2), dtype=np.int64)
    return rows[np.argsort(rows[:, 0])]


def marks_of(document: Document) -> bytes:
    """Write which characters are learned, and which are special tokens, whose first ones have the bit SPECIAL."""
    specials = ((start | SPECIAL, stop) for start, stop in document.specials)
    return np.array([*document.learned, *specials], dtype="<u8").tobytes()


def _marked(document: Document, marks: bytes) -> Document:
    """Give the way back from `marks_of`."""
    pairs: list[list[int]] = np.frombuffer(marks, dtype="<u8").reshape(-1, 2).tolist()
    learned: Spans = tuple((start, stop) for start, stop in pairs if not start & SPECIAL)
    return replace(document, learned=learned, specials=tuple((a ^ SPECIAL, b) for a, b in pairs if a & SPECIAL))


def twins_of(one: StoredSlice, slices: Sequence[StoredSlice], bases: np.ndarray) -> list[Any]:
    """Name the documents that those of a slice repeat, by what the slices hold that have them, and by their numbers."""
    if not len(firsts := repeats_at(one.repeats)[:, 1]):
        return []
    own, numbers = slices_of(firsts, bases)
    different, which = np.unique(own, return_inverse=True)
    return [[slices[number].content for number in different.tolist()], which, numbers]


def names_at(place: Path, numbers: np.ndarray) -> list[str]:
    """Return the names of documents of a slice, by their numbers, (N,) int64."""
    names = list[str]()
    with open(f"{place}{TEXTS}", "rb") as texts:
        for start in np.fromfile(f"{place}{PLACES}", dtype="<u8")[numbers].tolist():
            texts.seek(start)
            names.append(texts.read(LENGTHS.unpack(texts.read(LENGTHS.size))[0]).decode("utf-8", "surrogatepass"))
    return names


def name_at(place: Path, number: int) -> str:
    """Return the name of a document of a slice."""
    return names_at(place, np.array([number]))[0]


def slices_of(numbers: np.ndarray, bases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of documents, by their numbers through all slices, the slice of each, and its number there, (N,) int64.

    `bases` are the numbers with which the slices begin, (S,) int64.
    """
    slices = np.searchsorted(bases, numbers, side="right") - 1
    return slices, numbers - bases[slices]


def in_buckets(files: Sequence[Path], load: Load = np.load) -> Iterator[list[Callable[[], np.ndarray]]]:
    """Yield what reads those rows of each file, (N, C) uint64, whose first numbers begin alike: some million at once.

    In each file they are in order by that, and all are about equally likely; what is mapped into memory (see `Load`) is
    so for a moment.
    """
    count = max(min(1, len(files)), sum(file.stat().st_size for file in files) // BYTES_AT_ONCE)
    if count == 1:  # as of most texts, of which there may be many slices: mapping each takes longer than reading it
        yield [partial(load, file) for file in files]
        return
    edges = np.array([number * 2**64 // count for number in range(1, count)], dtype=np.uint64)
    cuts = [[0, *np.searchsorted(load(file, "r")[:, 0], edges).tolist(), None] for file in files]
    for bucket in range(count):
        yield [partial(_rows, load, file, *cut[bucket : bucket + 2]) for file, cut in zip(files, cuts, strict=True)]


def load_rows(file: Path, mode: Literal["r"] | None = None, columns: int = 1) -> np.ndarray:
    """Read numbers that follow each other in a file, (N, columns) uint64; with a mode they are mapped into memory."""
    rows = np.memmap(file, "<u8", mode) if mode and file.stat().st_size else np.fromfile(file, "<u8")
    return rows.reshape(-1, columns)


def _rows(load: Load, file: Path, start: int, stop: int | None) -> np.ndarray:
    return np.array(load(file, "r")[start:stop])
