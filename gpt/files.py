"""Files that are whole or not there, and what is read from files that anybody may have written.

What is written goes under another name, to the disk, and then gets its own: a crash leaves the old one or the new one.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpt.errors import InputError
from gpt.terminal import one_line

SYNCED = 8  # files at a time that are waited for: most disks do several in the time of one
DEEPEST = 100  # objects and lists within each other; ours have five
LARGE = 1 << 25  # bytes: to hash fewer takes no longer than to start a process
HASHING = "import hashlib, sys; print(hashlib.file_digest(open(sys.argv[1], 'rb'), 'sha256').hexdigest())"
PARTIAL, REPLACED, REMOVED = ".partial", ".replaced", ".removed"  # ends of names, which begin with a full stop


_AHEAD: dict[tuple[int, ...], "subprocess.Popen[str]"] = {}  # what hashes files that are wanted soon


# ---- writing ----


def aside(path: Path, end: str = PARTIAL) -> Path:
    """Return the name that a file or directory has before, or after, its own: .NAME.partial."""
    return path.with_name(f".{path.name}{end}")


def write_whole(path: Path, content: str) -> None:
    """Write a text file in UTF-8, in place of one that may be there. Raises OSError; then that one is as it was."""
    with write_aside(path) as partial:
        partial.write_bytes(content.encode())


@contextlib.contextmanager
def write_aside(path: Path) -> Generator[Path]:
    """Give the name to write a file under; at the end of the block it takes the place of `path`.

    Raises OSError if the disk fails. After that, or any other exception, `path` is as it was.
    """
    partial = aside(path)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def write_directory(path: Path) -> Generator[Path]:
    """Give an empty directory to write files to; at the end of the block it takes the place of `path`.

    Raises OSError if the disk fails. After that, or any other exception, `path` is as it was.
    """
    partial = aside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        with ThreadPoolExecutor(SYNCED) as pool:
            list(pool.map(sync, partial.iterdir()))
        sync(partial)
        if path.exists():
            shutil.rmtree(aside(path, REPLACED), ignore_errors=True)  # a crash before this left it
            path.rename(aside(path, REPLACED))
        partial.rename(path)
        sync(path.parent)
    finally:
        clean_up(path.parent, glob.escape(path.name))


def remove_directory(path: Path) -> None:
    """Remove a directory, renamed at once: half of it must not look like a whole one."""
    removed = path.rename(path.with_name(f"{path.name}{REMOVED}") if path.name[0] == "." else aside(path, REMOVED))
    shutil.rmtree(removed, ignore_errors=True)


def bring_back(path: Path) -> None:
    """Give a directory its name back, where a crash came between the two renames that were to replace it."""
    if not path.exists() and aside(path, REPLACED).exists():
        aside(path, REPLACED).rename(path)


def clean_up(parent: Path, names: str) -> None:
    """Remove what a crash left of directories of such names; one whose replacement never came gets its name back."""
    for leftover in parent.glob(f".{names}.*"):
        name = leftover.stem.removeprefix(".")
        if leftover.suffix == REPLACED and not (parent / name).exists():
            leftover.rename(parent / name)
        elif leftover.suffix in (PARTIAL, REPLACED, REMOVED):
            shutil.rmtree(leftover, ignore_errors=True)


def is_full(error: OSError) -> bool:
    """Tell whether a disk has no room, or this user none on it; NumPy says so in its own words."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and "requested and" in str(error))


def sync(path: Path) -> None:
    """Wait until a file or directory is on the disk (Windows cannot sync a directory, and needs no such step)."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- reading ----


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits. Raises OSError where it cannot be read."""
    if _AHEAD and (found := _found_ahead(path)):
        return found
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_ahead(path: Path) -> None:
    """Begin to hash a large file for the next `sha256` of it, which hashes anew if the file is another by then.

    That is done by a process, which ends by itself: a thread would wait for each piece until imports let it go on.
    """
    with contextlib.suppress(OSError):
        version, program = _version(path), [sys.executable, "-I", "-S", "-c", HASHING, str(path.absolute())]
        if version[2] >= LARGE:
            _AHEAD[version] = subprocess.Popen(
                program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )


def _found_ahead(path: Path) -> str | None:
    """Return what `hash_ahead` has found; None where it was not asked for this file as it is now, or failed."""
    process = _AHEAD.pop(_version(path), None)
    found = process.communicate()[0].strip() if process else ""
    return found if process and process.returncode == 0 else None


