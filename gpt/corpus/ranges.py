"""Large files of records, cut where records end, so that several can be read at a time: lines, row groups, documents
between separators. Nothing is cut that is packed, comes from a pipe, or has two or four bytes a letter; nor at
separators for which an encoding is given that has several bytes a letter, as cp932: these may look like a separator."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt.corpus import unpacking
from gpt.corpus.decoding import SAMPLE, Damage, is_utf8, mark_of, wide_encoding
from gpt.corpus.documents import AUTO, NONE, Range, ReadOptions
from gpt.corpus.executor import TimedFile
from gpt.corpus.formats import RECORDS
from gpt.corpus.readers.lines import json_lines
from gpt.corpus.separators import END_OF_TEXT, separator_text

CHUNK = 1 << 22  # bytes that are searched at once


def ranges_of(path: Path, how: ReadOptions, size: int) -> list[Range]:
    """Cut a file into ranges of about so many bytes; none if it is to be read whole."""
    if path.suffix.lower() == ".parquet":
        return _row_groups(path, size)
    with open(path, "rb") as file:
        head = file.read(SAMPLE)
        packed = (*(magic for magics in unpacking.MAGIC.values() for magic in magics), *unpacking.ZIP)
        if head.startswith(packed) or head[257:262] == unpacking.TAR or wide_encoding(head, how):
            return []
        reader = RECORDS.get(path.suffix.lower())
        if reader is json_lines:
            return list(_lines(file, size))
        separator = _separator(how, head)
        return [] if reader or not separator or separator not in head else list(_documents(file, separator, size))


def opened(path: Path, part: Range) -> io.BufferedReader:
    """Open a range of bytes as a file of its own."""
    return io.BufferedReader(_Part(path, part), SAMPLE)


class _Part(io.RawIOBase):
    """The bytes of a range."""

    def __init__(self, path: Path, part: Range) -> None:
        self._file, self._stop = TimedFile(path), part.stop
        self._file.seek(part.start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._stop - self._file.tell()
        return self._file.readinto(memoryview(buffer)[:left]) or 0

    def close(self) -> None:
        self._file.close()
        super().close()


def _lines(file: io.BufferedReader, size: int) -> Iterator[Range]:
    start = place = lines = before = 0
    file.seek(0)
    while chunk := file.read(CHUNK):
        wanted = start + size - place  # from where on a line's end is the end of a range
        end = chunk.find(b"\n", max(0, wanted)) + 1 if wanted < len(chunk) else 0
        if end:
            lines += chunk.count(b"\n", 0, end)
            yield Range(start, place + end, before, place + end - start)
            start, before = place + end, lines
            file.seek(start)
            place = start
        else:
            lines += chunk.count(b"\n")
            place += len(chunk)
    if place > start:
        yield Range(start, place, before, place - start)


def _documents(file: io.BufferedReader, separator: bytes, size: int) -> Iterator[Range]:
    total, start, last = file.seek(0, io.SEEK_END), 0, 0
    while total - start > 2 * size and (cut := _find(file, separator, start + size)) is not None:
        yield Range(start, cut, size=cut - last)
        start, last = cut + len(separator), cut  # a separator is counted with what follows it
    yield Range(start, total, size=total - last)


def _find(file: io.BufferedReader, wanted: bytes, place: int) -> int | None:
    file.seek(place)
    rest = b""
    while chunk := file.read(CHUNK):
        content = rest + chunk
        if (found := content.find(wanted)) >= 0:
            return place + found
        rest = content[len(content) - len(wanted) + 1 :]
        place += len(content) - len(rest)
    return None


def _separator(how: ReadOptions, head: bytes) -> bytes:
    """Return the bytes that stand between the documents of a text that begins like this; b'' if nothing tells them."""
    text, encoding = f"\n{END_OF_TEXT}\n" if how.separator == AUTO else separator_text(how), "utf-8"
    try:
        if how.encoding and not is_utf8(how.encoding) and not mark_of(head)[0]:
            damage = Damage()
            damage.of(head, final=False)
            encoding = encoding if damage.is_rare(0) else how.encoding
            text = text if _has_single_bytes(how.encoding) else ""
        return b"" if how.separator == NONE else text.encode(encoding)
    except UnicodeError:  # it is nowhere in there
        return b""


def _has_single_bytes(encoding: str) -> bool:
    """Tell whether each byte is a letter, whatever stands before it."""
    decoder = codecs.getincrementaldecoder(encoding)
    return all(len(decoder("replace").decode(bytes([byte]))) == 1 for byte in range(256))


def _row_groups(path: Path, size: int) -> list[Range]:
    try:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path, pre_buffer=False) as file:
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            rows, sizes = [group.num_rows for group in groups], [group.total_byte_size for group in groups]
            columns = [[group.column(each) for each in range(group.num_columns)] for group in groups]
            packed = [sum(column.total_compressed_size for column in own) for own in columns]
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        return []  # it is damaged, or there is nothing that reads it: which its reader says
    ranges, start, left = [], 0, path.stat().st_size
    for stop in range(1, len(groups) + 1):
        if sum(sizes[start:stop]) >= size or stop == len(groups):
            own = left if stop == len(groups) else min(left, sum(packed[start:stop]))
            ranges.append(Range(start, stop, sum(rows[:start]), own))
            start, left = stop, left - own
    return ranges if len(ranges) > 1 else []
