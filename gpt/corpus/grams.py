"""The 13-grams of texts: 13 words in a row, hashed, by which copies of passages are found (as Brown et al. 2020 do).

A word is a run of letters, digits and marks, in lower case and in Unicode's composed form (NFC); a letter of a script
without spaces (Chinese, Japanese, Korean, Thai, …) is a word by itself. What stands between words makes no difference.
A text of fewer than 13 words has one gram, which is all of it.

1. `folded` brings a text into lower case and NFC, and looks only at its letters beyond ASCII for that.
2. `word_hashes` finds the words of many texts in their bytes, and hashes each by eight bytes at a time.
3. `rolling` hashes runs of words.
"""

import functools
import unicodedata
from collections.abc import Sequence

import numpy as np

WORDS = 13
LONG, MANY = 512, 32  # bytes of a word, and such words, beyond which these are hashed one by one, such as base64
BATCH_BYTES = 1 << 17  # of texts that are hashed at once: as many as stay in a processor's cache
FACTOR, WORD_FACTOR = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9
SEPARATOR, LETTER, WORD = 0, 1, 2  # what a character is: between words, of a word, a word
TABLED = 0x30000  # code points: no letter has a larger one, but for rare Chinese ones
WITHOUT_SPACES = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x9FFF), (0xAC00, 0xD7AF))
WITHOUT_SPACES += ((0xF900, 0xFAFF), (0x20000, 0x2FFFF))  # Thai to Khmer, Chinese and kana, Hangul, and more Chinese
PARTS = (("\u1100", "\u11ff"), ("\U00016d63", "\U00016d6a"))  # letters that are composed, beside marks
ASCII = bytes(range(128))
LETTERS = bytes(byte if byte > 127 or chr(byte).isalnum() else 0 for byte in range(256)).lower()  # and zero between
KEPT = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)  # of eight bytes so many


def folded(content: bytes) -> bytes:
    """Return a text, of UTF-8, in Unicode's composed form, its letters beyond ASCII in lower case.

    Letters of ASCII may still be capitals, which `bytes.translate` changes in passing.
    """
    if content.isascii() or all(map(_is_settled, set(content.translate(None, ASCII).decode("utf-8", "surrogatepass")))):
        return content
    text = unicodedata.normalize("NFC", content.decode("utf-8", "surrogatepass")).lower()
    return text.encode("utf-8", "surrogatepass")


@functools.lru_cache(maxsize=1 << 17)
def _is_settled(character: str) -> bool:
    """Tell whether a character beyond ASCII stays what it is, whatever stands around it, and changes nothing there."""
    is_part = unicodedata.category(character)[0] == "M" or any(first <= character <= last for first, last in PARTS)
    return not is_part and character == unicodedata.normalize("NFC", character).lower()


def word_hashes(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Hash the words of folded texts: all of them, (W,) uint32, and how many each text has, (N,).

    The hashes of two words are equal by chance once in 2^32, and those of 13 in a row as good as never.
    """
    content = b"".join((b"\n", b"\n".join(texts), b"\n" * 17))
    codes = np.frombuffer(content.translate(LETTERS), dtype=np.uint8, count=len(content) & ~7)
    kinds = (codes != 0).view(np.uint8)  # of each byte
    if not content.isascii():
        _mark_beyond_ascii(kinds, codes)
    edges = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
    starts, stops = edges[::2], edges[1::2]  # by turns, as it begins and ends with none
    if kinds.max(initial=0) >= WORD:  # but for words that follow one another
        is_start = kinds[edges] != SEPARATOR
        starts, stops = edges[is_start], np.append(edges[1:], 0)[is_start]
    hashes = _hashed(codes.view("<u8"), starts, stops - starts)
    ends = np.cumsum([len(text) + 1 for text in texts])
    return (hashes >> np.uint64(32)).astype("<u4"), np.diff(np.searchsorted(starts, ends), prepend=0)


def _mark_beyond_ascii(marks: np.ndarray, codes: np.ndarray) -> None:
    """Mark each byte of characters beyond ASCII with what these are; two neighbors that are words differ."""
    high = np.flatnonzero(codes > 0x7F)
    characters = codes[high].tobytes().decode("utf-8", "surrogatepass")
    points = np.frombuffer(characters.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    kinds = _kinds().take(np.minimum(points, TABLED - 1))
    kinds += (kinds == WORD) & (np.arange(len(kinds)) % 2 == 1)
    marks[high] = np.repeat(kinds, 2 + (points > 0x7FF) + (points > 0xFFFF))


def _hashed(eights: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Hash some bytes, eight at a time, by where they start and how many they are: (N,) uint64."""
    hashes = _eight_at(eights, starts, lengths) * np.uint64(FACTOR)
    for done in range(8, int(lengths.max(initial=0)), 8):
        longer = np.flatnonzero(lengths > done)
        if done >= LONG and len(longer) < MANY:
            content = eights.view(np.uint8)
            rest = [content[starts[each] + done : starts[each] + lengths[each]].tobytes() for each in longer]
            hashes[longer] = list(map(_hashed_on, hashes[longer].tolist(), rest))
            break
        before = hashes[longer]
        before = (before ^ (before >> np.uint64(32))) + _eight_at(eights, starts[longer] + done, lengths[longer] - done)
        hashes[longer] = before * np.uint64(FACTOR)
    return hashes


def _hashed_on(before: int, rest: bytes) -> int:
    """Hash the rest of a long word: one by one they take a fortieth of what eight bytes of a few at a time do."""
    for eight in np.frombuffer(rest + bytes(-len(rest) % 8), dtype="<u8").tolist():
        before = ((before ^ (before >> 32)) + eight) * FACTOR % 2**64
    return before


def _eight_at(eights: np.ndarray, places: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return of eight bytes from each place as many as there are, as a number; `eights` has all bytes so."""
    words, bits = places >> 3, ((places & 7) << 3).view(np.uint64)
    found = eights.take(words) >> bits
    found |= eights.take(words + 1) << (np.uint64(63) - bits) << np.uint64(1)
    return found & KEPT.take(lengths, mode="clip")


@functools.cache
def _kinds() -> np.ndarray:
    """Say of each code point what it is."""
    major = np.frombuffer("".join(map(unicodedata.category, map(chr, range(TABLED))))[::2].encode(), dtype=np.uint8)
    kinds = np.isin(major, np.frombuffer(b"LNM", dtype=np.uint8)).view(np.uint8)
    for first, last in WITHOUT_SPACES:
        kinds[first : last + 1] *= WORD
    return kinds


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