def _version(path: Path) -> tuple[int, ...]:
    """Tell a file, as it is now, from others and from what it was before it was changed or replaced."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def parse_json(text: str | bytes, unique: bool = False) -> Any:
    """Return the value of a JSON text; bytes must be UTF-8, and may begin with a byte-order mark, as a text may.

    Raises ValueError, which says why, for all that cannot be read: what is nested too deeply included, and with
    `unique` an object that has a key twice.
    """
    if isinstance(text, bytes):
        text = text.decode()
    return _parse(text, object_pairs_hook=_without_twins if unique else None)


def read_json(
    path: Path, kind: str = "JSON", remedy: str = "", format: tuple[str, int] | None = None
) -> dict[str, Any]:
    """Return the JSON object that a file holds; its entries 'format' and 'version' must be those of `format`.

    Raises InputError, which names the file, what `kind` of file was wanted, why this is none, and the remedy, for a
    file that cannot be read, for what is no JSON object, is nested deeper than 100 levels, or has a key twice; and for
    another format or version.
    """
    advice = f"; {remedy}" if remedy else ""
    try:
        content = _parse(path.read_bytes().decode(), object_pairs_hook=_without_twins)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        require_shallow(content)
        if format is not None and (content.get("format") != format[0] or "version" not in content):
            raise ValueError(f"it is no {format[0]} file")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as {kind} ({error}){advice}") from None
    if format is not None and content["version"] != format[1]:
        raise InputError(f"{path}: is of version {content['version']!r}, and this program reads {format[1]}{advice}")
    return content


def _parse(text: str, **options: Any) -> Any:
    try:
        return json.loads(text.removeprefix("\ufeff"), **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an object has the same key twice")
    return content


def require_shallow(value: Any) -> None:
    """Raise ValueError for what could be read and could then not be written or shown."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        containers = (entry.values() if isinstance(entry, dict) else entry for entry in level)
        level = [inner for entry in containers for inner in entry if isinstance(inner, dict | list)]


def inside(directory: Path, name: object) -> Path:
    """Return the path of a file in a directory, where its name stands in a file that anybody may have written.

    Raises InputError unless it is a plain name, the same on every system, and what it names, if there is such a file,
    is a regular one in that directory; the hub's cache has its files beside, in the model's own directory.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:") or not _is_text(name):
        raise InputError(f"{directory}: one of its files names {name!r}, which is no plain name of a file in it")
    path = directory / name
    home = directory.resolve()
    if home.parent.name == "snapshots":
        home = home.parent.parent
    try:
        outside = not path.resolve().is_relative_to(home)
        irregular = path.exists() and not path.is_file()
        with contextlib.suppress(FileNotFoundError):
            path.stat()  # of a link to itself `resolve` says nothing from Python 3.13 on
    except (OSError, RuntimeError) as error:  # a name that is too long, or a link to itself
        raise InputError(f"{path}: cannot be opened ({error})") from None
    if outside:
        raise InputError(f"{path}: is a link that leads out of its directory; put the file itself there")
    if irregular:
        raise InputError(f"{path}: is not a regular file")
    return path


def told_apart(named: Sequence[tuple[str, Path]]) -> list[str]:
    """Give files of one name more of their directories, as many as tell them apart: x/notes.txt and y/notes.txt.

    `named` are names, which are ends of the paths, with the paths; all other names stay. One file twice has one name.
    """
    names = [name for name, _ in named]
    paths = [Path(os.path.abspath(path)).parts for _, path in named]  # noqa: PTH100  # links stay what they are
    longer = len(set(names)) < len(names)
    while longer:
        owners = defaultdict[str, set[tuple[str, ...]]](set)
        for name, parts in zip(names, paths, strict=True):
            owners[name].add(parts)
        longer = False
        for number, (name, parts) in enumerate(zip(names, paths, strict=True)):
            depth = name.count("/") + 1
            if len(owners[name]) > 1 and depth < len(parts):
                names[number], longer = "/".join(parts[-depth - 1 :]).replace("//", "/"), True
    return names


def _is_text(name: str) -> bool:
    """Tell whether a name has no control characters, and nothing that no UTF-8 can hold."""
    return one_line(name) == name and not any(0xD800 <= ord(character) < 0xE000 for character in name)
