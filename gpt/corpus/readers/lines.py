"""Lines of a file of records, one after another, since such files can be larger than the memory; and JSON Lines.

Nothing here keeps a line while the next stage works with it: a large one is in memory twice and not oftener. Of JSON
that memory does not hold, the long texts are read in parts (long_texts.py).
"""

import io
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from gpt.corpus.decoding import BAD_SHARE, BINARY, SAMPLE, Damage, bad_bytes, is_utf8, not_utf8, replaced, wide_encoding
from gpt.corpus.documents import Document, ReadOptions, Skipped
from gpt.corpus.encodings import wide_guess
from gpt.corpus.instructions import examples_of
from gpt.corpus.readers.long_texts import LongText, shortened
from gpt.corpus.readers.records import ELSEWHERE, Record, documents_of, json_fault
from gpt.files import parse_json

BAD_SHARE_OF_LINES = 1e-3  # of a line's bytes: more are not rare
SMALL, LONGEST = 1 << 26, 250 << 20  # bytes of a line: what is read without asking, and at most
MOST_MEMORY = 500 << 20  # bytes that a line may take: as text, and as what it says
MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line's text, with U+FFFD for its bad bytes, and how many there are; `fault` says why it is not to be used.

    In place of `long` texts of JSON, which memory does not hold, there are marks in it (long_texts.py). In place of a
    line that cannot be read there is nothing, or a quote, if it has an odd number of them: so a table knows its rows.
    """

    number: int
    text: str
    bad: int = 0
    fault: str = ""
    long: Mapping[str, LongText] = MappingProxyType({})


class Lines:
    """Iterates over lines with their ends: UTF-8, or what a byte-order mark says, or what `encoding` does for others.

    Raises ValueError for a file of two or four bytes a letter that is damaged, or has no mark, and InputError where bad
    bytes are an error.
    """

    def __init__(self, stream: io.BufferedReader, name: str, how: ReadOptions, is_json: bool = False) -> None:
        """Look at the beginning. Of `is_json`, what memory does not hold of a line is its long texts only."""
        self._is_json, self._name, self._how = is_json, name, how
        self._number = how.range.before if how.range else 0
        head = stream.peek(SAMPLE)
        wide = wide_encoding(head, how)
        if b"\0" in head and not wide and (guess := wide_guess(head)):
            raise ValueError(f"{BINARY}; {guess}")
        self._wide = wide
        self._stream = io.TextIOWrapper(stream, wide, newline="\n") if wide else stream
        given = how.encoding is not None and not is_utf8(how.encoding)
        self._encoding = how.encoding if given else None
        sample = Damage()
        sample.of(head, final=len(head) < SAMPLE)
        self._is_other = not sample.is_rare(0 if given else BAD_SHARE) and not is_utf8(how.encoding)

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> Line:
        try:
            line = self._stream.readline(LONGEST)
        except UnicodeDecodeError as error:
            where = f"after line {self._number}" if self._number else "in its first line"
            raise ValueError(f"not {self._wide.upper()}, as it begins: {error.reason} {where}") from None
        if not line:
            raise StopIteration
        self._number += 1
        if len(line) > SMALL and not ((len(line) < LONGEST or _is_whole(line)) and _needed(line) <= MOST_MEMORY):
            held = [line]
            del line
            return self._long(held)
        return Line(self._number, line.removeprefix("\ufeff")) if isinstance(line, str) else self._decoded(line)

    def _decoded(self, line: bytes) -> Line:
        try:
            return Line(self._number, (line.removeprefix(MARK) if self._number == 1 else line).decode())
        except UnicodeDecodeError as error:
            return self._faulty(line, error)

    def _long(self, line: list[Any]) -> Line:
        """Read a line that memory does not hold, whose beginning is given: of JSON all but its long texts."""
        size = quotes = 0

        def chunks() -> Iterator[Any]:
            nonlocal size, quotes
            while line:
                size, quotes, is_whole = size + len(line[0]), quotes + _quotes(line[0]), _is_whole(line[0])
                yield line.pop()
                line.extend([] if is_whole else filter(None, [self._stream.readline(SMALL)]))

        all_, is_known = chunks(), self._is_json and not (self._wide or self._is_other)
        rest, long = shortened(all_) if is_known else (b"", {})
        for _ in all_:  # what is not to be read is passed over
            pass
        if long:
            return self._decoded(rest)._replace(long=long)
        fault = f"a line of {size / 1e6:,.0f} MB, which takes more than {MOST_MEMORY / 1e9:.1f} GB of memory to read"
        return Line(self._number, '"' * (quotes % 2), fault=f"{fault}; {ELSEWHERE}")

    def _faulty(self, line: bytes, error: UnicodeDecodeError) -> Line:
        """Decode a line that is not UTF-8, in a file that is or, by its beginning, is not."""
        if self._encoding and self._is_other:
            try:
                return Line(self._number, line.decode(self._encoding))
            except UnicodeDecodeError as fault:
                reason = f"not {self._encoding.upper()}: {fault.reason} at byte {fault.start}"
                return Line(self._number, '"' * (_quotes(line) % 2), fault=reason)
        damage = Damage()
        text, _ = damage.of(line)
        if self._is_other or not damage.is_rare(max(BAD_SHARE_OF_LINES, 1 / len(line))):
            return Line(self._number, text, damage.bad, not_utf8(line, error, error.start))
        name, how = f"{self._name}, line {self._number}", self._how
        fault = "" if how.bad_bytes == "replace" else bad_bytes(how, name, damage.bad, error.start)
        return Line(self._number, text, damage.bad, fault)


def _is_whole(line: str | bytes) -> bool:
    return line.endswith("\n") if isinstance(line, str) else line.endswith(b"\n")


def _quotes(line: str | bytes) -> int:
    return line.count('"') if isinstance(line, str) else line.count(b'"')


def _needed(line: str | bytes) -> int:
    """Count the bytes of memory that a line takes, as text and as what it says at a time, at most."""
    if isinstance(line, str):
        return 8 * len(line)
    width = 1 if line.isascii() else 4 if any(bytes([lead]) in line for lead in range(0xF0, 0xF5)) else 2
    escaped = 1 if b"\\u" not in line else 4 if (b"\\ud" in line or b"\\uD" in line) else 2
    return (width + max(width, escaped)) * len(line)


def json_lines(stream: io.BufferedReader, name: str, how: ReadOptions) -> Iterator[Document | Skipped]:
    """Yield the documents of JSON Lines, each an object in a line; blank lines are passed over.

    Of examples, those of instructions.py.
    """

    def record(line: Line) -> Record | None:
        if line.fault:
            return Record(f"{name}, line {line.number}", None, line.fault)
        if not line.text or line.text.isspace():
            return None
        try:
            value = parse_json(line.text, unique=how.examples)
            return Record(f"{name}, line {line.number}", value, note=replaced(line.bad), long=line.long)
        except ValueError as error:
            return Record(f"{name}, line {line.number}", None, json_fault(error, line.text))

    records = filter(None, map(record, Lines(stream, name, how, is_json=not how.examples)))
    return examples_of(records, name, how) if how.examples else documents_of(records, name, "JSON Lines", how)
