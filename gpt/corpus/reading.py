"""A corpus, read once: slice by slice, without duplicates, and kept beside the output for the stages that follow.

Of each slice there are files: the texts, where each begins, the entries of the ledger (documents, and what is left out
between them), and the hashes of the texts in order.
"""

import hashlib
import struct
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar

import numpy as np

from gpt.choices import Normalization
from gpt.corpus.documents import LARGEST, Document, Notice, Skipped, parts_of
from gpt.corpus.executor import READERS
from gpt.corpus.slices import Slice
from gpt.corpus.sources import Source
from gpt.corpus.stages import Stages, Task, digest
from gpt.errors import bounded, check_limits, require
from gpt.log import log
from gpt.text.added import Spans

T = TypeVar("T")
VERSION = 3  # of what is kept of a slice, and of how it is read and encoded
SPECIAL = 1 << 62
LENGTHS = struct.Struct("<QQQ")  # of a name, a text, and the bounds of what of it is learned, in bytes
MAX_SHOWN = 20  # documents that are named on the screen, of those that were left out
MAX_NOTICES = 5  # that are said, of one kind
TEXTS, PLACES, ENTRIES, HASHES = ".texts", ".places", ".entries", ".hashes.npy"
HASHES_AT_ONCE = 1 << 21  # of documents, that are compared, about
PASSAGES, WORD_HASHES = ".passages.npy", ".words"  # once it is divided by them (content_split.py)


@dataclass(frozen=True)
class Filters:
    """What becomes of documents before anything else."""

    normalize: Normalization = "none"
    min_characters: int = bounded(0, ge=0)
    max_characters: int | None = bounded(None, ge=1)

    def __post_init__(self) -> None:
        """Raise InputError for limits that nothing can keep."""
        check_limits(self)
        most = self.max_characters
        require(most is None or most >= self.min_characters, "`max_characters`", most, "at least `min_characters`")

    def __call__(self, document: Document) -> Document | Skipped:
        """Return the document, in the normal form that was asked for, or why it is left out."""
        text = document.text
        if self.normalize != "none" and not text.isascii():
            text = unicodedata.normalize("NFC" if self.normalize == "nfc" else "NFKC", text)
        if len(text) < self.min_characters:
            return Skipped(document.name, f"shorter than {self.min_characters:,} characters")
        if self.max_characters is not None and len(text) > self.max_characters:
            return Skipped(document.name, f"longer than {self.max_characters:,} characters")
        return document if text is document.text else replace(document, text=text)


def read_slice(place: Path, source: Source, parts: Sequence[Any], filters: Filters) -> dict[str, Any]:
    """Read the documents of a slice into files, and count them."""
    with (
        open(f"{place}{TEXTS}", "wb") as texts,
        open(f"{place}{ENTRIES}", "w", encoding="utf-8", errors="surrogatepass") as entries,
    ):
        writer = _SliceWriter(texts, entries, filters)
        for part in parts:
            if isinstance(part, Skipped):
                writer.counts["unread"] += 1
                writer.leave_out(part)
            else:
                writer.read(source, part)
    hashes = np.frombuffer(b"".join(writer.hashes), dtype="<u8").reshape(-1, 2)
    rows = np.column_stack([hashes, np.arange(len(hashes), dtype=np.uint64)])
    np.save(f"{place}{HASHES}", rows[np.lexsort(rows.T[[2, 1, 0]])])
    np.array(writer.places, dtype="<u8").tofile(f"{place}{PLACES}")
    said = {"notices": writer.notices, "skipped": writer.skipped, "repaired": writer.repaired}
    return writer.counts | said | {"content": writer.content.hexdigest(), "kept": len(writer.places)}


