"""Anyone's own text as documents: files, directories and JSON Lines; what is left out is named, with the reason."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

from gpt.corpus.pipeline import Document, split_by_hash
from gpt.errors import InputError
from gpt.files import parse_json

MOST_CHARACTERS = 50_000_000  # of validation: some 12 million of GPT-2's tokens, more than an evaluation reads
FEW = 100  # fewer documents than this are each cut in two, since a hash might send none of them to validation
JSON_LINES = (".jsonl", ".ndjson")
HIDDEN = "hidden, or a directory of tools"
OURS = ("manifest.json", "checkpoints")
SHOWN = 20  # fields that are named
TOOL_DIRECTORIES = {"__pycache__", "node_modules"}


class TextFiles:
    """The documents of some files and directories; `skipped` says what was left out, and why, once they were read."""

    def __init__(self, inputs: list[Path], field: str | None, validation_share: float = 0.1) -> None:
        """Raises InputError for an input that does not exist."""
        for path in inputs:
            if not path.exists():
                raise InputError(f"`input` {path}: does not exist")
        self.inputs, self.field, self.validation_share = inputs, field, validation_share
        self.skipped: dict[str, str] = {}
        self._many: bool | None = None

    def documents(self) -> Iterator[Document]:
        """Many documents are split by the hash of their names; of few, the end of each validates.

        What validates is the share that was asked for, but of very large corpora no more than is of use.
        """
        if self._many is None:
            number = characters = 0
            for _, text in self._texts():
                number, characters = number + 1, characters + len(text)
            self._many = number >= FEW
            self.validation_share = min(self.validation_share, MOST_CHARACTERS / max(1, characters))
        for name, text in self._texts():
            if self._many:
                yield Document(name, text, split_by_hash(name, self.validation_share))
                continue
            cut = int(len(text) * (1 - self.validation_share))
            if text[:cut]:
                yield Document(name, text[:cut], "train")
            yield Document(f"{name} (its end)", text[cut:], "validation")

    def _texts(self) -> Iterator[tuple[str, str]]:
        """(name, text) of each document; a file is one, and so is a line of JSON Lines."""
        for name, path in self._files():
            if path.suffix.lower() in JSON_LINES:
                yield from self._json_lines(name, path)
            elif (text := self._read(path)) is not None:
                yield name, text

    def _files(self) -> Iterator[tuple[str, Path]]:
        """(name, path) of every file; the name begins at its input, so that it is the same wherever that lies."""
        for top in self.inputs:
            if not top.is_dir():
                yield top.name, top
                continue
            outside = top.resolve().parent
            for directory, directories, files in os.walk(top, onerror=self._unreadable):
                here = Path(directory)
                for name in sorted(directories):
                    if reason := self._reason_to_skip(here / name):
                        self.skipped[str(here / name)] = reason
                        directories.remove(name)
                directories.sort()
                for name in sorted(files):
                    if name.startswith("."):
                        self.skipped[str(here / name)] = HIDDEN
                    else:
                        yield (here.resolve() / name).relative_to(outside).as_posix(), here / name

    def _unreadable(self, error: OSError) -> None:
        self.skipped[str(error.filename)] = f"cannot be read: {error.strerror}"

    def _reason_to_skip(self, directory: Path) -> str | None:
        if directory.is_symlink():
            return "a link to a directory; give it by `input`"
        if directory.name.startswith(".") or directory.name in TOOL_DIRECTORIES or (directory / "pyvenv.cfg").exists():
            return HIDDEN
        if (directory / "tokenizer.json").exists() and any((directory / name).exists() for name in OURS):
            return "a dataset or a run of this program"
        return None

    def _read(self, path: Path) -> str | None:
        """The text of a file, or None with the reason in `skipped`."""
        try:
            if not path.is_file():
                raise ValueError("not a regular file")
            content = path.read_bytes()
            if b"\0" in content:
                raise ValueError("binary: it has a zero byte")
            text = content.decode("utf-8-sig").replace("\r\n", "\n")
            if not text.strip():
                raise ValueError("empty")
            return text
        except OSError as error:
            self.skipped[str(path)] = f"cannot be read: {error.strerror}"
        except ValueError as error:
            self.skipped[str(path)] = _reason(error)
        return None

    def _json_lines(self, name: str, path: Path) -> Iterator[tuple[str, str]]:
        """Read line by line, since such files can be larger than the memory."""
        try:
            if not path.is_file():
                raise OSError(errno.EINVAL, "not a regular file")
            with open(path, "rb") as lines:
                for number, line in enumerate(lines, 1):
                    if not line.strip():
                        continue
                    try:
                        entry = parse_json(line)
                        if self.field is None:
                            self._field_needed(path, entry)
                            return
                        yield f"{name}, line {number}", _text_of(entry, self.field)
                    except InputError:
                        raise
                    except ValueError as error:
                        self.skipped[f"{path}, line {number}"] = _reason(error)
        except OSError as error:
            self._unreadable(OSError(error.errno, error.strerror, str(path)))

    def _field_needed(self, path: Path, entry: object) -> None:
        """Refuse a file that was asked for; skip one that merely lies in a directory."""
        fields = ", ".join(list(entry)[:SHOWN]) if isinstance(entry, dict) else "none: its first line is no object"
        reason = f"name the field that holds the text by `field`; its fields are: {fields}"
        if path in self.inputs:
            raise InputError(f"`input` {path}: {reason}")
        self.skipped[str(path)] = f"JSON Lines: {reason}"


def _text_of(entry: object, field: str) -> str:
    """The text in a line of JSON. Raises ValueError, with the reason, if there is none."""
    text = entry.get(field) if isinstance(entry, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"has no text in the field {field!r}")
    if not text.strip():
        raise ValueError("empty")
    # JSON can spell half a surrogate pair, which no UTF-8 can hold.
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\r\n", "\n")


def _reason(error: ValueError) -> str:
    """Why a file or line cannot be read as text, in words."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} at byte {error.start}"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    return str(error)
