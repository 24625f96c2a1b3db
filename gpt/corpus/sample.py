"""A bounded sample of a corpus, read once and held in memory: the same on every machine.

Texts are cut into passages, each of which has a number from 0 to 1 by its name and place; of a corpus that is too
large those with the smallest numbers stay, so that they are from all over it.
"""

import hashlib
import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from gpt.corpus.sources import Document, Skipped, Source
from gpt.corpus.split import hash_fraction
from gpt.corpus.vocabulary import SAMPLE_CHARACTERS
from gpt.log import Progress


@dataclass(frozen=True, order=True)
class _Passage:
    """A stretch of a document; the smallest is the first to go."""

    priority: float
    """Minus its number from 0 to 1."""
    order: int
    """Minus its place among all passages of the corpus."""
    document: int
    name: str
    text: str


class Sample:
    """At most so many characters of a source's documents, each content once; iterating gives them in order.

    What is left of a document comes in stretches, as a `Document` each. `documents` and `characters` count all that
    were read, repetitions included, and `distinct` the characters without them; `files` counts the source's parts, and
    `files_read` those that gave a document. `skipped` is what was left out, `sampled` counts the characters of the
    sample, and `alphabet` is the set of characters that were read.
    """

    def __init__(self, source: Source, most: int, progress: Progress) -> None:
        """Read it all; `most` is in characters."""
        self.documents = self.characters = self.distinct = self.files_read = self.sampled = 0
        self.skipped: list[Skipped] = []
        self.alphabet: set[str] = set()
        self._most, self._limit = most, 1.0  # characters; the number from which on passages are not kept
        self._kept, self._passages = list[_Passage](), 0  # a heap; how many were seen
        first_of: dict[bytes, str] = {}  # the document that first had a content, by its digest
        parts = source.parts()
        self.files = sum(not isinstance(part, Skipped) for part in parts)
        progress.doing = f"reading {self.files:,} files"
        for number, part in enumerate(parts):
            before = self.documents
            for found in (part,) if isinstance(part, Skipped) else source.read(part):
                if isinstance(found, Skipped):
                    self.skipped.append(found)
                else:
                    self._take(found, first_of)
                progress.doing = f"read {number:,} of {len(parts):,} files, {self.characters:,} characters"
            self.files_read += self.documents > before

    def _take(self, document: Document, first_of: dict[bytes, str]) -> None:
        self.documents += 1
        self.characters += len(document.text)
        digest = hashlib.sha256(document.text.encode()).digest()
        if digest in first_of:
            self.skipped.append(Skipped(document.name, f"the same content as {first_of[digest]}"))
            return
        first_of[digest] = document.name
        self.distinct += len(document.text)
        self.alphabet.update(document.text)
        for start in range(0, len(document.text), SAMPLE_CHARACTERS):
            self._keep(document, start)

    def _keep(self, document: Document, start: int) -> None:
        """Take a passage into the sample if it is one of the first by number, and let go of what has no room then."""
        self._passages += 1
        number = hash_fraction(f"{document.name} {start}")
        if number >= self._limit:
            return
        text = document.text[start : start + SAMPLE_CHARACTERS]
        heapq.heappush(self._kept, _Passage(-number, -self._passages, self.documents, document.name, text))
        self.sampled += len(text)
        while self.sampled > self._most:
            last = heapq.heappop(self._kept)
            self._limit = -last.priority
            self.sampled -= len(last.text)

    def __iter__(self) -> Iterator[Document]:
        """Yield stretches of neighboring passages, which are whole documents where all are kept."""
        passages = sorted(self._kept, key=lambda passage: -passage.order)
        numbered = enumerate(passages)  # of neighbors the difference is the same
        for _, group in itertools.groupby(numbered, lambda pair: (pair[1].document, pair[1].order + pair[0])):
            stretch = [passage for _, passage in group]
            yield Document(stretch[0].name, "".join(passage.text for passage in stretch))
