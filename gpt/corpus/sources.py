"""Where documents come from: a source is read part by part, and names what it leaves out, with the reason."""

import glob
import hashlib
import io
import re
import sys
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gpt.corpus.decoding import SAMPLE, require_encodings
from gpt.corpus.documents import Document, Notice, Range, ReadOptions, Refused, Skipped
from gpt.corpus.encodings import fits, for_file, parse_encodings
from gpt.corpus.executor import NOTED, TimedFile
from gpt.corpus.formats import ARCHIVES, HTML, MARKUP, PIPE, RECORDS, FileReader
from gpt.corpus.ranges import opened, ranges_of
from gpt.corpus.unpacking import buffered
from gpt.corpus.walking import unreadable, walk
from gpt.errors import InputError, check_limits
from gpt.files import told_apart
from gpt.log import log

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
STANDARD_INPUT = Path("-")
NAMELESS = (("/", "dev"), ("/", "proc"))  # where the shell puts pipes


class Identity(NamedTuple):
    """What a part is: its name, its bytes, and what tells its content from another one."""

    name: str
    bytes: int
    content: str
    validates: bool = False
    """All of it does, as was asked for."""
    goes_on: bool = False
    """It is of the same file as the part before."""


class Source(Protocol):
    """A corpus as numbered parts in a fixed order, each of which can be read without the others."""

    settings: str
    """All that reading hangs on, beside the parts."""

    def parts(self) -> list[Any]:
        """List the parts, and as `Skipped` what is left out without being read."""

    def read(self, part: Any) -> Iterator[Document | Skipped | Notice]:
        """Yield the documents of one part in order, what is left out of it, and what is to be said of it."""

    def identity(self, part: Any) -> "Identity":
        """Tell what a part is, without reading it."""

    def divided(self, part: Any, size: int) -> list[Any]:
        """Divide a part into smaller ones, of about so many bytes, if it is large and that can be done."""


