"""The files that the rows of tasks are in: JSON lines, Parquet, a ZIP archive of JSON lines, or a directory of them."""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from gpt.errors import InputError
from gpt.files import parse_json, sha256

Record = tuple[str, dict[str, Any]]  # where it stands, and its fields
INSTALL = "pip install 'gpt[data]'"
ENDS = (".jsonl", ".parquet")


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a file, or of all files of a directory in the order of their names.

    Labels of PIQA, which has them in a file of their own beside the questions, become a field of each.
    Raises InputError, which names file and line, for what cannot be read.
    """
    try:
        for file in _files(path):
            yield from _labeled(file, _records(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def hashes(path: Path) -> list[tuple[str, str]]:
    """List a task's files with their SHA-256; a directory has one, of what sha256sum prints of its files."""
    if not path.is_dir():
        labels = _labels(path)
        return [(str(file), sha256(file)) for file in (path, *([labels] if labels.exists() else []))]
    lines = (f"{sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in _files(path))
    return [(str(path), hashlib.sha256("".join(lines).encode()).hexdigest())]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix in ENDS and not file.name.startswith("."))
    if not found:
        raise InputError(f"{path}: has no file that ends in {' or '.join(ENDS)}")
    return found


def _records(file: Path) -> Iterator[Record]:
    if file.suffix == ".parquet":
        yield from _parquet(file)
    elif file.suffix == ".zip":
        yield from _zip(file)
    else:
        with file.open("rb") as stream:
            yield from json_lines(stream, str(file))


def json_lines(stream: Iterable[bytes], name: str) -> Iterator[Record]:
    """Yield the object of each line that is not empty. Raises InputError, which names the line, for another one."""
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        place = f"{name}, line {number:,}"
        try:
            fields = parse_json(line)
        except ValueError as error:
            raise InputError(f"{place}: is no JSON ({error}); each line must be one object") from None
        if not isinstance(fields, dict):
            raise InputError(f"{place}: is no JSON object")
        yield place, fields


def _zip(file: Path) -> Iterator[Record]:
    try:
        with zipfile.ZipFile(file) as archive:
            for name in sorted(archive.namelist()):
                path = PurePosixPath(name)
                if path.suffix == ".jsonl" and not path.name.startswith("."):  # macOS adds ._ files
                    with archive.open(name) as stream:
                        yield from json_lines(_whole(stream), f"{file}, {name}")
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{file}: cannot be read as a ZIP archive ({error})") from None


def _whole(stream: Any) -> BinaryIO:
    return io.BytesIO(stream.read())  # so that a damaged one is found before its rows are used


def _parquet(file: Path) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{file}: is Parquet; install what reads it: {INSTALL} ({error})") from None
    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowException as error:
        raise InputError(f"{file}: cannot be read as Parquet ({' '.join(str(error).split())})") from None
    for number, fields in enumerate(rows, 1):
        yield f"{file}, row {number:,}", fields


def _labels(file: Path) -> Path:
    """Give where the labels of questions are, if they have a file of their own: valid-labels.lst of valid.jsonl."""
    return file.with_name(f"{file.stem}-labels.lst")


def _labeled(file: Path, found: Iterator[Record]) -> Iterator[Record]:
    labels = _labels(file)
    if not labels.exists():
        yield from found
        return
    lines, rows = labels.read_bytes().decode("ascii", "replace").split(), list(found)
    if len(lines) != len(rows):
        raise InputError(f"{labels}: has {len(lines):,} labels, and {file} {len(rows):,} rows: they do not belong")
    for (place, fields), label in zip(rows, lines, strict=True):
        yield place, {"label": label} | fields
