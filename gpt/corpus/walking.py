"""What lies below a directory: its files, and what is left out of it unread, with the reason."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from gpt.corpus.documents import Skipped
from gpt.corpus.unpacking import HIDDEN, TOOL_DIRECTORIES
from gpt.errors import InputError

OUR_FILES, OURS = ("manifest.json", "checkpoints", "model.safetensors"), "a dataset, a run or a model"
LASTING = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG)


def walk(top: Path) -> Iterator[tuple[str, Path] | Skipped]:
    """Yield every file below a directory; its name begins with that, so that it is the same wherever that lies.

    Raises InputError where the directory is one that this program writes.
    """
    if _reason_to_skip(top.resolve()) == OURS:
        raise InputError(f"{top}: is {OURS}, and no text: give the text itself; `tokenizer` {top} takes its tokens")
    outside, errors = top.resolve().parent, []
    for directory, directories, files in os.walk(top, onerror=errors.append):
        yield from (unreadable(_name(Path(e.filename), outside), e) for e in errors)
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
                yield _name(here / name, outside), here / name
    yield from (unreadable(_name(Path(e.filename), outside), e) for e in errors)


def _name(path: Path, outside: Path) -> str:
    return (path.parent.resolve() / path.name).relative_to(outside).as_posix()


def _reason_to_skip(directory: Path) -> str | None:
    if directory.is_symlink():
        return "a link to a directory; give it by `input`"
    try:
        if directory.name.startswith(".") or directory.name in TOOL_DIRECTORIES or (directory / "pyvenv.cfg").exists():
            return HIDDEN
        if (directory / "tokenizer.json").exists() and any((directory / name).exists() for name in OUR_FILES):
            return OURS
    except OSError as error:
        return unreadable(str(directory), error).reason
    return None


def unreadable(name: str, error: OSError, may_pass: bool = False) -> Skipped:
    """Leave out what cannot be read, now or later. Raises InputError for what may pass, as of a disk or a network."""
    if may_pass or error.errno not in LASTING:
        raise InputError(
            f"{error.filename or name}: cannot be read just now ({error.strerror or error}), and is not left out for "
            "that; give the same command again once it can be read, or without that file"
        )
    return Skipped(name, f"cannot be read: {error.strerror}")
