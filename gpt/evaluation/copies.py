"""Whether a model gives back its training text token for token: the longest stretches that texts share with it.

Ids are searched, by a suffix array; what is found goes on by as many letters as it does, since the same letters can be
other ids where a stretch begins and ends. A stretch whose letters are other ids throughout is not found: in letters,
the longest one may be longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt.dataset.shards import Split
from gpt.dataset.suffix_array import Match, longest_shared
from gpt.text.tokenizer import Tokenizer

BY_HEART = 100  # characters in a row: no phrase or turn of speech is as long
SEARCHED_TOKENS = 5_000_000  # of a larger corpus, where time is short, pieces from all over it, so many in all: seconds
CHUNK_TOKENS = 250_000
AROUND = 64  # ids before and after a stretch that are looked at for more letters of it


@dataclass(frozen=True)
class Copy:
    """The longest stretch of a text that stands in the training text."""

    text: str
    tokens: int
    """Those that are whole."""
    place: int
    """Of the first of them in the training split."""

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
    starts = range(0, split.tokens, round(CHUNK_TOKENS / share))
    chosen = [range(start, min(start + CHUNK_TOKENS, split.tokens)) for start in starts] if share < 1 else None
    matches = longest_shared(split, texts, chosen)
    return Copies([_copy(*each, split, tokenizer) for each in zip(texts, matches, strict=True)], share)


def _copy(ids: np.ndarray, match: Match, split: Split, tokenizer: Tokenizer) -> Copy:
    """Add the letters around a stretch that the text and the split have in common."""
    if not match.length:
        return Copy("", 0, 0)

    def letters(some: np.ndarray) -> bytes:
        return b"".join(map(tokenizer.token_bytes, some.tolist()))

    end, there = match.start + match.length, match.place + match.length
    begin = max(0, match.place - AROUND)
    before = letters(ids[max(0, match.start - AROUND) : match.start]), letters(split.read(begin, match.place - begin))
    after = letters(ids[end : end + AROUND]), letters(split.read(there, min(AROUND, split.tokens - there)))
    left = _alike(before[0][::-1], before[1][::-1])
    content = before[0][len(before[0]) - left :] + letters(ids[match.start : end]) + after[0][: _alike(*after)]
    return Copy(content.decode(errors="ignore"), match.length, match.place)


def _alike(one: bytes, two: bytes) -> int:
    """Count the bytes that both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
