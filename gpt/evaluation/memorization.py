"""Whether a model gives back its training text letter for letter: the longest stretches that samples share with it."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from gpt.dataset.shards import Split
from gpt.text.tokenizer import Tokenizer

BY_HEART = 100  # characters in a row: no phrase or turn of speech is as long
SEARCHED_TOKENS = 20_000_000  # of a larger corpus pieces from all over it are searched, so many in all: seconds
CHUNK_TOKENS = 250_000
_MASK = 0xFFFF
_BASE = 0x9E3779B97F4A7C15  # odd, and so it has an inverse modulo 2^64


@dataclass(frozen=True)
class Copies:
    """What some samples share with the training text."""

    longest: int
    """Characters of the longest stretch of any sample that stands in it."""
    by_heart: int
    """How many of the samples hold a stretch of BY_HEART characters of it."""
    samples: int
    searched: float
    """The share of the training text that was searched."""


def find_copies(samples: list[str], split: Split, tokenizer: Tokenizer) -> Copies:
    """Search the text of a split for stretches of the samples."""
    share = min(1.0, SEARCHED_TOKENS / max(1, split.tokens))
    longest, by_heart = longest_copies(samples, _text_chunks(split, tokenizer, share))
    return Copies(longest, by_heart, len(samples), share)


def _text_chunks(split: Split, tokenizer: Tokenizer, share: float) -> Iterator[str]:
    """Yield the split's text in pieces; of `share` < 1, pieces from all over it."""
    token_bytes = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for start in range(0, split.tokens, round(CHUNK_TOKENS / share)):
        ids = split.read(start, min(CHUNK_TOKENS, split.tokens - start))
        text = decoder.decode(b"".join([token_bytes[token] for token in ids.tolist()]))
        yield text if share == 1 else text + "\0"  # pieces that do not follow each other make no stretch together


def longest_copies(samples: list[str], chunks: Iterable[str]) -> tuple[int, int]:
    """Find (the longest stretch of any sample that the text holds, how many samples hold BY_HEART characters of it).

    The text comes in chunks that follow each other. A stretch of k characters is looked up by a hash modulo 2^64 in
    which c₀ … cₖ₋₁ is Σ cᵢ·bⁱ, so that sums over the chunk give the hashes of all of its stretches at once.
    """
    windows = _Windows(samples)
    overlap = max(map(len, samples), default=0)
    longest, by_heart, kept = 0, np.zeros(len(samples), dtype=bool), ""
    for chunk in chunks:
        text = _Hashed(kept + chunk)
        by_heart |= windows.found(text, BY_HEART)
        step = 1
        while step:  # longer by 1, 2, 4 … as long as that is found, then by less
            if windows.found(text, longest + step).any():
                longest += step
                step *= 2
            else:
                step //= 2
        kept = (kept + chunk)[-overlap:] if overlap else ""
    return longest, int(by_heart.sum())


class _Hashed:
    """A text, of which the hash of every stretch of k characters can be had."""

    def __init__(self, text: str) -> None:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
        powers = np.full(len(codes) + 1, _BASE, dtype=np.uint64)
        powers[0] = 1
        powers = np.cumprod(powers, dtype=np.uint64)
        inverses = np.full(len(codes) + 1, pow(_BASE, -1, 2**64), dtype=np.uint64)
        inverses[0] = 1
        self._inverses = np.cumprod(inverses, dtype=np.uint64)
        self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((codes + np.uint64(1)) * powers[:-1])])

    def hashes(self, k: int) -> np.ndarray:
        """Hash each run of k, (N − k + 1,) uint64; none where the text is shorter than k."""
        count = max(0, len(self._sums) - k)
        return (self._sums[k:] - self._sums[:count]) * self._inverses[:count]


class _Windows:
    """The stretches of some samples."""

    def __init__(self, samples: list[str]) -> None:
        self._samples = [_Hashed(sample) for sample in samples]

    def found(self, text: _Hashed, k: int) -> np.ndarray:
        """Tell for each sample whether the text holds one of its stretches of k characters: bool."""
        own = [sample.hashes(k) for sample in self._samples]
        wanted = np.concatenate([*own, np.empty(0, np.uint64)])
        table = np.zeros(_MASK + 1, dtype=bool)
        table[wanted & np.uint64(_MASK)] = True
        hashes = text.hashes(k)
        near = hashes[table[hashes & np.uint64(_MASK)]]  # few: the exact comparison is slower
        held = np.isin(wanted, near)
        ends = np.cumsum([len(hashes) for hashes in own])
        return np.array([part.any() for part in np.split(held, ends[:-1])] if own else [], dtype=bool)
