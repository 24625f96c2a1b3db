"""Parquet, by pyarrow: one column, some rows at a time, so that the memory does not grow with the file."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from gpt.corpus.decoding import Damage, bad_bytes, replaced
from gpt.corpus.documents import Document, ReadOptions, Refused, Skipped
from gpt.corpus.readers.lines import MOST_MEMORY
from gpt.corpus.readers.records import ELSEWHERE, Record, documents_of, has_field, known
from gpt.corpus.unpacking import seekable
from gpt.errors import InputError

BATCH_BYTES = 1 << 24  # of text, about, that are read at once
MAX_ROWS = 1024
BUFFER = 1 << 20  # bytes of a column that are read at once, which would else be all of it
LONGEST = 100 << 20  # bytes of a row, on the average of its group, which may take eight times as much with its copies
INSTALL = "pip install 'gpt[data]'"


def require_parquet() -> None:
    """Raise InputError where nothing is installed that reads Parquet."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InputError(f"this corpus is in Parquet; install what reads it: {INSTALL} ({error})") from None


def parquet(stream: io.BufferedReader, name: str, how: ReadOptions) -> Iterator[Document | Skipped]:
    """Yield the documents of a Parquet file.

    Raises ImportError without pyarrow, ValueError for a damaged file, and Refused where the column holds no text.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with (
            contextlib.closing(seekable(stream)) as file,
            ParquetFile(file, pre_buffer=False, buffer_size=BUFFER) as content,
        ):
            fields = _columns(content.schema_arrow)
            if how.field is None:
                raise Refused("Parquet", f"`field` must name the field that holds the text; {known(fields, 'row')}")
            if not has_field(fields, how.field):
                raise Refused("Parquet", f"no row has a field {how.field!r}; {known(fields, 'row')}")
            if (count := fields.count(how.field)) > 1:
                raise Refused("Parquet", f"has {count} columns called {how.field!r}; rename the others")
            type_ = _path(content.schema_arrow, how.field)[2]
            if not _is_text(type_):
                raise Refused("Parquet", f"the field {how.field!r} is no text but {type_}; {known(fields, 'row')}")
            yield from documents_of(_rows(content, name, how), name, "Parquet", how)
    except Refused:
        raise
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"Parquet: damaged ({' '.join(str(error).split())})") from None


def _columns(fields: Any, above: str = "") -> list[str]:
    """List the columns of a schema, those of a struct by their paths."""
    from pyarrow import types

    names = []
    for field in fields:
        inner = _columns(field.type, f"{above}{field.name}.") if types.is_struct(field.type) else []
        names += inner or [f"{above}{field.name}"]
    return names


def _rows(content: Any, name: str, how: ReadOptions) -> Iterator[Record]:
    """Yield the rows, each as an object of the one field."""
    import pyarrow

    field, number, metadata = how.field, how.range.before if how.range else 0, content.metadata
    top, path, _ = _path(content.schema_arrow, field)
    column = ".".join([top, *path])
    for group in range(*(how.range.start, how.range.stop) if how.range else (metadata.num_row_groups,)):
        rows, size = metadata.row_group(group).num_rows, _size(metadata.row_group(group), column)
        if size > LONGEST * max(1, rows):  # one of no rows has bytes, too
            fault = f"{size / 1e6:,.0f} MB, which may take more than {MOST_MEMORY / 1e9:.1f} GB to read; {ELSEWHERE}"
            yield Record(f"{name}, rows {number + 1} to {number + rows}", None, fault)
            number += rows
            continue
        for batch in content.iter_batches(_batch_rows(metadata), row_groups=[group], columns=[column]):
            array = _leaf(batch.column(batch.schema.get_field_index(top)), path)
            if pyarrow.types.is_dictionary(array.type):
                array = array.dictionary_decode()
            array = array.cast(pyarrow.large_binary())  # some writers declare text that is no UTF-8
            for row in range(len(array)):
                number += 1
                yield _row(f"{name}, row {number}", array[row].as_py(), how)


def _size(group: Any, column: str) -> int:
    """Return the bytes that a column has in a group of rows, once they are unpacked."""
    columns = (group.column(number) for number in range(group.num_columns))
    return sum(each.total_uncompressed_size for each in columns if each.path_in_schema == column)


def _row(name: str, content: bytes | None, how: ReadOptions) -> Record:
    try:
        return Record(name, {how.field: content if content is None else content.decode()})
    except UnicodeDecodeError as error:
        damage = Damage()
        text, _ = damage.of(content or b"")
        fault = "" if how.bad_bytes == "replace" else bad_bytes(how, name, damage.bad, error.start)
        return Record(name, {how.field: text}, fault, replaced(damage.bad))


def _path(schema: Any, field: str | None) -> tuple[str, list[str], Any]:
    """Divide a path into its column and the fields of structs, and return its type; names may themselves hold dots."""
    from pyarrow import types

    assert field is not None
    rest, path, fields, type_ = field, [], list(schema), None
    while rest:
        found = max((f for f in fields if rest == f.name or rest.startswith(f"{f.name}.")), key=lambda f: len(f.name))
        path.append(found.name)
        rest = rest[len(found.name) + 1 :]
        type_ = found.type
        fields = list(type_) if types.is_struct(type_) else []
    return path[0], path[1:], type_


def _leaf(array: Any, path: list[str]) -> Any:
    for name in path:
        array = array.flatten()[array.type.get_field_index(name)]  # null where the struct is
    return array


def _is_text(type_: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(type_):
        type_ = type_.value_type
    views = (getattr(types, "is_string_view", None), getattr(types, "is_binary_view", None))
    known_ = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, *filter(None, views))
    return any(is_one(type_) for is_one in known_)


def _batch_rows(metadata: Any) -> int:
    """Return how many rows are about as many bytes as are read at once, by the largest row group."""
    largest = 1
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        largest = max(largest, group.total_byte_size // max(1, group.num_rows))
    return max(1, min(MAX_ROWS, BATCH_BYTES // largest))
