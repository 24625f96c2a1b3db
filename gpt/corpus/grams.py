"""The 13-grams of texts: 13 words in a row, hashed, by which copies of passages are found (as Brown et al. 2020 do).

A word is a run of letters, digits and marks, in lower case and in Unicode's composed form (NFC); a letter of a script
without spaces (Chinese, Japanese, Korean, Thai, …) is a word by itself. What stands between words makes no difference.
A text of fewer than 13 words has one gram, which is all of it.
"""

import functools
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

WORDS = 13
BATCH_CHARACTERS = 1 << 17  # of texts that are hashed at once: as many as stay in a processor's cache
FACTOR, WORD_FACTOR = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9
SEPARATOR, LETTER, WORD = 0, 1, 2  # what a character is: between words, of a word, a word
TABLED = 0x30000  # code points: no letter has a larger one, but for rare Chinese ones
WITHOUT_SPACES = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x9FFF), (0xAC00, 0xD7AF))
WITHOUT_SPACES += ((0xF900, 0xFAFF), (0x20000, 0x2FFFF))  # Thai to Khmer, Chinese and kana, Hangul, and more Chinese


def grams(texts: Sequence[tuple[str, str]]) -> Iterator[np.ndarray]:
    """Yield of each text the hashes of its grams, (G,) uint64, in order; none of one without words.

    With each text stands what follows it, or '': its grams are those that begin in the text itself.
    """
    batch, size = list[tuple[str, str]](), 0
    for pair in texts:
        if batch and size + len(pair[0]) > BATCH_CHARACTERS:
            yield from _grams(batch)
            batch, size = [], 0
        batch.append(pair)
        size += len(pair[0])
    yield from _grams(batch)


def _grams(texts: Sequence[tuple[str, str]]) -> Iterator[np.ndarray]:
    words, ends = _words([part for pair in texts for part in pair])
    rolled, begin = rolling(words, WORDS), 0
    for own, end in zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True):
        if end - begin >= WORDS:
            yield rolled[begin : min(own, end - WORDS + 1)]
        else:
            yield rolling(words[begin:end], end - begin)[:1] if own > begin else words[:0]
        begin = end


def rolling(hashes: np.ndarray, length: int) -> np.ndarray:
    """Hash each run of so many hashes, (N,) uint64, to one: (N − length + 1,), by a polynomial.

    Built by doubling: runs of 1, 2, 4, … of which those of `length` are a sum.
    """
    result, summed, factor = np.zeros(len(hashes) + 1, dtype=np.uint64), 0, WORD_FACTOR
    for bit in range(length.bit_length()):
        if length >> bit & 1:
            following = hashes[summed:]
            result = result[: len(following)] * np.uint64(factor) + following[: len(result)]
            summed += 1 << bit
        hashes = hashes[: -(1 << bit)] * np.uint64(factor) + hashes[1 << bit :]
        factor = factor * factor % 2**64
    return result


def _words(parts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hash the words of texts, each in two parts: all words, (W,) uint64, and how many there are up to each part's end.

    A word in both parts of a text is of the first.
    """
    if not all(map(str.isascii, parts)):
        parts = [part if part.isascii() else unicodedata.normalize("NFC", part).lower() for part in parts]
    together = "\n".join(map("".join, zip(parts[::2], parts[1::2], strict=True)))
    kinds, values = _tables()
    if together.isascii():
        codes = np.frombuffer(together.encode(), dtype=np.uint8)
    else:
        codes = np.minimum(np.frombuffer(together.lower().encode("utf-32-le", "surrogatepass"), "<u4"), TABLED - 1)
    kind, value = kinds.take(codes), values.take(codes)
    is_letter = np.zeros(len(codes) + 2, dtype=bool)
    is_letter[1:-1] = kind == LETTER
    begins = is_letter[1:] & ~is_letter[:-1]
    if together.isascii():
        starts, lasts = np.flatnonzero(begins), np.flatnonzero(is_letter[1:-1] & ~is_letter[2:])
    else:
        is_word = kind == WORD
        starts = np.flatnonzero(is_word | begins[:-1])
        lasts = np.flatnonzero(is_word | (is_letter[1:-1] & ~is_letter[2:]))
    powers, inverses = _powers(1 << max(16, len(codes).bit_length()))
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(value * powers[: len(codes)], out=sums[1:])
    words = (sums[lasts + 1] - sums[starts]) * inverses[starts]
    words ^= words >> np.uint64(29)
    ends = np.cumsum([len(part) + number % 2 for number, part in enumerate(parts)])
    return words * np.uint64(FACTOR), np.searchsorted(starts, ends)


@functools.cache
def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the powers of an odd number modulo 2^64, and those of its inverse, (size,) each."""
    bases = np.ones((2, size), dtype=np.uint64)
    bases[0, 1:], bases[1, 1:] = FACTOR, pow(FACTOR, -1, 2**64)
    powers = np.cumprod(bases, axis=1, dtype=np.uint64)
    return powers[0], powers[1]


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Say of each code point what it is, and with which number it counts."""
    categories = (unicodedata.category(chr(code)) for code in range(TABLED))
    kinds = np.fromiter((LETTER if category[0] in "LNM" else SEPARATOR for category in categories), np.uint8, TABLED)
    for first, last in WITHOUT_SPACES:
        part = kinds[first : last + 1]
        part[part == LETTER] = WORD
    codes = np.arange(TABLED, dtype=np.uint64)
    codes[ord("A") : ord("Z") + 1] += np.uint64(ord("a") - ord("A"))
    values = (codes + np.uint64(1)) * np.uint64(FACTOR)
    values ^= values >> np.uint64(31)
    return kinds, values
