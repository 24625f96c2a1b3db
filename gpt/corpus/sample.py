"""A bounded sample of a corpus, read once and held in memory: the same on every machine.

Texts are cut into passages, each of which has a number from 0 to 1 by its name and place; of a corpus that is too
large those with the smallest numbers stay, so that they are from all over it.
"""

import hashlib
import heapq
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from gpt.corpus.documents import Document, Notice, Skipped, hash_fraction
from gpt.corpus.reading import say_notices
from gpt.corpus.sources import Source
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


class CorpusSample:
    """At most so many characters of a source's documents, each content once; iterating gives them in order.

    What is left of a document comes in stretches, as a `Document` each. `learnable` counts the characters without
    repetitions, `sampled` those of the sample, and `alphabet` is the set of all that were read. `counts` has
    documents and characters of all, repetitions included, files, and files_read, those that gave a document; `skipped`
    is what was left out, and `repaired` what was kept with a loss.
    """

    def __init__(self, source: Source, most: int, progress: Progress) -> None:
        """Read it all; `most` is in characters."""
        self.counts = Counter[str]()
        self.skipped: list[Skipped] = []
        self.repaired: list[Skipped] = []
        self.learnable = self.sampled = 0
        self.alphabet: set[str] = set()
        self._most, self._limit = most, 1.0  # characters; the number from which on passages are not kept
        self._kept, self._passages = list[_Passage](), 0  # a heap; how many were seen
        for document in self._distinct(source, progress):
            self.learnable += len(document.text)
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
        heapq.heappush(self._kept, _Passage(-number, -self._passages, self.counts["documents"], document.name, text))
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

    def _distinct(self, source: Source, progress: Progress) -> Iterator[Document]:
        """Read a source: yield the first document of each content."""
        first_of: dict[bytes, str] = {}  # the document that first had a content, by its digest
        notices = list[Notice]()
        parts = source.parts()
        self.counts["files"] = sum(not isinstance(part, Skipped) for part in parts)
        progress.doing = f"reading {self.counts['files']:,} files"
        for number, part in enumerate(parts):
            before = self.counts["documents"]
            for found in (part,) if isinstance(part, Skipped) else source.read(part):
                if isinstance(found, Skipped):
                    self.counts["left_out"] += 1
                    self.skipped.append(found)
                elif isinstance(found, Notice):
                    notices.append(found)
                elif self._is_new(found, first_of):
                    yield found
                progress.doing = f"read {number:,} of {len(parts):,} files, {self.counts['characters']:,} characters"
                del found  # so that it is gone before the next one is there
            self.counts["files_read"] += self.counts["documents"] > before
        say_notices(notices)

    def _is_new(self, document: Document, first_of: dict[bytes, str]) -> bool:
        """Count a document, and tell whether it repeats no other."""
        self.counts["documents"] += 1
        self.counts["characters"] += len(document.text)
        if document.note:
            self.counts["mended"] += 1
            self.repaired.append(Skipped(document.name, document.note))
        digest = hashlib.blake2b(document.text.encode(), digest_size=16).digest()
        if first := first_of.get(digest):
            self.counts["left_out"] += 1
            self.skipped.append(Skipped(document.name, f"the same content as {first}"))
            return False
        first_of[digest] = document.name
        return True