class _SliceWriter:
    """Writes the documents of a slice, one after another."""

    def __init__(self, texts: BinaryIO, entries: TextIO, filters: Filters) -> None:
        self._texts, self._entries, self._filters, self._size = texts, entries, filters, 0
        self.counts = Counter[str]()
        self.hashes, self.places, self.content = list[bytes](), list[int](), hashlib.sha256()
        self.notices, self.skipped, self.repaired = list[Any](), list[Any](), list[Any]()  # the first of them

    def read(self, source: Source, part: Any) -> None:
        """Read a part; its entry, after those of its documents, says how many bytes it has.

        Raises InputError where it was changed meanwhile.
        """
        before, identity = self.counts["documents"], source.identity(part)
        self.counts["files"] += not identity.goes_on
        for found in source.read(part):
            if isinstance(found, Document):
                self._add(found)
            elif isinstance(found, Skipped):
                self.leave_out(found)
            elif sum(kind == found.kind for kind, _, _ in self.notices) <= MAX_NOTICES:
                self.notices.append([found.kind, found.message, found.warns])
            del found  # so that it is gone before the next one is there
        self.counts["files_read"] += self.counts["documents"] > before and not identity.goes_on
        self._enter(source=source.identity(part).name, bytes=identity.bytes)

    def leave_out(self, left: Skipped, size: int = 0) -> None:
        """Enter what is no document of the corpus."""
        self.counts["left_out"] += 1
        if self.counts["left_out"] <= MAX_SHOWN:
            self.skipped.append([left.name, left.reason])
        self._enter(document=left.name, bytes=size, reason=left.reason)

    def _add(self, document: Document) -> None:
        if len(document.text) > 2 * LARGEST and not document.learned and isinstance(self._filters(document), Document):
            for part in parts_of(document):
                self._add(part)
            return
        self.counts["documents"] += 1
        self.counts["characters"] += len(document.text)
        content = document.text.encode()
        size, found = len(content), self._filters(document)
        if isinstance(found, Skipped):
            self.leave_out(found, size)
            return
        if found.note:
            self.counts["mended"] += 1
            if self.counts["mended"] <= MAX_SHOWN:
                self.repaired.append([found.name, found.note])
        name = found.name.encode("utf-8", "surrogatepass")
        content = content if found.text is document.text else found.text.encode()
        learned = _marks(found) if found.learned else b""
        self.hashes.append(hashlib.blake2b(content + learned if learned else content, digest_size=16).digest())
        self.content.update(self.hashes[-1])
        self.places.append(self._size)
        lengths = LENGTHS.pack(len(name), len(content), len(learned))
        self._size += self._texts.write(b"".join((lengths, name, content, learned)))
        self._enter(document=found.name, bytes=size, note=found.note)

    def _enter(self, **entry: Any) -> None:
        pairs = [f'"{key}": {quoted(is_) if isinstance(is_, str) else is_}' for key, is_ in entry.items() if is_ != ""]
        line = f"{{{', '.join(pairs)}}}\n"  # as json.dumps has it, which takes longer
        self.content.update(line.encode())
        self._entries.write(line)


def documents_at(place: Path, kept: np.ndarray) -> Iterator[Document]:
    """Yield the documents of a slice that are kept, (N,) bool, in order."""
    for name, content, marks in records_at(place, kept):
        document = Document(name.decode("utf-8", "surrogatepass"), content.decode())
        yield _marked(document, marks) if marks else document


def records_at(place: Path, kept: np.ndarray) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield name, text, and bounds of what is learned, of those documents of a slice."""
    file = Path(f"{place}{TEXTS}")
    bounds = np.append(np.fromfile(f"{place}{PLACES}", dtype="<u8"), np.uint64(file.stat().st_size))
    with open(file, "rb") as texts:
        for start, stop in zip(bounds[:-1][kept].tolist(), bounds[1:][kept].tolist(), strict=True):
            texts.seek(start)
            record = texts.read(stop - start)
            name, content, _ = LENGTHS.unpack_from(record)
            begin = LENGTHS.size + name
            yield record[LENGTHS.size : begin], record[begin : begin + content], record[begin + content :]


def batches(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Yield items some at a time: each batch but the last has that size, at least."""
    batch, held = list[T](), 0
    for item in items:
        batch.append(item)
        held += size(item)
        if held >= most:
            yield batch
            batch, held = [], 0
    yield batch


def _marks(document: Document) -> bytes:
    """Write which characters are learned, and which are special tokens, whose first ones have the bit SPECIAL."""
    specials = ((start | SPECIAL, stop) for start, stop in document.specials)
    return np.array([*document.learned, *specials], dtype="<u8").tobytes()


def _marked(document: Document, marks: bytes) -> Document:
    """Give the way back from `_marks`."""
    pairs: list[list[int]] = np.frombuffer(marks, dtype="<u8").reshape(-1, 2).tolist()
    learned: Spans = tuple((start, stop) for start, stop in pairs if not start & SPECIAL)
    return replace(document, learned=learned, specials=tuple((a ^ SPECIAL, b) for a, b in pairs if a & SPECIAL))


def name_at(place: Path, number: int) -> str:
    """Return the name of a document of a slice."""
    start = int(np.fromfile(f"{place}{PLACES}", dtype="<u8", count=1, offset=8 * number)[0])
    with open(f"{place}{TEXTS}", "rb") as texts:
        texts.seek(start)
        return texts.read(LENGTHS.unpack(texts.read(LENGTHS.size))[0]).decode("utf-8", "surrogatepass")


