"""What a corpus is made of: documents, what is left out of them, and how files are read for them."""

import dataclasses
from collections import Counter
from dataclasses import dataclass

from gpt.choices import BadBytes, Markup
from gpt.errors import bounded
from gpt.log import log

AUTO, NONE = "auto", "none"  # in place of a separator
MAX_NOTICES = 5  # of one kind


@dataclass(frozen=True)
class Document:
    """One text; `name` identifies it everywhere alike, and `note` says what of it was lost, if anything was."""

    name: str
    text: str
    note: str = ""


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


@dataclass
class Notices:
    """What is said of files while they are read: of many that are alike, the first."""

    said: Counter[str] = dataclasses.field(default_factory=Counter)

    def say(self, kind: str, message: str, warns: bool = False) -> None:
        """Say something of a file, unless enough of this kind was said."""
        self.said[kind] += 1
        if self.said[kind] <= MAX_NOTICES:
            (log.warning if warns else log.info)(message)
        elif self.said[kind] == MAX_NOTICES + 1:
            log.info(f"more files like the last {MAX_NOTICES} ({kind}) are not named")


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
    notices: Notices = dataclasses.field(default_factory=Notices, compare=False, repr=False)
