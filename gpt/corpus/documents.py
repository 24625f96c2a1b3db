"""What a corpus is made of: documents, what is left out of them, and how files are read for them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpt.choices import BadBytes, Markup
from gpt.errors import bounded
from gpt.text.chat_template import Spans

LARGEST = 1 << 25  # characters of a document: a longer one is read as several, so that it need not fit into memory
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


@dataclass(frozen=True)
class Reading:
    """How files are read: the settings that all formats share."""

    field: str | None = None
    """The field that holds the text, where there are fields: `text`, or `data.content` of an object in an object."""
    separator: str = AUTO
    """What stands between the documents of a text file; 'auto' finds the usual ones, and 'none' keeps files whole."""
    encoding: str | None = None
    """Of files that are not UTF-8 and have no byte-order mark."""
    bad_bytes: BadBytes = "replace"
    html: Markup = "drop"
    max_unpacked: int = bounded(100, ge=1)
    """How many times its size a compressed file may unpack to; 64 MiB in any case."""
    zstd_window: int = bounded(27, ge=10, le=31)
    """The largest window of a .zst file, as a power of 2 bytes: about what reading it takes of memory."""
    range: Range | None = None
    """Of a large file, the part that is read."""
    most: int | None = None
    """About how many bytes of a text are read, where its beginning will do."""
    examples: bool = False
    """Records are examples of prompts and answers (see instructions.py)."""


def hash_fraction(name: str) -> float:
    """Return the number from 0 to below 1 that a name has on every machine, and that nobody chose."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
