"""Whether a model gives back its training text: the longest stretches that texts share with it, letter for letter.

Letters are searched, by a suffix array, and not tokens: the same letters can be other tokens in each place where they
stand. The training text is decoded piece by piece. A special token, such as end-of-text, ends a stretch.
"""

import codecs
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpt.dataset.shards import Split
from gpt.dataset.suffix_array import NO_ID, longest_shared
from gpt.text.tokenizer import Tokenizer

BY_HEART = 100  # characters in a row: no phrase or turn of speech is as long
SEARCHED_TOKENS = 5_000_000  # of a larger corpus, where time is short, pieces from all over it, so many in all: seconds
CHUNK_TOKENS = 250_000
DECODED_TOKENS = 1 << 14  # at once: of so many, the token is sought in which a stretch begins
LETTER_BYTES = 4  # at the most, in UTF-8
MARK = b"\xff"  # stands for a special token, and for the end of what is searched in one go; no UTF-8 has this byte
NO_LETTERS = range(0xD800, 0xE000)  # what bytes that are not UTF-8, such as MARK, are decoded as


@dataclass(frozen=True)
class Copy:
    """The longest stretch of a text that stands in the training text."""

    text: str
    place: int
    """The token of the training split in which it begins."""
    lines: int
    """Line ends in that token before it."""

    @property
    def characters(self) -> int:
        return len(self.text)


@dataclass(frozen=True)
class Copies:
    """What some texts share with the training text."""

    found: list[Copy]
    """Of each text, in their order."""
    searched: float
    """The share of the training text that was searched."""

    @property
    def longest(self) -> int:
        """Characters of the longest stretch of all."""
        return max((copy.characters for copy in self.found), default=0)

    @property
    def median(self) -> int:
        """Characters of the longest stretch of a usual one of the texts."""
        lengths = sorted(copy.characters for copy in self.found)
        return lengths[len(lengths) // 2] if lengths else 0

    @property
    def by_heart(self) -> int:
        """How many of the texts hold a stretch of BY_HEART characters of it."""
        return sum(copy.characters >= BY_HEART for copy in self.found)


def find_copies(texts: Sequence[np.ndarray], split: Split, tokenizer: Tokenizer, most: int | None = None) -> Copies:
    """Search a split for the longest stretch of each text, (N,) int64 ids; or so many of its tokens at the most.

    Raises InputError if a shard cannot be read.
    """
    share = 1.0 if most is None else min(1.0, most / max(1, split.tokens))
    starts = range(0, split.tokens, round(CHUNK_TOKENS / share)) if share < 1 else range(1)
    length = CHUNK_TOKENS if share < 1 else split.tokens
    searched = _Letters(split, tokenizer, [range(start, min(start + length, split.tokens)) for start in starts])
    runs = [_letters(searched.decoded(ids)) for ids in texts]
    runs = [np.where((run >= NO_LETTERS.start) & (run < NO_LETTERS.stop), NO_ID, run) for run in runs]
    found = []
    for run, match in zip(runs, longest_shared(searched.pieces(), runs), strict=True):
        text = "".join(map(chr, run[match.start : match.start + match.length].tolist()))
        found.append(Copy(text, *(searched.place(match.place) if text else (0, 0))))
    return Copies(found, share)


def _letters(text: str) -> np.ndarray:
    """Give the code points of a text, (N,) int64."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)


class _Letters:
    """The letters of ranges of a split, one after another, each range ended by a MARK."""

    def __init__(self, split: Split, tokenizer: Tokenizer, ranges: Sequence[range]) -> None:
        self._split, self._ranges = split, ranges
        self._bytes = [*tokenizer.ranks, *[MARK] * len(tokenizer.special_tokens)]
        self._lengths = np.array([len(token) for token in self._bytes])
        self._begins = list[int]()  # the first letter of what was decoded at once,
        self._pieces = list[tuple[range, bytes]]()  # its tokens, and the bytes of that letter that were left before

    def decoded(self, ids: np.ndarray) -> str:
        """Decode a text of its own; what is no letter becomes one of NO_LETTERS, byte by byte."""
        return self._spelled(ids).decode(errors="surrogateescape")

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield the letters in their order, (N,) int64 at a time. Raises InputError if a shard cannot be read."""
        count = 0
        for own in self._ranges:
            decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
            for start in own[::DECODED_TOKENS]:
                piece = range(start, min(start + DECODED_TOKENS, own.stop))
                self._begins.append(count)
                self._pieces.append((piece, decoder.getstate()[0]))
                end = MARK if piece.stop == own.stop else b""
                text = decoder.decode(self._spelled(self._read(piece)) + end)
                count += len(text)
                yield _letters(text)

    def place(self, letter: int) -> tuple[int, int]:
        """Tell in which token a letter begins that was yielded, and how many lines end in the token before it."""
        number = bisect_right(self._begins, letter) - 1
        piece, left = self._pieces[number]
        earlier = min(LETTER_BYTES - 1, piece.start)  # a letter of which some bytes were left begins in one of these
        ids = self._read(range(piece.start - earlier, piece.stop))
        text = (left + self._spelled(ids[earlier:])).decode(errors="surrogateescape")
        before = text[: letter - self._begins[number]].encode(errors="surrogateescape")
        lasts = np.cumsum(self._lengths[ids])  # the byte after each token
        byte = int(lasts[earlier - 1] if earlier else 0) + len(before) - len(left)
        token = int(np.searchsorted(lasts, byte, side="right"))
        own = self._bytes[int(ids[token])]
        return piece.start - earlier + token, own[: byte - int(lasts[token])].count(b"\n")

    def _read(self, piece: range) -> np.ndarray:
        return self._split.read(piece.start, len(piece))

    def _spelled(self, ids: np.ndarray) -> bytes:
        return b"".join(map(self._bytes.__getitem__, ids.tolist()))
