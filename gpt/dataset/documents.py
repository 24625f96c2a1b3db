"""The documents of a split, told apart by the end-of-text ids between them: which is where, what it says, where a text
stands. A split is gone through from its beginning, some millions of ids at a time, as far as need be.

Documents count from 0. An end-of-text belongs to the document that it ends; one that begins the whole split, as in
shards where it begins each document, ends none.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpt.dataset.shards import CHUNK_TOKENS, Split
from gpt.errors import InputError
from gpt.text.tokenizer import Tokenizer

BOUNDARY = b"\xff"  # stands for end-of-text in what is searched; no UTF-8 has this byte
AROUND = 60  # bytes that are shown on each side of what was found


@dataclass(frozen=True)
class TextPlace:
    """Where a text stands."""

    document: int
    line: int
    """Of the document, from 1."""
    byte: int
    """Of the document, in UTF-8, from 0."""
    token: int
    """In which it begins, of the split, from 0."""
    excerpt: str
    """Its line, or what of that is near."""


class Documents:
    """Finds documents of a split."""

    def __init__(self, split: Split, tokenizer: Tokenizer) -> None:
        self.split, self.tokenizer = split, tokenizer
        self._of_none = int(self._is_end(0))  # ends of text that end no document

    def _is_end(self, place: int) -> bool:
        tokens = self.split.tokens
        return tokens > 0 and int(self.split.read(place % tokens, 1)[0]) == self.tokenizer.end_of_text

    def count(self) -> int:
        """Count the documents."""
        ends = sum(len(places) for places in self._ends())
        return ends + (not self._is_end(-1)) - self._of_none if self.split.tokens else 0

    def span(self, number: int) -> range:
        """Find where a document's ids are, without end-of-text. Raises InputError if there is none of that number."""
        wanted, seen = number + self._of_none, 0  # ends of text before it
        start = None if wanted else 0
        for places in self._ends() if number >= 0 else ():
            if start is None and wanted <= seen + len(places):
                start = int(places[wanted - seen - 1]) + 1
            if start is not None and wanted < seen + len(places):
                return range(start, int(places[wanted - seen]))
            seen += len(places)
        if number < 0 or start is None or start >= self.split.tokens:
            there = self.count()
            numbers = f", of the numbers 0 to {there - 1:,}" if there else ""
            raise InputError(f"`document` {number}: the {self.split.name} split has {there:,} documents{numbers}")
        return range(start, self.split.tokens)

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """Tell in which documents ids stand that are at these places of the split: numbers of documents, (N,) each."""
        ordered = np.sort(places)
        counts = np.zeros(len(places), dtype=np.int64)
        for chunk in self._ends(int(ordered[-1]) + 1 if len(places) else 0):
            counts += np.searchsorted(chunk, ordered, side="left")
        found = dict(zip(ordered.tolist(), np.maximum(counts - self._of_none, 0).tolist(), strict=True))
        return np.array([found[place] for place in places.tolist()], dtype=np.int64)

    def line(self, place: int) -> int:
        """Tell in which line of its document, from 1, the id begins that is at this place of the split."""
        lines, stop, is_begun = 1, place, False
        while stop > 0 and not is_begun:
            start = max(0, stop - CHUNK_TOKENS)
            ids = self.split.read(start, stop - start)
            ends = np.flatnonzero(ids == self.tokenizer.end_of_text)
            is_begun, stop = len(ends) > 0, start
            own = ids[ends[-1] + 1 :] if is_begun else ids
            lines += b"".join(map(self.tokenizer.token_bytes, own.tolist())).count(b"\n")
        return lines

    def text(self, span: range) -> Iterator[str]:
        """Decode ids of the split, piece by piece. Bytes that are not UTF-8 become U+FFFD."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for start in range(span.start, span.stop, CHUNK_TOKENS):
            ids = self.split.read(start, min(CHUNK_TOKENS, span.stop - start))
            yield decoder.decode(b"".join(map(self.tokenizer.token_bytes, ids.tolist())))
        yield decoder.decode(b"", final=True)

    def find(self, text: str) -> Iterator[TextPlace]:
        """Yield where a text stands letter for letter, within a document. Raises InputError for an empty one."""
        try:
            wanted = text.encode()
        except UnicodeEncodeError:
            wanted = b""
        if not wanted:
            raise InputError("`text`: give some text to search, in UTF-8")
        view = _View(self.tokenizer, self._of_none)
        for _, ids in self.split.chunks():
            yield from view.search(wanted, ids, keep=len(wanted) - 1)  # what begins there may end in the next chunk
        yield from view.search(wanted, np.empty(0, dtype=np.int64), keep=0)

    def _ends(self, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield the places of end-of-text ids up to `stop`, chunk by chunk."""
        if self.tokenizer.end_of_text is not None:
            for start, ids in self.split.chunks(stop):
                yield start + np.flatnonzero(ids == self.tokenizer.end_of_text)


