"""From the bytes of a file to documents: of which format it is, and plain text, which is one document or many.

1. What is compressed is unpacked, as its first bytes say, and the entries of an archive are read one after another.
2. The name's suffix says which reader yields the documents; of a pipe, which has no name, its beginning does.
3. Everything else is text, or is called what it is.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath

from gpt.corpus import unpacking
from gpt.corpus.decoding import OFFICE, SAMPLE, TextStream
from gpt.corpus.documents import AUTO, NONE, Document, Notice, ReadOptions, Refused, Skipped
from gpt.corpus.encodings import for_file
from gpt.corpus.pipes import suffix_of_json, suffix_of_pipe
from gpt.corpus.readers.html import html
from gpt.corpus.readers.json_values import json_values
from gpt.corpus.readers.lines import json_lines
from gpt.corpus.readers.parquet import INSTALL, parquet
from gpt.corpus.readers.tables import table
from gpt.corpus.separators import END_OF_TEXT, Separator, divided, separators_of
from gpt.corpus.unpacking import TooLarge
from gpt.errors import InputError

Documents = Iterator[Document | Skipped | Notice]
Reader = Callable[[io.BufferedReader, str, ReadOptions], Documents]
RECORDS: dict[str, Reader] = {".jsonl": json_lines, ".ndjson": json_lines, ".json": json_values}
RECORDS |= {".csv": table, ".tsv": table, ".parquet": parquet}
HTML = (".html", ".htm", ".xhtml")
MARKUP = {".xml": "tags", ".svg": "tags", ".fb2": "tags", ".ipynb": "braces"}  # which are learned with the text
BRACKET = re.compile(rb"[\s\0\xef\xbb\xbf\xfe\xff]*[\[{]")  # how what may be JSON begins, after its byte-order mark
ARCHIVES = (".zip", ".tar", *unpacking.SUFFIXES)  # as far as names tell
PIPE = "|"  # in place of a file's name
DEEPEST = 4  # archives and compressed files within each other
SPECIAL = re.compile(r"<\|\w{1,40}\|>")  # what names of special tokens look like, as <|im_start|>


class FileReader:
    """Yields the documents of one file, and of what is packed in it."""

    def __init__(self, how: ReadOptions) -> None:
        self._how, self._budget, self.notices = how, None, list[Notice]()

    def documents(self, stream: io.BufferedReader, name: str, file: str, depth: int = 0) -> Documents:
        """Yield the documents of a stream, whose `peek` must show its beginning, and what is left out of it.

        `name` is what documents are called by, and `file` the name of the file, which says its format.
        Raises Refused, for the file itself, where it holds no text as it was asked for, and InputError for bad bytes
        where these are an error.
        """
        count, how = 0, for_file(self._how, name) if self._how.encoding else self._how
        try:
            for found in self._reader(stream, file, depth)(stream, name, how):
                count += isinstance(found, Document)
                yield found
                del found
        except InputError:
            raise
        except (ValueError, OSError, ImportError) as error:
            if depth == 0 and isinstance(error, ImportError):
                raise Refused("", f"install what reads it: {INSTALL} ({error})") from None
            if isinstance(error, Refused if depth == 0 else TooLarge):
                raise
            yield Skipped(name, f"after {count:,} documents: {_reason(error)}" if count else _reason(error))

    def _reader(self, stream: io.BufferedReader, file: str, depth: int) -> Reader:
        """Choose what reads a stream, by its first bytes and the name of its file."""
        head, suffix = stream.peek(SAMPLE), PurePosixPath(file).suffix.lower()
        for compression, magic in unpacking.MAGIC.items():
            if head.startswith(magic):
                return partial(self._compressed, compression=compression, file=file, depth=depth)
        if head.startswith(unpacking.ZIP) and suffix not in OFFICE:
            return partial(self._archive, entries=unpacking.zip_entries, depth=depth)
        if head[257:262] == unpacking.TAR or suffix == ".tar":
            return partial(self._archive, entries=unpacking.tar_entries, depth=depth)
        if file == PIPE:
            suffix = suffix_of_pipe(head, self._how.field)
            if not suffix and self._how.field is not None:
                raise Refused("", f"begins like plain text, which has no field {self._how.field!r}; leave `field` out")
        if self._how.examples and RECORDS.get(suffix) is not json_lines:
            raise Refused("", "examples are read from JSON Lines (.jsonl), an object in each line")
        if suffix in RECORDS:
            return partial(named, reader=partial(records, reader=RECORDS[suffix]))
        plain = partial(maybe_json if BRACKET.match(head) and suffix not in MARKUP else text, suffix=suffix)
        return partial(named, reader=html if suffix in HTML and self._how.html == "drop" else plain)

    def _compressed(
        self, stream: io.BufferedReader, name: str, how: ReadOptions, compression: str, file: str, depth: int
    ) -> Documents:
        budget = self._require_budget(stream, depth)
        path = PurePosixPath(file)
        inner = unpacking.SUFFIXES.get(path.suffix.lower())
        unpacked = unpacking.decompressed(stream, name, compression, how, budget, self.notices)
        yield from self.documents(unpacked, name, file if inner is None else f"{path.stem}{inner}", depth + 1)

    def _archive(
        self, stream: io.BufferedReader, name: str, how: ReadOptions, entries: Callable[..., Iterator], depth: int
    ) -> Documents:
        budget = self._require_budget(stream, depth)
        said_hidden: set[tuple[str, ...]] = set()
        entry = None
        for entry in entries(stream, budget):
            if isinstance(entry, Skipped):
                yield Skipped("/".join([name, *unpacking.entry_name(entry.name)]), entry.reason)
                continue
            parts = unpacking.entry_name(entry[0])
            if hidden := unpacking.hidden(parts):
                if hidden not in said_hidden:
                    yield Skipped("/".join([name, *hidden]), unpacking.HIDDEN)
                said_hidden.add(hidden)
            else:
                yield from _markup(name, parts)
                yield from self.documents(entry[1], "/".join([name, *parts]), parts[-1] if parts else "", depth + 1)
        if entry is None:
            yield Skipped(name, "an archive without files")

    def _require_budget(self, stream: io.BufferedReader, depth: int) -> unpacking.Budget:
        if depth >= DEEPEST:
            raise ValueError(f"lies within {DEEPEST} archives already; unpack it first")
        self._budget = self._budget or unpacking.Budget(self._how.max_unpacked, stream)
        return self._budget


def _markup(archive: str, parts: tuple[str, ...]) -> Iterator[Notice]:
    """Say of an entry of an archive that it is taken for text with its markup; sources.py says it of files."""
    if marks := MARKUP.get(PurePosixPath(parts[-1] if parts else "").suffix.lower()):
        message = f"{'/'.join([archive, *parts])}: taken as it stands; the {marks} are learned with the text"
        yield Notice("markup in archives", message, warns=True)


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"install what reads it: {INSTALL} ({error})"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return f"{error.format}: {error}" if isinstance(error, Refused) and error.format else str(error)


# ---- plain text ----


def text(stream: io.BufferedReader, name: str, how: ReadOptions, suffix: str = "") -> Documents:
    """Yield the documents of a plain text: one, or those between the separators that it holds.

    One that is too long comes in parts, each a document.
    """
    source = TextStream(stream, name, how, suffix)
    if how.range is not None and how.range.start:
        name = f"{name}, from byte {how.range.start}"
    number, part, separator = 0, 0, None
    for found, separator in divided(source.blocks(), separators_of(how, suffix)):
        if separator is None:
            part += 1
            if part == 1:
                yield source.document(name, found)
            elif found:
                yield source.document(f"{name}, part {part}", found, is_whole=False)
        elif found and not found.isspace():
            number += 1
            yield source.document(f"{name}, document {number}", found, is_whole=False)
        del found
    if separator is None:
        yield from _without(name, how)
    elif how.range is None or not how.range.start:
        message = (
            f"{name}: {_counted(number, 'document')}, divided at {separator.called}; `separator` none keeps it as one"
        )
        yield Notice("divided files", message)
    if separator is not None and not number:
        yield Skipped(name, "empty")
    yield from source.cut()


def maybe_json(stream: io.BufferedReader, name: str, how: ReadOptions, suffix: str) -> Documents:
    """Yield the documents of a plain text, and say so where it seems to be JSON, which its name does not tell."""
    is_first = how.range is None or not how.range.start
    if is_first and (found := suffix_of_json(stream.peek(SAMPLE))):
        called = {".json": "a JSON array", ".jsonl": "JSON Lines"}[found]
        packing = PurePosixPath(name).suffix.lower()
        wanted = f"{found}{packing}" if packing in unpacking.SUFFIXES else found
        message = f"{name}: begins like {called}, and is taken as it stands; the braces are learned with the text"
        remedy = f"to read its records, give it a name that ends in {wanted}, and name their `field`"
        yield Notice("JSON by another name", f"{message}; {remedy}", warns=True)
    yield from text(stream, name, how, suffix)


def records(stream: io.BufferedReader, name: str, how: ReadOptions, reader: Reader) -> Documents:
    """Yield the documents of a file of records; the text in each is divided at separators, as that of a file is."""
    separators, by, first, number, count = separators_of(how, ".jsonl"), None, "", 0, 0
    for record in reader(stream, name, how):
        if isinstance(record, Document) and (texts := _texts_of(record, separators)):
            by, first, number = texts[0][1], first or record.name, number + 1
            parts = [part for part, _ in texts if part and not part.isspace()]
            for place, part in enumerate(parts, 1):
                note = record.note if "\ufffd" in part else ""
                yield Document(f"{record.name}, document {place}", part, note)
            if not parts:
                yield Skipped(record.name, "empty")
            count += len(parts)
        else:
            yield record
        del record
    if by is None:
        yield from _without(name, how, " for each record")
    else:
        found = f"{_counted(number, 'record')} divided at {by.called} into {_counted(count, 'document')}"
        yield Notice("divided files", f"{name}: {found}, the first {first}; `separator` none keeps each as one")


def _texts_of(record: Document, separators: list[Separator]) -> list[tuple[str, Separator | None]]:
    """Divide the text of a record; there is none where nothing divides it."""
    if record.learned or not any(separator.literal in record.text for separator in separators):
        return []
    texts = list(divided(iter([record.text]), separators))
    return texts if texts[0][1] else []


def _without(name: str, how: ReadOptions, each: str = "") -> Iterator[Notice]:
    """Say that a separator was given, and is not there."""
    if how.separator not in (AUTO, NONE) and how.range is None:
        yield Notice("no separator", f"{name}: does not have the separator {how.separator!r}: one document{each}")


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"


def _own_text(document: Document) -> str:
    """Return a text without the special tokens that a template has put there."""
    edges = [0, *(edge for span in document.specials for edge in span), len(document.text)]
    return "".join(document.text[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True))


def named(stream: io.BufferedReader, name: str, how: ReadOptions, reader: Reader) -> Documents:
    """Yield what a reader does, and say which names of special tokens are learned with it as text."""
    names, first = Counter[str](), ""
    for found in reader(stream, name, how):
        if isinstance(found, Document) and "<|" in found.text and (inside := SPECIAL.findall(_own_text(found))):
            names.update(inside)
            line = f"line {found.text[: found.text.index(inside[0])].count(chr(10)) + 1}"
            first = first or (line if found.name == name else found.name)
        yield found
        del found
    if names:
        where = " within lines" if how.separator == AUTO and not how.examples else ""
        what = f"{name}: has {', '.join(sorted(names))}{where} ({names.total():,} in all, the first in {first})"
        ends = f"; `separator` '{END_OF_TEXT}' ends a document at each" if END_OF_TEXT in names else ""
        ends = "; what ends an answer is learned without them" if how.examples else ends
        yield Notice("names of special tokens", f"{what}, learned as any other text{ends}", warns=True)
