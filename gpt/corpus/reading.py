"""A corpus, read once: slice by slice, without duplicates, and kept beside the output for the stages that follow."""

import contextlib
import hashlib
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, chain
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gpt.choices import UnicodeForm
from gpt.corpus.documents import LARGEST, Document, Notice, Skipped, parts_of
from gpt.corpus.executor import READERS
from gpt.corpus.slices import (
    ENTRIES,
    HASHES,
    LENGTHS,
    PLACES,
    TEXTS,
    Slice,
    StoredSlice,
    documents_at,
    in_buckets,
    kept_of,
    marks_of,
    place_of,
    stored,
    twins_of,
)
from gpt.corpus.sources import Source
from gpt.corpus.stages import Stages, Task, digest
from gpt.corpus.unpacking import HIDDEN
from gpt.errors import bounded, check_limits, require
from gpt.log import log

T = TypeVar("T")
VERSION = 5  # of what is kept of a slice, and of how it is read and encoded
MAX_NOTICES = 5  # that are said, of one kind
MAX_SHOWN = 20  # documents that are named on the screen, of those that were left out
MOST_DOCUMENTS, MOST_TEXT = 1 << 19, 1 << 28  # of a slice, and bytes: what holds more becomes several


@dataclass(frozen=True)
class Filters:
    """What becomes of documents before anything else."""

    normalize: UnicodeForm = "none"
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
    """Read the documents of a slice into files, and count them; what holds too many for one slice becomes several."""
    with contextlib.ExitStack() as files:
        writer = _SliceWriter(place, filters, files)
        for part in parts:
            if isinstance(part, Skipped):
                writer.counts["unread"] += 1
                writer.leave_out(part)
            else:
                writer.read(source, part)
        writer.close()
    said = {"notices": writer.notices, "skipped": writer.skipped, "repaired": writer.repaired}
    return writer.counts | said | {"contents": writer.contents}


class _SliceWriter:
    """Writes the documents of a slice, one after another; it begins another one where that is full."""

    def __init__(self, place: Path, filters: Filters, files: contextlib.ExitStack) -> None:
        self._place, self._filters, self._files = place, filters, files
        self.counts, self.contents = Counter[str](), list[str]()  # of each slice, what names its content
        self.notices, self.skipped, self.repaired = list[Any](), list[Any](), list[Any]()  # the first of them
        self._source, self._before = "", 0  # a file, and bytes of its documents in slices before
        self._begin()

    def _begin(self) -> None:
        self._own = place = place_of(self._place, len(self.contents))
        self._texts = self._files.enter_context(open(f"{place}{TEXTS}", "wb"))
        entries = open(f"{place}{ENTRIES}", "w", encoding="utf-8", errors="surrogatepass")
        self._entries = self._files.enter_context(entries)
        self._hashes, self._places, self._content = bytearray(), array("Q"), hashlib.sha256()
        self._size = self._entered = 0  # bytes of the texts, and of the file's documents in this slice

    def close(self) -> None:
        """Finish the files of a slice."""
        self._texts.close()
        self._entries.close()
        hashes = np.frombuffer(self._hashes, dtype="<u8").reshape(-1, 2)
        rows = np.column_stack([hashes, np.arange(len(hashes), dtype=np.uint64)])
        np.save(f"{self._own}{HASHES}", rows[np.lexsort(rows.T[[2, 1, 0]])])
        np.array(self._places, dtype="<u8").tofile(f"{self._own}{PLACES}")
        self.counts["kept"] += len(self._places)
        self.contents.append(self._content.hexdigest())

    def read(self, source: Source, part: Any) -> None:
        """Read a part; its entry, after those of its documents, says how many bytes it has.

        Raises InputError where it was changed meanwhile.
        """
        before, identity = self.counts["documents"], source.identity(part)
        self._source, self._entered, self._before = identity.name, 0, 0
        self.counts["files"] += not identity.goes_on
        for found in source.read(part):
            if isinstance(found, Document):
                self._add(found)
            elif isinstance(found, Skipped):
                self.counts["unread"] += found.reason == HIDDEN  # an entry of an archive
                self.leave_out(found)
            elif sum(kind == found.kind for kind, _, _ in self.notices) <= MAX_NOTICES:
                self.notices.append([found.kind, found.message, found.warns])
            del found  # so that it is gone before the next one is there
        self.counts["files_read"] += self.counts["documents"] > before and not identity.goes_on
        self._enter(source=source.identity(part).name, bytes=identity.bytes - self._before)

    def leave_out(self, left: Skipped, size: int = 0) -> None:
        """Enter what is no document of the corpus."""
        self.counts["left_out"] += 1
        if sum((reason == HIDDEN) == (left.reason == HIDDEN) for _, reason in self.skipped) < MAX_SHOWN:  # of each
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
        learned = marks_of(found) if found.learned else b""
        hashed = hashlib.blake2b(content + learned if learned else content, digest_size=16).digest()
        self._hashes += hashed
        self._content.update(hashed)
        self._places.append(self._size)
        lengths = LENGTHS.pack(len(name), len(content), len(learned))
        self._size += self._texts.write(b"".join((lengths, name, content, learned)))
        self._enter(document=found.name, bytes=size, note=found.note)
        if len(self._places) >= MOST_DOCUMENTS or self._size >= MOST_TEXT:
            self._before += self._entered
            self._enter(source=self._source, bytes=self._entered)
            self.close()
            self._begin()

    def _enter(self, **entry: Any) -> None:
        pairs = [f'"{key}": {quoted(is_) if isinstance(is_, str) else is_}' for key, is_ in entry.items() if is_ != ""]
        line = f"{{{', '.join(pairs)}}}\n"  # as json.dumps has it, which takes longer
        self._content.update(line.encode())
        self._entries.write(line)
        self._entered += entry["bytes"]


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


