"""Where documents come from: a source is read part by part, and names what it leaves out, with the reason."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gpt.corpus.decoding import decoded
from gpt.errors import InputError
from gpt.files import parse_json
from gpt.log import log

JSON_LINES = (".jsonl", ".ndjson")
RAW = {".html": "tags", ".htm": "tags", ".xml": "tags", ".json": "braces", ".ipynb": "braces", ".csv": "commas"}
HIDDEN = "hidden, or a directory of tools"
OUR_FILES = ("manifest.json", "checkpoints")
MAX_FIELDS = 20  # that are named
TOOL_DIRECTORIES = {"__pycache__", "node_modules"}


@dataclass(frozen=True)
class Document:
    """One text; `name` identifies it everywhere alike."""

    name: str
    text: str


@dataclass(frozen=True)
class Skipped:
    """What is left out, and why."""

    name: str
    reason: str


class Source(Protocol):
    """A corpus as numbered parts in a fixed order, each of which can be read without the others."""

    def parts(self) -> list[Any]:
        """List the parts, and as `Skipped` what is left out without being read."""

    def read(self, part: Any) -> Iterator[Document | Skipped]:
        """Yield the documents of one part in order, and what is left out of it."""


class Texts:
    """Texts that are in memory, by name; each is a part."""

    def __init__(self, texts: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        self.texts = dict(texts)

    def parts(self) -> list[str]:
        return list(self.texts)

    def read(self, part: str) -> Iterator[Document]:
        yield Document(part, self.texts[part])


class TextFiles:
    """Files and directories, each file a part and a document; of JSON Lines each line is a document."""

    def __init__(self, inputs: list[Path], field: str | None = None) -> None:
        """Take `field` as the one that holds the text in JSON Lines.

        Raises InputError for no input, or one that does not exist, or one that has fields but not as JSON Lines.
        """
        self.inputs, self.field = [path.expanduser() for path in inputs], field
        if not inputs:
            raise InputError("`input`: name at least one file or directory")
        for path in self.inputs:
            if not path.exists():
                raise InputError(f"`input` {path}: does not exist")
            if field is not None and path.suffix.lower() in RAW:
                raise InputError(
                    f"`field` {field}: is for JSON Lines (.jsonl) only, and {path} is none; leave it out, or write "
                    "the file as JSON Lines first, one object a line"
                )

    def parts(self) -> list["TextFile | Skipped"]:
        """List the files, and what is left out unread; say where markup is taken for text."""
        parts = [part for top in self.inputs for part in self._below(top)]
        files = [part for part in parts if isinstance(part, TextFile)]
        if self.field is not None and not any(file.is_json_lines for file in files):
            raise InputError(f"`field` {self.field}: there is no JSON Lines file (.jsonl) in the input; leave it out")
        for suffix, marks in RAW.items():
            raw = [file for file in files if file.path.suffix.lower() == suffix]
            if raw:
                others = f" and {len(raw) - 1:,} more {suffix}" if len(raw) > 1 else ""
                log.warning(f"{raw[0].path}{others}: taken as it stands; the {marks} are learned with the text")
        return parts

    def _below(self, top: Path) -> Iterator["TextFile | Skipped"]:
        """Yield every file; its name begins at its input, so that it is the same wherever that lies."""
        if not top.is_dir():
            yield TextFile(top.name, top)
            return
        outside, errors = top.resolve().parent, []
        for directory, directories, files in os.walk(top, onerror=errors.append):
            yield from (Skipped(_name(Path(e.filename), outside), f"cannot be read: {e.strerror}") for e in errors)
            errors.clear()
            here = Path(directory)
            for name in sorted(directories):
                if reason := _reason_to_skip(here / name):
                    yield Skipped(_name(here / name, outside), reason)
                    directories.remove(name)
            directories.sort()
            for name in sorted(files):
                if name.startswith("."):
                    yield Skipped(_name(here / name, outside), HIDDEN)
                else:
                    yield TextFile(_name(here / name, outside), here / name)
        yield from (Skipped(_name(Path(e.filename), outside), f"cannot be read: {e.strerror}") for e in errors)

    def read(self, part: "TextFile") -> Iterator[Document | Skipped]:
        try:
            if not part.path.is_file():
                yield Skipped(part.name, "not a regular file")
            elif part.is_json_lines:
                yield from self._json_lines(part)
            else:
                yield Document(part.name, decoded(part.path.read_bytes(), part.path.suffix))
        except OSError as error:
            yield Skipped(part.name, f"cannot be read: {error.strerror}")
        except InputError:
            raise
        except ValueError as error:
            yield Skipped(part.name, str(error))

    def _json_lines(self, part: "TextFile") -> Iterator[Document | Skipped]:
        """Read a file in which each line is a document; one without any text is left out as one, or refused."""
        found = iter(()) if self.field is None else _lines(part, self.field)
        before = []
        for each in found:
            if isinstance(each, Document):
                yield from [*before, each]
                yield from found
                return
            before.append(each)
        fields = _first_fields(part.path)
        if fields is None:
            yield Skipped(part.name, "has no line of JSON")
            return
        known = f"its fields are: {', '.join(fields[:MAX_FIELDS]) or 'none: its first line is no object'}"
        if self.field is None:
            yield self._left_out(part, f"`field` must name the field that holds the text; {known}")
        elif self.field in fields:
            yield self._left_out(part, f"the field {self.field!r} holds no text in any line; {known}")
        else:
            yield self._left_out(part, f"no line has a field {self.field!r}; {known}")

    def _left_out(self, part: "TextFile", reason: str) -> Skipped:
        """Refuse a file that was asked for; skip one that merely lies in a directory."""
        if part.path in self.inputs:
            raise InputError(f"`input` {part.path}: {reason}")
        return Skipped(part.name, f"JSON Lines: {reason}")


@dataclass(frozen=True)
class TextFile:
    """A file to read, and the name of its document."""

    name: str
    path: Path

    @property
    def is_json_lines(self) -> bool:
        return self.path.suffix.lower() in JSON_LINES


def _name(path: Path, outside: Path) -> str:
    return (path.parent.resolve() / path.name).relative_to(outside).as_posix()


def _reason_to_skip(directory: Path) -> str | None:
    if directory.is_symlink():
        return "a link to a directory; give it by `input`"
    if directory.name.startswith(".") or directory.name in TOOL_DIRECTORIES or (directory / "pyvenv.cfg").exists():
        return HIDDEN
    if (directory / "tokenizer.json").exists() and any((directory / name).exists() for name in OUR_FILES):
        return "a dataset or a run of this program"
    return None


def _lines(part: TextFile, field: str) -> Iterator[Document | Skipped]:
    """Read line by line, since such files can be larger than the memory."""
    with open(part.path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                name = f"{part.name}, line {number}"
                try:
                    yield Document(name, _text_of(parse_json(line), field))
                except ValueError as error:
                    yield Skipped(name, _reason(error))


def _first_fields(path: Path) -> list[str] | None:
    """List the fields of the first line that is JSON, none where that is no object; None if no line is."""
    with open(path, "rb") as lines:
        for line in filter(bytes.strip, lines):
            with contextlib.suppress(ValueError):
                entry = parse_json(line)
                return list(entry) if isinstance(entry, dict) else []
    return None


def _text_of(entry: object, field: str) -> str:
    """Return the text in a line of JSON. Raises ValueError, with the reason, if there is none."""
    text = entry.get(field) if isinstance(entry, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"has no text in the field {field!r}")
    if not text.strip():
        raise ValueError("empty")
    # JSON can spell half a surrogate pair, which no UTF-8 can hold.
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\r\n", "\n")


def _reason(error: ValueError) -> str:
    """Say why a line cannot be read as JSON with a text."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} at byte {error.start}"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    return str(error)