class Texts:
    """Texts that are in memory, by name; each is a part."""

    def __init__(self, texts: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        self.texts, self.settings = dict(texts), ""

    def parts(self) -> list[str]:
        return list(self.texts)

    def read(self, part: str) -> Iterator[Document]:
        yield Document(part, self.texts[part])

    def identity(self, part: str) -> Identity:
        content = self.texts[part].encode("utf-8", "surrogatepass")
        return Identity(part, len(content), hashlib.sha256(content).hexdigest())

    def divided(self, part: str, size: int) -> list[str]:
        return [part]


class TextFiles:
    """Files, directories, archives and pipes. Each file is a part; it gives a document or many (see formats.py)."""

    def __init__(
        self,
        inputs: Sequence[Path | str],
        field: str | None = None,
        how: ReadOptions | None = None,
        validation: Sequence[Path | str] = (),
        downloads: Path | None = None,
    ) -> None:
        """Take files and directories, patterns such as notes/*.md, and - for standard input.

        And addresses, as text, of what is downloaded to a directory. Those of `validation` are to validate, all of
        them. `field` is the one that holds the text, where files have fields. Raises InputError for no input, or one
        that does not exist, or one that has no fields though `field` is given, and for settings that are none.
        """
        how = how or ReadOptions()
        self.how = how if field is None else replace(how, field=field)
        self.settings = repr(self.how)
        check_limits(self.how)
        if self.how.encoding is not None:
            require_encodings(self.how.encoding)
        if not self.how.separator:
            raise InputError("`separator` is empty; give auto, none, or the text that stands between documents")
        if not inputs:
            raise InputError("`input`: name at least one file or directory")
        self.inputs = [path for given in inputs for path in _expanded(given, "input", downloads)]
        self.validation = [path for given in validation for path in _expanded(given, "validation", downloads)]
        self._asked = {*self.inputs, *self.validation}
        for path in self.inputs if self.how.field is not None else ():
            if path.suffix.lower() in (*HTML, *MARKUP):
                raise InputError(
                    f"`field` {self.how.field}: {path} has no fields; leave it out, or read that file by itself"
                )

    def parts(self) -> list["TextFile | Skipped"]:
        """List the files, and what is left out unread; say where markup is taken for text."""
        found = [  # first, since of two equal documents the first is kept
            replace(part, validates=True) if isinstance(part, TextFile) else part
            for top in self.validation
            for part in self._below(top)
        ]
        found += [part for top in self.inputs for part in self._below(top)]
        parts = list(_numbered(found))
        files = [part for part in parts if isinstance(part, TextFile)]
        if self.how.field is not None and not any(file.may_have_fields for file in files):
            raise InputError(
                f"`field` {self.how.field}: there is no JSON Lines file (.jsonl), JSON, CSV, TSV or Parquet in the "
                "input; leave it out"
            )
        if self.how.encoding and not any(file.path.suffix.lower() in ARCHIVES for file in files):
            for pattern, _ in parse_encodings(self.how.encoding):
                if not any(fits(file.name, pattern) for file in files):
                    raise InputError(f"`encoding` {pattern}=…: fits no file of the input; leave it out")
        kept = {suffix: "tags" for suffix in HTML if self.how.html == "keep"}
        for suffix, marks in (MARKUP | kept).items():
            raw = [file for file in files if file.path.suffix.lower() == suffix]
            if raw:
                others = f" and {len(raw) - 1:,} more {suffix}" if len(raw) > 1 else ""
                log.warning(f"{raw[0].path}{others}: taken as it stands; the {marks} are learned with the text")
        return parts

    def _below(self, top: Path) -> Iterator["TextFile | Skipped"]:
        """Yield every file."""
        if not top.is_dir():
            yield TextFile("stdin" if top == STANDARD_INPUT else top.name, top)
            return
        for found in walk(top):
            yield found if isinstance(found, Skipped) else TextFile(*found)

    def identity(self, part: "TextFile") -> Identity:
        """Tell what a file is. Raises InputError where it is another one than when it was divided."""
        state = part.state
        if part.known not in ("", state):
            what = "was changed" if state else "was removed"
            raise InputError(
                f"{part.path}: {what} while it was read; once it stays as it is, give the same command again"
            )
        if not state:  # what it holds is not known before it is read
            return Identity(part.name, 0, uuid.uuid4().hex, part.validates)
        size = part.range.size if part.range else part.path.stat().st_size
        goes_on = bool(part.range and part.range.start)
        return Identity(part.name, size, f"{part.path.absolute()} {state} {part.range}", part.validates, goes_on)

    def divided(self, part: "TextFile", size: int) -> list["TextFile"]:
        part = replace(part, known=part.state)
        if not part.known or part.path.stat().st_size < 2 * size:
            return [part]
        try:
            ranges = ranges_of(part.path, for_file(self.how, part.name), size)
        except OSError as error:
            unreadable(part.name, error)
            ranges = []
        return [replace(part, range=each) for each in ranges] or [part]

    def read(self, part: "TextFile") -> Generator[Document | Skipped | Notice]:
        """Yield what is in a file. Raises InputError where the system fails to read it, which may pass."""
        NOTED.failure = None
        try:
            asked = part.path in self._asked  # a pipe that lies in a directory might wait for its writer forever
            if part.path != STANDARD_INPUT and not part.path.is_file() and not (asked and part.path.is_fifo()):
                yield Skipped(part.name, "not a regular file")
                return
            reader = FileReader(replace(self.how, range=part.range))
            with self.stream(part) as stream:
                yield from reader.documents(stream, part.name, part.file)
            yield from reader.notices
        except OSError as error:
            yield unreadable(part.name, error)
        except Refused as error:
            yield self._left_out(part, error)
        if NOTED.failure is not None:
            unreadable(str(part.path), NOTED.failure, may_pass=True)

    def stream(self, part: "TextFile") -> io.BufferedReader:
        """Open a file, so that a peek shows its beginning."""
        if part.path == STANDARD_INPUT:
            if sys.stdin is None:
                raise InputError("`input` -: standard input is closed")
            if sys.stdin.isatty():
                log.info("reading what is typed, up to Ctrl-D at the beginning of a line")
            return buffered(sys.stdin.buffer.read)
        if part.path.is_fifo():
            return buffered(open(part.path, "rb", buffering=0).read)
        if part.range is not None and part.path.suffix.lower() != ".parquet":
            return opened(part.path, part.range)
        return io.BufferedReader(TimedFile(part.path), SAMPLE)

    def _left_out(self, part: "TextFile", error: Refused) -> Skipped:
        """Refuse a file that was asked for; skip one that merely lies in a directory, and a later part of a file."""
        if part.range is not None and part.range.start:
            return Skipped(f"{part.name}, its part from {part.range.start}", str(error))
        if part.path in self._asked:
            raise InputError(f"`input` {part.path}: {error}")
        return Skipped(part.name, f"{error.format}: {error}" if error.format else str(error))


@dataclass(frozen=True)
class TextFile:
    """A file to read, or a pipe, and the name of its documents."""

    name: str
    path: Path
    range: Range | None = None
    validates: bool = False
    known: str = ""
    """Its state when it was divided."""

    @property
    def state(self) -> str:
        """What tells its content from another one; '' of what is no regular file."""
        if self.is_pipe or not self.path.is_file():
            return ""
        status = self.path.stat()
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"

    @property
    def is_pipe(self) -> bool:
        return self.path == STANDARD_INPUT or self.path.is_fifo() or self._is_nameless

    @property
    def _is_nameless(self) -> bool:
        return self.path == STANDARD_INPUT or self.path.parts[:2] in NAMELESS

    @property
    def file(self) -> str:
        """The name that says what format it has."""
        return PIPE if self.is_pipe and (self._is_nameless or not self.path.suffix) else self.path.name

    @property
    def may_have_fields(self) -> bool:
        return self.file == PIPE or self.path.suffix.lower() in (*RECORDS, *ARCHIVES)


def _expanded(asked: Path | str, setting: str, downloads: Path | None) -> list[Path]:
    """Return the files of a pattern, in order, or the file itself. Raises InputError where there is none."""
    given = Path(asked).expanduser()
    if given == STANDARD_INPUT or given.exists():
        return [given]
    if ADDRESS.match(str(asked)):
        from gpt.corpus.addresses import fetched

        return [fetched(str(asked), setting, downloads)]
    if not glob.has_magic(str(given)):
        raise InputError(f"`{setting}` {given}: does not exist")
    found = sorted(map(Path, glob.glob(str(given), recursive=True)))  # noqa: PTH207  # of absolute ones, too
    if "**" in given.parts:  # which fits directories and all that is in them
        found = [path for path in found if not path.is_dir()]
    if not found:
        raise InputError(f"`{setting}` {given}: is the name of no file, and as a pattern it fits none")
    return found


def _numbered(parts: list["TextFile | Skipped"]) -> Iterator["TextFile | Skipped"]:
    """Tell files of one name apart, and name pipes by their order: what the shell calls them says nothing."""
    number, names = 0, iter(told_apart([(part.name, part.path) for part in parts if isinstance(part, TextFile)]))
    for part in parts:
        named = replace(part, name=next(names)) if isinstance(part, TextFile) else part
        if isinstance(part, TextFile) and part.file == PIPE and (part.path.is_fifo() or part.path.is_file()):
            number += 1
            named = replace(part, name="pipe" if number == 1 else f"pipe {number}")
        yield named
