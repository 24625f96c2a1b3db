"""CSV and TSV: a header that names the columns, and a document in each row."""

import csv
import io
from collections.abc import Iterator

from gpt.corpus.decoding import replaced
from gpt.corpus.documents import LARGEST, Document, ReadOptions, Refused, Skipped
from gpt.corpus.readers.lines import Lines
from gpt.corpus.readers.records import ELSEWHERE, Record, documents_of

LONGEST_ROW = 2 * LARGEST  # characters, for each of which csv takes up to eight bytes
DELIMITERS = ",;\t|"


def table(stream: io.BufferedReader, name: str, how: ReadOptions) -> Iterator[Document | Skipped]:
    """Yield the documents of a table; its delimiter is what stands most often in its header."""
    return documents_of(_rows(stream, name, how), name, "CSV", how)


def delimiter_of(header: str) -> str:
    """Return what is between the columns that a header names."""
    return max(DELIMITERS, key=header.count)


class _Texts:
    """The lines of a table, and of those of a row how many bytes are bad, how long they are, and what is wrong."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.begin_row()

    def begin_row(self) -> None:
        self.bad, self._size, self.fault = 0, 0, ""

    def __iter__(self) -> Iterator[str]:
        """Yield the lines; of a row that is too long, nothing but whether a quote is open."""
        for line in self._lines:
            self.bad, self._size = self.bad + line.bad, self._size + len(line.text)
            self.fault = self.fault or line.fault
            text = [line.text]
            if self._size > LONGEST_ROW:
                self.fault = self.fault or f"a row of more than {LONGEST_ROW:,} characters; {ELSEWHERE}"
                text = ['"\n' if line.text.count('"') % 2 else "\n"]
            del line  # so that a large one is gone before the next one is there
            yield text.pop()


def _rows(stream: io.BufferedReader, name: str, how: ReadOptions) -> Iterator[Record]:
    csv.field_size_limit(2 * LONGEST_ROW)  # which no row has
    texts = _Texts(Lines(stream, name, how))
    lines = iter(texts)
    header = next(lines, "")
    if texts.fault and not header.strip('"\n'):
        raise ValueError(f"its first line, which names the columns, is {texts.fault}")
    rows = csv.reader(_joined(header, lines), delimiter=delimiter_of(header), strict=True)
    number, columns = 0, []
    while True:
        texts.begin_row()
        try:
            row = next(rows, None)
        except csv.Error as error:  # of this row alone; the next line begins another one
            number += 1
            why = "its lines end with \\r alone; convert them, as with mac2unix" if "new-line" in str(error) else error
            if "unexpected end" in str(error):
                yield Record(f"{name}, row {number} and what follows", None, "not CSV: a quote is not closed")
            else:
                yield Record(f"{name}, row {number}", None, f"not CSV: {why}")
            continue
        if row is None:
            return
        if not columns:
            columns = row
            if how.field is not None and columns.count(how.field) > 1:
                raise Refused("CSV", f"has {columns.count(how.field)} columns called {how.field!r}; rename the others")
        elif row or texts.fault:
            number += 1
            fault = texts.fault
            if not fault and len(row) != len(columns):
                fault = f"has {len(row)} columns, and the header has {len(columns)}"
            value = None if fault else dict(zip(columns, row, strict=True))
            yield Record(f"{name}, row {number}", value, fault, replaced(texts.bad))
            del row, value


def _joined(first: str, others: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from others
