"""The beginnings of files, where reading them whole would take too long; and how much of a file that was.

Texts end by themselves, after a whole block. Of records, and of archives, no more are taken once the file's bytes are
used up; those of Parquet, which is not read from its beginning on, are told by the number of rows.
"""

import contextlib
import io
from collections.abc import Generator
from dataclasses import replace
from pathlib import PurePosixPath

from gpt.corpus import unpacking
from gpt.corpus.decoding import SAMPLE, Damage, mark_of
from gpt.corpus.documents import CUT, Document, Notice, Skipped
from gpt.corpus.encodings import declared_by_html, for_file
from gpt.corpus.formats import HTML, RECORDS
from gpt.corpus.sources import TextFile, TextFiles

LEAST = SAMPLE  # bytes of a file, since so many are decoded at once
MOST_TEXT = 1 << 24  # bytes that may become of one file
PACKED = (*(magic for magics in unpacking.MAGIC.values() for magic in magics), *unpacking.ZIP)
UNPACKED = 4  # times its bytes: what comes of packed text, about
PARQUET = ".parquet"
UNKNOWN = "unknown"


class Beginnings(TextFiles):
    """The files of another source, of which the beginning is read; then it is known how much of the file that was."""

    def __init__(self, source: TextFiles) -> None:
        vars(self).update(vars(source))
        self.encoding = ""
        """Of the last file; '' where it is packed, or Parquet."""
        self.read_bytes, self.is_cut = 0, False
        """How many bytes of it were read, and whether there are more."""
        self._stream = io.BufferedReader(io.BytesIO())

    def beginning(self, part: TextFile, share: float) -> Generator[Document | Skipped | Notice]:
        """Yield what is found in about that share of a file's bytes, and in the first million at least."""
        size, suffixes = self.identity(part).bytes, suffixes_of(part.file)
        most = max(LEAST, int(share * size)) if share < 1 and size else MOST_TEXT
        is_text = suffixes[0] not in (*RECORDS, ".zip", ".tar")
        is_rows = PARQUET in suffixes
        unpacked = UNPACKED * most if suffixes[1] else most
        self.how = replace(self.how, most=unpacked if is_text else None)
        self.encoding, self.is_cut, self.read_bytes = "", False, size
        place, count, text = 0, 0, 0
        with contextlib.closing(self.read(part)) as items:
            for found in items:
                if isinstance(found, Notice):
                    self.is_cut |= found.kind == CUT
                else:
                    used = text if is_rows else self._place()
                    if text > MOST_TEXT + LEAST or (used > most and count and not is_text):
                        self.is_cut = True
                        break
                    place, count = used, count + 1
                    text += len(found.text.encode()) if isinstance(found, Document) else 0
                yield found
        if self.is_cut:
            self.read_bytes = min(size, int(size * count / _rows(part)) if is_rows else place)

    def stream(self, part: TextFile) -> io.BufferedReader:
        self._stream = super().stream(part)
        head, suffix = self._stream.peek(SAMPLE), suffixes_of(part.file)[0]
        if not head.startswith(PACKED) and head[257:262] != unpacking.TAR and suffix != PARQUET:
            self.encoding = self._encoding_of(head, suffix, for_file(self.how, part.name).encoding)
        return self._stream

    def _encoding_of(self, head: bytes, suffix: str, given: str | None) -> str:
        damage = Damage()
        damage.of(head, final=len(head) < SAMPLE)
        declared = declared_by_html(head) if suffix in HTML else None
        found = mark_of(head)[1] or ("utf-8" if damage.is_rare() else declared or given or UNKNOWN)
        return found.upper() if found != UNKNOWN else found

    def _place(self) -> int:
        with contextlib.suppress(OSError, ValueError):  # of a pipe, and of what is closed
            return self._stream.tell()
        return 0


def suffixes_of(name: str) -> tuple[str, str]:
    """Return the suffix that says what a file holds, and after it that of its packing: ('.jsonl', '.gz')."""
    path = PurePosixPath(name.lower())
    if path.suffix not in unpacking.SUFFIXES:
        return path.suffix, ""
    return unpacking.SUFFIXES[path.suffix] or PurePosixPath(path.stem).suffix, path.suffix


def _rows(part: TextFile) -> int:
    """Count the rows of a Parquet file."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(part.path) as file:
        return max(1, file.metadata.num_rows)
