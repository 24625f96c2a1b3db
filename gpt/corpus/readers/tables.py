"""CSV and TSV: a header that names the columns, and a document in each row."""

import csv
import io
from collections.abc import Iterator

from gpt.corpus.decoding import replaced
from gpt.corpus.documents import Document, Reading, Refused, Skipped
from gpt.corpus.readers.lines import Lines
from gpt.corpus.readers.records import Record, documents_of

LONGEST_CELL = 2**31 - 1  # characters
DELIMITERS = ",;\t|"


def table(stream: io.BufferedReader, name: str, how: Reading) -> Iterator[Document | Skipped]:
    """Yield the documents of a table; its delimiter is what stands most often in its header."""
    return documents_of(_rows(stream, name, how), name, "CSV", how)


def delimiter_of(header: str) -> str:
    """Return what is between the columns that a header names."""
    return max(DELIMITERS, key=header.count)


def _rows(stream: io.BufferedReader, name: str, how: Reading) -> Iterator[Record]:
    csv.field_size_limit(LONGEST_CELL)
    lines = Lines(stream, name, how)
    bad, fault = 0, ""

    def texts() -> Iterator[str]:
        nonlocal bad, fault
        for line in lines:
            bad, fault = bad + line.bad, fault or line.fault
            yield line.text

    texts_ = texts()
    header = next(texts_, "")
    rows = csv.reader(_joined(header, texts_), delimiter=delimiter_of(header), strict=True)
    number, columns = 0, []
    while True:
        bad, fault = 0, ""
        try:
            row = next(rows, None)
        except csv.Error as error:  # of this row alone; the next line begins another one
            number += 1
            why = "its lines end with \\r alone; convert them, as with mac2unix" if "new-line" in str(error) else error
            rest = " and what follows: a quote is not closed" if "unexpected end" in str(error) else ""
            yield Record(f"{name}, row {number}{rest.partition(':')[0]}", None, f"not CSV{rest[17:] or f': {why}'}")
            continue
        if row is None:
            return
        if not columns:
            columns = row
            if how.field is not None and columns.count(how.field) > 1:
                raise Refused("CSV", f"has {columns.count(how.field)} columns called {how.field!r}; rename the others")
            continue
        if row:
            number += 1
            if not fault and len(row) != len(columns):
                fault = f"has {len(row)} columns, and the header has {len(columns)}"
            value = None if fault else dict(zip(columns, row, strict=True))
            yield Record(f"{name}, row {number}", value, fault, replaced(bad))
            del row, value


def _joined(first: str, others: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from others