class Corpus:
    """What was read of a source; iterating gives the kept documents in order, as often as is needed.

    `documents` and `characters` count all of it, repetitions included; `files` counts the source's parts, and
    `files_read` those that gave a document. `contents` name what was read of each slice, wherever it lay.
    """

    before: Path | None = None  # the dataset that is to be replaced
    is_grown = False  # from that one, whose split is kept

    def __init__(self, stages: Stages, source: Source, slices: Sequence[Slice], filters: Filters) -> None:
        """Read what was not read before, on as many processes as `stages` has."""
        how = (VERSION, MOST_DOCUMENTS, MOST_TEXT, READERS, source.settings, asdict(filters))
        tasks = [
            Task(digest(*how, each.digest), each.label, (source, each.parts, filters), each.bytes) for each in slices
        ]
        self.counts, self.slices, notices = Counter[str](), list[StoredSlice](), list[Notice]()
        self.skipped, self.repaired = list[Skipped](), list[Skipped]()  # the first of them
        for task, each, (place, read) in zip(tasks, slices, stages.run("reading", read_slice, tasks), strict=True):
            self.slices += stored(place, task.key, each, read.pop("contents"))
            notices += [Notice(*notice) for notice in read.pop("notices")]
            self.skipped += [Skipped(*left) for left in read.pop("skipped")]
            self.repaired += [Skipped(*kept) for kept in read.pop("repaired")]
            self.counts.update(read)
        self.stages, self.slice_bytes, self.inputs, stages.counts = stages, 0, "", self.counts
        self.report: dict[str, Any] = {}
        say_notices(notices)

    def tasks(self, key: str | Callable[[Path | None], str], *arguments: Any, by: str = "key") -> list[Task]:
        """List a task for each slice: of where its texts are, which repeat another, its passages, and arguments.

        `key` names what its result hangs on beside the text, or tells that by where its passages are; the text is named
        `by` the slice's key, or its content, wherever that lay.
        """
        bases, found = np.array(self.bases), list[Task]()
        for each in self.slices:
            own = key(each.passages) if callable(key) else key
            name = digest(getattr(each, by), kept_of(each.size, each.repeats), own, *twins_of(each, self.slices, bases))
            found.append(Task(name, each.label, (*each.files, *arguments), each.bytes))
        return found

    @property
    def bases(self) -> list[int]:
        """With which number the documents of each slice begin, through all of them; and the end."""
        return [0, *accumulate(each.size for each in self.slices)]

    def __iter__(self) -> Iterator[Document]:
        return chain.from_iterable(documents_at(each.place, each.repeats) for each in self.slices)


def drop_duplicates(corpus: Corpus, directory: Path) -> None:
    """Leave out the documents that repeat another, and list those of each slice in a file of the directory.

    Of each it has (its number in the slice, the number of the first like it), (R, 2) int64; the first ones are numbered
    through all slices. Memory is bounded, however many are alike.
    """
    bases = np.array(corpus.bases[:-1], dtype=np.uint64)
    files = [directory / f"repeats-{number:05}" for number in range(len(corpus.slices))]
    for each, each.repeats in zip(corpus.slices, files, strict=True):
        each.repeats.write_bytes(b"")
    for parts in in_buckets([Path(f"{each.place}{HASHES}") for each in corpus.slices]):
        firsts = [_firsts(part(), base) for part, base in zip(parts, bases, strict=True)]
        together = np.concatenate(firsts)
        order = np.lexsort(together.T[[2, 1, 0]])
        begins = is_first(together[order])
        of_all = np.empty(len(order), dtype=np.uint64)
        of_all[order] = together[order][begins][np.cumsum(begins) - 1, 2]
        of_each = np.split(of_all, np.cumsum([len(rows) for rows in firsts])[:-1])
        for rows, base, own, file in zip((part() for part in parts), bases, of_each, files, strict=True):
            first = own[np.cumsum(is_first(rows)) - 1]
            again = first != rows[:, 2] + base
            if again.any():
                with open(file, "ab") as listed:
                    listed.write(np.column_stack([rows[:, 2], first])[again].astype("<i8").data)
    corpus.counts["repeated"] = sum(file.stat().st_size // 16 for file in files)


def _firsts(rows: np.ndarray, base: np.uint64) -> np.ndarray:
    """Return of each content in a slice the first row, with its number through all slices."""
    return np.column_stack([rows[:, :2], rows[:, 2] + base])[is_first(rows)]


def is_first(rows: np.ndarray) -> np.ndarray:
    """Tell of which rows the first two numbers are not those of the row before, (N,) bool."""
    return np.append(True, (rows[1:, :2] != rows[:-1, :2]).any(axis=1))[: len(rows)]


def say_notices(notices: Sequence[Notice]) -> None:
    """Say what is to be said of files: of many notices of one kind, the first."""
    said = Counter[str]()
    for notice in notices:
        said[notice.kind] += 1
        if said[notice.kind] <= MAX_NOTICES:
            (log.warning if notice.warns else log.info)(notice.message)
        elif said[notice.kind] == MAX_NOTICES + 1:
            log.info(f"more files like the last {MAX_NOTICES} ({notice.kind}) are not named")
