"""What is read from files that anybody may have written: JSON, and the names of other files."""

import contextlib
import json
from pathlib import Path
from typing import Any

from gpt.errors import InputError
from gpt.terminal import one_line

DEEPEST = 100  # objects and lists within each other; ours have five


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; bytes must be UTF-8, and may begin with a byte-order mark, as a text may.

    Raises ValueError, which says why, for all that cannot be read: what is nested too deeply included.
    """
    if isinstance(text, bytes):
        text = text.decode()
    return _parse(text)


def read_json(path: Path, kind: str = "JSON", remedy: str = "") -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises InputError, which names the file, what `kind` of file was wanted, why this is none, and the remedy, for a
    file that cannot be read, for what is no JSON object, is nested deeper than 100 levels, or has a key twice.
    """
    try:
        content = _parse(path.read_bytes().decode(), object_pairs_hook=_without_twins)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        require_shallow(content)
    except (OSError, ValueError) as error:
        told = f"; {remedy}" if remedy else ""
        raise InputError(f"{path}: cannot be read as {kind} ({error}){told}") from None
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
    """Raises ValueError for what could be read and could then not be written or shown."""
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


def _is_text(name: str) -> bool:
    """Whether a name has no control characters, and nothing that no UTF-8 can hold."""
    return one_line(name) == name and not any(0xD800 <= ord(character) < 0xE000 for character in name)