class Corpus:
    """What was read of a source; iterating gives the kept documents in order, as often as is needed.

    `documents` and `characters` count all of it, repetitions included; `files` counts the source's parts, and
    `files_read` those that gave a document. `kept` tells of each document of each slice whether it stays;
    `contents` name what was read of each slice, wherever it lay.
    """

    before: Path | None = None  # the dataset that is to be replaced
    is_grown = False  # from that one, whose split is kept
    passages: list[Path] | None = None  # where those of each slice are listed, once it is divided by them

    def __init__(self, stages: Stages, source: Source, slices: Sequence[Slice], filters: Filters) -> None:
        """Read what was not read before, on as many processes as `stages` has."""
        self.digests = [digest(VERSION, READERS, each.digest, source.settings, asdict(filters)) for each in slices]
        tasks = [
            Task(key, each.label, (source, each.parts, filters), each.bytes)
            for key, each in zip(self.digests, slices, strict=True)
        ]
        self.counts = Counter[str]()
        self.skipped, self.repaired = list[Skipped](), list[Skipped]()  # the first of them
        self.places, self.sizes, self.contents = list[Path](), list[int](), list[str]()
        self.slices = slices
        notices = list[Notice]()
        for place, read in stages.run("reading", read_slice, tasks):
            self.places.append(place)
            self.sizes.append((Path(f"{place}{PLACES}")).stat().st_size // 8)
            self.contents.append(read.pop("content"))
            notices += [Notice(*notice) for notice in read.pop("notices")]
            self.skipped += [Skipped(*left) for left in read.pop("skipped")]
            self.repaired += [Skipped(*kept) for kept in read.pop("repaired")]
            self.counts.update(read)
        self.kept = [np.ones(size, dtype=bool) for size in self.sizes]
        self.stages, self.slice_bytes, self.inputs, stages.counts = stages, 0, "", self.counts
        self.report: dict[str, Any] = {}
        say_notices(notices)

    def tasks(self, key: str | Callable[[Path | None], str], *arguments: Any) -> list[Task]:
        """List a task for each slice: of where its texts are, which are kept, where its passages are, and arguments.

        `key` names what its result hangs on beside the text, or tells that by where its passages are.
        """
        named, listed = key if callable(key) else lambda _: key, self.passages or [None] * len(self.places)
        own = zip(self.digests, self.slices, self.places, self.kept, listed, strict=True)
        return [
            Task(digest(name, kept, named(where)), each.label, (text, kept, where, *arguments), each.bytes)
            for name, each, text, kept, where in own
        ]

    def __iter__(self) -> Iterator[Document]:
        for place, kept in zip(self.places, self.kept, strict=True):
            yield from documents_at(place, kept)


def drop_duplicates(corpus: Corpus, directory: Path) -> np.ndarray:
    """Mark in `corpus.kept` the documents that stay; return of each document the number of the first like it, (N,).

    Documents are numbered through all slices; the array lies in a file of the directory. Memory is bounded: in each
    slice the hashes lie in order, so that those which begin alike are compared, a bucket at a time.
    """
    bases = np.cumsum([0, *corpus.sizes])
    if not (total := int(bases[-1])):
        return np.empty(0, dtype=np.int64)
    firsts = np.lib.format.open_memmap(directory / "firsts.npy", mode="w+", dtype=np.int64, shape=(total,))
    slices = [np.load(f"{place}{HASHES}", mmap_mode="r") for place in corpus.places]
    buckets = max(1, total // HASHES_AT_ONCE)
    edges = [np.uint64(number * 2**64 // buckets) for number in range(1, buckets)]
    cuts = [[0, *np.searchsorted(rows[:, 0], edges).tolist(), len(rows)] for rows in slices]
    for bucket in range(buckets):
        parts = [rows[cut[bucket] : cut[bucket + 1]] for rows, cut in zip(slices, cuts, strict=True)]
        numbers = np.concatenate([part[:, 2].astype(np.int64) + base for part, base in zip(parts, bases, strict=False)])
        hashes = np.concatenate([part[:, :2] for part in parts])
        order = np.lexsort((numbers, hashes[:, 1], hashes[:, 0]))
        numbers, hashes = numbers[order], hashes[order]
        begins = np.append(True, (hashes[1:] != hashes[:-1]).any(axis=1))[: len(numbers)]
        firsts[numbers] = numbers[np.maximum.accumulate(np.where(begins, np.arange(len(numbers)), 0))]
    corpus.kept = [
        firsts[base : base + size] == np.arange(base, base + size)
        for base, size in zip(bases, corpus.sizes, strict=False)
    ]
    corpus.counts["repeated"] = total - sum(int(kept.sum()) for kept in corpus.kept)
    return firsts


def say_notices(notices: Sequence[Notice]) -> None:
    """Say what is to be said of files: of many notices of one kind, the first."""
    said = Counter[str]()
    for notice in notices:
        said[notice.kind] += 1
        if said[notice.kind] <= MAX_NOTICES:
            (log.warning if notice.warns else log.info)(notice.message)
        elif said[notice.kind] == MAX_NOTICES + 1:
            log.info(f"more files like the last {MAX_NOTICES} ({notice.kind}) are not named")
