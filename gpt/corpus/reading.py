"""A corpus, read once: without duplicates, counted, and kept beside the output for the passes that follow.

The texts lie in memory while they are few, and then in a temporary file that no name leads to.
"""

import hashlib
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gpt.corpus.documents import Document, Skipped
from gpt.corpus.sources import Source
from gpt.log import Progress

MEMORY_BYTES = 1 << 27  # of text that is kept in memory
LENGTHS = struct.Struct("<QQ")  # of a name and a text, in bytes


class Intake:
    """What was read of a source.

    `documents` and `characters` count all of it, repetitions included; `files` counts the source's parts, and
    `files_read` those that gave a document. `skipped` is what was left out, and `repaired` what was kept with a loss.
    """

    def __init__(self) -> None:
        self.documents = self.characters = self.files = self.files_read = 0
        self.skipped: list[Skipped] = []
        self.repaired: list[Skipped] = []

    def distinct(self, source: Source, progress: Progress) -> Iterator[tuple[Document, bytes]]:
        """Read a source: yield the first document of each content, and its text as UTF-8."""
        first_of: dict[bytes, str] = {}  # the document that first had a content, by its digest
        parts = source.parts()
        self.files = sum(not isinstance(part, Skipped) for part in parts)
        progress.doing = f"reading {self.files:,} files"
        for number, part in enumerate(parts):
            before = self.documents
            for found in (part,) if isinstance(part, Skipped) else source.read(part):
                if isinstance(found, Skipped):
                    self.skipped.append(found)
                elif (content := self._new(found, first_of)) is not None:
                    yield found, content
                progress.doing = f"read {number:,} of {len(parts):,} files, {self.characters:,} characters"
                del found  # so that it is gone before the next one is there
            self.files_read += self.documents > before

    def _new(self, document: Document, first_of: dict[bytes, str]) -> bytes | None:
        """Count a document; return its text as UTF-8, or None if it repeats another."""
        self.documents += 1
        self.characters += len(document.text)
        if document.note:
            self.repaired.append(Skipped(document.name, document.note))
        content = document.text.encode()
        digest = hashlib.sha256(content).digest()
        if digest in first_of:
            self.skipped.append(Skipped(document.name, f"the same content as {first_of[digest]}"))
            return None
        first_of[digest] = document.name
        return content


class Corpus(Intake):
    """The documents of a source, each content once; iterating gives them in order, as often as is needed."""

    def __init__(self, source: Source, directory: Path, progress: Progress) -> None:
        """Read it all. `directory` is where the texts are kept if they are many."""
        super().__init__()
        self._kept = tempfile.SpooledTemporaryFile(MEMORY_BYTES, dir=str(directory))
        self._size = 0
        for document, content in self.distinct(source, progress):
            name = document.name.encode("utf-8", "surrogatepass")
            if self._size + len(content) > MEMORY_BYTES:
                self._kept.rollover()  # before, so that a large text does not lie in memory once more
            self._size += self._kept.write(LENGTHS.pack(len(name), len(content)) + name)
            self._size += self._kept.write(content)
            del document, content  # before the next one is read

    def close(self) -> None:
        """Give up the texts."""
        self._kept.close()

    def __iter__(self) -> Iterator[Document]:
        place = 0
        while place < self._size:
            self._kept.seek(place)
            name, content = LENGTHS.unpack(self._kept.read(LENGTHS.size))
            place += LENGTHS.size + name + content
            yield Document(self._kept.read(name).decode("utf-8", "surrogatepass"), self._kept.read(content).decode())
