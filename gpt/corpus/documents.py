"""What a corpus is made of: documents, what is left out of them, and how files are read for them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from gpt.choices import BadBytes, Markup
from gpt.errors import bounded
from gpt.text.added import Spans
from gpt.text.chat_template import PLAIN_SOURCE

LARGEST = 1 << 24  # characters of a document: a longer one is read as several, so that it need not fit into memory
AUTO, NONE = "auto", "none"  # in place of a separator
CUT = "beginnings"  # kind of the notice that of a text only the beginning was read, as was asked for


@dataclass(frozen=True)
class Document:
    """One text; `name` identifies it everywhere alike, and `note` says what of it was lost, if anything was."""

    name: str
    text: str
    note: str = ""
    learned: Spans = ()
    """Of an example, which characters are learned; the one behind the last stands for end-of-text. () is all."""
    specials: Spans = ()
    """Which characters are special tokens of a chat template."""


def end_of_part(text: str) -> int:
    """Return where a part ends of a text that is too long to stay one: after the last line or word of its last half."""
    half = len(text) // 2
    return text.rfind("\n", half) + 1 or text.rfind(" ", half) + 1 or len(text)


def parts_of(document: Document) -> Iterator[Document]:
    """Divide a document into parts of at most `LARGEST` characters; the first has its name, and its note."""
    start, number = 0, 1
    while start < len(document.text):
        text = document.text[start : start + LARGEST]
        if len(document.text) > start + LARGEST:
            text = text[: end_of_part(text)]
        yield replace(document, text=text) if number == 1 else Document(f"{document.name}, part {number}", text)
        start, number = start + len(text), number + 1


@dataclass(frozen=True)
class Skipped:
    """What is left out, and why."""

    name: str
    reason: str


class Refused(ValueError):
    """A file holds no text as it is asked for; the message says why, and `format` of what kind the file is."""

    def __init__(self, format: str, reason: str) -> None:
        super().__init__(reason)
        self.format = format


@dataclass(frozen=True)
class Notice:
    """What is to be said of a file that was read; of many of one kind, the first are said."""

    kind: str
    message: str
    warns: bool = False


@dataclass(frozen=True)
class Range:
    """A part of a large file of records: bytes of its lines, or row groups, from `start` to before `stop`."""

    start: int
    stop: int
    before: int = 0
    """Lines, or rows, that stand before it."""
    size: int = field(default=0, repr=False)
    """Bytes that are counted as its own; those of all ranges of a file add up to it."""


@dataclass(frozen=True)
class FileOptions:
    """How files are read."""

    field: str | None = None
    """Field or column of JSON, CSV, TSV and Parquet that holds the text; data.content is a field of the object data."""
    separator: str = AUTO
    """What ends a document within a text, such as '###', or none; auto finds <|endoftext|>, in .txt form feeds, too."""
    encoding: str | None = None
    """Encoding of files that are neither UTF-8 nor marked: cp1252, or by file: 'old/*=cp850,cp1252'; else proposed."""
    bad_bytes: BadBytes = "replace"
    """Replace single bytes that are no UTF-8 by U+FFFD, skip their document, or end with an error; they are counted."""
    html: Markup = "drop"
    """Drop the tags, scripts and styles of .html, .htm and .xhtml, or keep them as text."""
    max_unpacked: int = bounded(100, ge=1)
    """How many times its size a compressed file may unpack to; 64 MiB in any case. The rest is left out."""
    zstd_window: int = bounded(27, ge=10, le=31)
    """Largest window of a .zst file, as a power of 2; what zstd --long=31 wrote needs 31, and 2 GiB of memory."""

    def changed(self) -> dict[str, Any]:
        """Return the options that are not as usual."""
        usual = vars(FileOptions())
        return {name: value for name, value in vars(self).items() if name in usual and value != usual[name]}


@dataclass(frozen=True)
class ReadOptions(FileOptions):
    """How one file is read: with the options, and what part of it as what."""

    range: Range | None = None
    """Of a large file, the part that is read."""
    most: int | None = None
    """About how many bytes of a text are read, where its beginning will do."""
    examples: bool = False
    """Records are examples of prompts and answers (see instructions.py)."""
    template: str = PLAIN_SOURCE
    """By which conversations become text, in Jinja."""


def hash_fraction(name: str) -> float:
    """Return the number from 0 to below 1 that a name has on every machine, and that nobody chose."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