class _View:
    """A part of the stream of ids, in bytes, that moves from its beginning to its end; and what was before it."""

    def __init__(self, tokenizer: Tokenizer, of_none: int) -> None:
        self._end_of_text = tokenizer.end_of_text
        self._bytes = [
            BOUNDARY if token == self._end_of_text else tokenizer.token_bytes(token)
            for token in range(tokenizer.vocab_size)
        ]
        self._lengths = np.array([len(token) for token in self._bytes])
        self.ids = np.empty(0, dtype=np.int64)
        self.token, self.document, self.byte, self.line = 0, -of_none, 0, 1  # of the first id in view

    def search(self, wanted: bytes, more: np.ndarray, keep: int) -> Iterator[TextPlace]:
        """Look further ahead, yield the matches that begin before the last `keep` ids, and move on to those."""
        self.ids = np.concatenate([self.ids, more])
        tokens = [self._bytes[token] for token in self.ids.tolist()]
        passed = max(0, len(tokens) - keep)
        content, stop = b"".join(tokens), sum(map(len, tokens[:passed]))
        ends = np.flatnonzero(self.ids == self._end_of_text)
        place = content.find(wanted)
        lasts = np.cumsum(self._lengths[self.ids]) if 0 <= place < stop else None  # the byte after each id
        while lasts is not None and 0 <= place < stop:
            token = int(np.searchsorted(lasts, place, side="right"))
            before = int(np.searchsorted(ends, token))
            begin = int(lasts[ends[before - 1]]) if before else 0
            yield TextPlace(
                self.document + before,
                (1 if before else self.line) + content.count(b"\n", begin, place),
                (0 if before else self.byte) + place - begin,
                self.token + token,
                _excerpt(content, begin, place, len(wanted)),
            )
            place = content.find(wanted, place + len(wanted))
        self._move(content[:stop], ends[ends < passed], passed)

    def _move(self, content: bytes, ends: np.ndarray, count: int) -> None:
        """Leave so many ids, of which some are ends of text, behind."""
        own = int(self._lengths[self.ids[ends[-1] + 1 : count]].sum()) if len(ends) else len(content)
        lines = content.count(b"\n", len(content) - own)
        self.byte, self.line = (own, 1 + lines) if len(ends) else (self.byte + own, self.line + lines)
        self.document, self.token, self.ids = self.document + len(ends), self.token + count, self.ids[count:]


def _excerpt(content: bytes, begin: int, place: int, length: int) -> str:
    """Cut out the line of what was found in a document that begins there, or the part of it that is near."""
    start = max(begin, content.rfind(b"\n", begin, place) + 1, place - AROUND)
    end = min(len(content), place + length + AROUND)
    for mark in (b"\n", BOUNDARY):
        found = content.find(mark, place + length, end)
        end = found if found >= 0 else end
    return content[start:end].decode(errors="ignore")
