"""From the bytes of a file to documents: of which format it is, and plain text, which is one document or many.

1. What is compressed is unpacked, as its first bytes say, and the entries of an archive are read one after another.
2. The name's suffix says which reader yields the documents; of a pipe, which has no name, its beginning does.
3. Everything else is text, or is called what it is.
"""

import dataclasses
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import PurePosixPath

from gpt.corpus import unpacking
from gpt.corpus.decoding import OFFICE, SAMPLE, TextStream, mark_of
from gpt.corpus.documents import AUTO, CUT, LARGEST, NONE, Document, Notice, Reading, Refused, Skipped, end_of_part
from gpt.corpus.readers.json_values import json_values
from gpt.corpus.readers.lines import json_lines
from gpt.corpus.readers.parquet import parquet
from gpt.corpus.readers.tables import DELIMITERS, table
from gpt.corpus.unpacking import TooLarge
from gpt.errors import InputError

Documents = Iterator[Document | Skipped | Notice]
Reader = Callable[[io.BufferedReader, str, Reading], Documents]
RECORDS: dict[str, Reader] = {".jsonl": json_lines, ".ndjson": json_lines, ".json": json_values}
RECORDS |= {".csv": table, ".tsv": table, ".parquet": parquet}
HTML = (".html", ".htm")
ARCHIVES = (".zip", ".tar", *unpacking.SUFFIXES)  # as far as names tell
PIPE = "|"  # in place of a file's name
DEEPEST = 4  # archives and compressed files within each other
INSTALL = "pip install 'gpt[data]'"
END_OF_TEXT = "<|endoftext|>"
FORM_FEEDS = ("", ".txt", ".text")  # where a form feed ends a document; in source code it stands between sections
MAX_BLANKS = 16  # after a marker in its line


def require_parquet() -> None:
    """Raise InputError where nothing is installed that reads Parquet."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InputError(f"this corpus is in Parquet; install what reads it: {INSTALL} ({error})") from None


class FileReader:
    """Yields the documents of one file, and of what is packed in it."""

    def __init__(self, how: Reading) -> None:
        self._how, self._budget, self.notices = how, None, list[Notice]()

    def documents(self, stream: io.BufferedReader, name: str, file: str, depth: int = 0) -> Documents:
        """Yield the documents of a stream, whose `peek` must show its beginning, and what is left out of it.

        `name` is what documents are called by, and `file` the name of the file, which says its format.
        Raises Refused, for the file itself, where it holds no text as it was asked for, and InputError for bad bytes
        where these are an error.
        """
        count = 0
        try:
            for found in self._reader(stream, file, depth)(stream, name, self._how):
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
        if head[257:262] == unpacking.TAR:
            return partial(self._archive, entries=unpacking.tar_entries, depth=depth)
        if file == PIPE:
            suffix = _suffix_of_pipe(head, self._how.field)
            if not suffix and self._how.field is not None:
                raise Refused("", f"begins like plain text, which has no field {self._how.field!r}; leave `field` out")
        if self._how.examples and RECORDS.get(suffix) is not json_lines:
            raise Refused("", "examples are read from JSON Lines (.jsonl), an object in each line")
        if suffix in HTML and self._how.html == "drop":
            return html
        return RECORDS.get(suffix) or partial(text, suffix=suffix)

    def _compressed(
        self, stream: io.BufferedReader, name: str, how: Reading, compression: str, file: str, depth: int
    ) -> Documents:
        budget = self._require_budget(stream, depth)
        path = PurePosixPath(file)
        inner = unpacking.SUFFIXES.get(path.suffix.lower())
        unpacked = unpacking.decompressed(stream, name, compression, how, budget, self.notices)
        yield from self.documents(unpacked, name, file if inner is None else f"{path.stem}{inner}", depth + 1)

    def _archive(
        self, stream: io.BufferedReader, name: str, how: Reading, entries: Callable[..., Iterator], depth: int
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
                yield from self.documents(entry[1], "/".join([name, *parts]), parts[-1] if parts else "", depth + 1)
        if entry is None:
            yield Skipped(name, "an archive without files")

    def _require_budget(self, stream: io.BufferedReader, depth: int) -> unpacking.Budget:
        if depth >= DEEPEST:
            raise ValueError(f"lies within {DEEPEST} archives already; unpack it first")
        self._budget = self._budget or unpacking.Budget(self._how.max_unpacked, stream)
        return self._budget


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"install what reads it: {INSTALL} ({error})"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return f"{error.format}: {error}" if isinstance(error, Refused) else str(error)


def _suffix_of_pipe(head: bytes, field: str | None) -> str:
    """Tell by the beginning of a pipe what its file's suffix would be; '' for plain text."""
    if head.startswith(b"PAR1"):
        return ".parquet"
    mark, encoding = mark_of(head)
    begin = head[len(mark) :].decode(encoding or "utf-8", "replace").lstrip()
    if re.match(r'\[\s*[\[{"\]]', begin):
        return ".json"
    if re.match(r'\{\s*["}]', begin):
        return ".jsonl"
    columns = {column.strip('" ') for column in re.split(f"[{DELIMITERS}]", begin.partition("\n")[0].rstrip("\r"))}
    return ".csv" if field in columns else ""


# ---- plain text ----


@dataclass(frozen=True)
class Separator:
    """What stands between documents: a pattern, as long as `longest` at most, and how it is called."""

    pattern: re.Pattern[str]
    longest: int
    called: str
    is_line: bool = False  # then it begins with the line end before it, and ends before the one after it


MARKER = Separator(
    re.compile(rf"\n{re.escape(END_OF_TEXT)}[ \t]{{0,{MAX_BLANKS}}}(?=\n)"),
    len(END_OF_TEXT) + MAX_BLANKS + 2,
    f"lines of {END_OF_TEXT}",
    True,
)
FORM_FEED = Separator(re.compile("\f"), 1, "form feeds")


def separators_of(how: Reading, suffix: str) -> list[Separator]:
    """Return what may stand between the documents of a text; the first that is found there, does."""
    if how.separator == AUTO:
        return [MARKER, FORM_FEED] if suffix in FORM_FEEDS and how.range is None else [MARKER]
    literal = separator_text(how)
    return (
        [] if how.separator == NONE else [Separator(re.compile(re.escape(literal)), len(literal), repr(how.separator))]
    )


def separator_text(how: Reading) -> str:
    """Return the separator that was given, with what stands for a line's end and the like in it."""
    escaped = {"\\n": "\n", "\\t": "\t", "\\f": "\f", "\\r": "\r", "\\\\": "\\"}
    return re.sub(r"\\[ntfr\\]", lambda match: escaped[match[0]], how.separator).replace("\r\n", "\n")


def divided(blocks: Iterator[str], separators: list[Separator]) -> Iterator[tuple[str, Separator | None]]:
    """Yield the texts between separators, and by which they are divided; None where there is none.

    A text that is too long to stay one comes in parts.
    """
    has_lines = any(separator.is_line for separator in separators)
    rest = "\n" if has_lines else ""  # of the blocks, in which a separator may have begun; a line follows a line end
    lead = len(rest)  # of a text: characters that are none of it
    chosen, pieces, longest = None, [], max((separator.longest for separator in separators), default=0)
    for block in chain(blocks, [None]):
        rest += block if block is not None else "\n" if has_lines else ""
        chosen = chosen or next((each for each in separators if each.pattern.search(rest)), None)
        place = 0
        for match in chosen.pattern.finditer(rest) if chosen else ():
            pieces.append(rest[place + lead : match.start()])
            yield _joined(pieces), chosen
            place, lead = match.end(), int(has_lines and chosen is not FORM_FEED)
        cut = len(rest) - has_lines if block is None else max(place, len(rest) - longest)
        if place + lead <= cut:
            pieces.append(rest[place + lead : cut])
            place, lead = cut, 0
        rest = rest[place:]
        if sum(map(len, pieces)) > LARGEST:
            found = _joined(pieces)
            end = end_of_part(found)
            yield found[:end], chosen
            pieces.append(found[end:])
    del rest
    yield _joined(pieces), chosen


def _joined(pieces: list[str]) -> str:
    """Join a text, and keep it only once."""
    text = "".join(pieces)
    pieces.clear()
    return text


def text(stream: io.BufferedReader, name: str, how: Reading, suffix: str = "") -> Documents:
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
                yield from _notices_of_whole(found, name, how) if how.range is None else ()
            elif found:
                yield source.document(f"{name}, part {part}", found, is_whole=False)
        elif found and not found.isspace():
            number += 1
            yield source.document(f"{name}, document {number}", found, is_whole=False)
        del found
    if separator is not None and (how.range is None or not how.range.start):
        count = f"{number:,} {'document' if number == 1 else 'documents'}"
        message = f"{name}: {count}, divided at {separator.called}; `separator` none keeps it as one"
        yield Notice("divided files", message)
    yield from _cut(source, name)


def _notices_of_whole(found: str, name: str, how: Reading) -> Iterator[Notice]:
    """Say of a text that is one document where this may not be meant."""
    if how.separator == AUTO and END_OF_TEXT in found:
        yield Notice(
            "markers within lines",
            f"{name}: has {END_OF_TEXT} within lines, which is learned as any other text; `separator` '{END_OF_TEXT}' "
            "ends a document at each",
            warns=True,
        )
    elif how.separator not in (AUTO, NONE):
        yield Notice("no separator", f"{name}: does not have the separator {how.separator!r}: one document")


def _cut(source: TextStream, name: str) -> Iterator[Notice]:
    if source.is_cut:
        yield Notice(CUT, f"{name}: only its beginning was read")


def html(stream: io.BufferedReader, name: str, how: Reading) -> Documents:
    """Yield what a reader sees of an HTML page, in the encoding that it says it has."""
    from gpt.corpus.encodings import declared_by_html
    from gpt.corpus.readers.html import text_of

    encoding = declared_by_html(stream.peek(SAMPLE)) or how.encoding
    source = TextStream(stream, name, dataclasses.replace(how, encoding=encoding))
    page = "".join(source.blocks())
    found = source.document(name, text_of(page))
    is_empty = isinstance(found, Skipped) and found.reason == "empty"
    yield Skipped(name, "has no text beside its tags") if is_empty else found
    yield from _cut(source, name)
