"""Which text trains and which validates.

A split looks at a corpus, once it was read, and gives what divides a document into pieces. The usual one goes by
content: a document, or a passage of a long one, has a number that nobody chose, the same for all its copies, and those
of small numbers validate. So a text stays on its side, whatever is added to the corpus, and wherever it stands.
"""

import dataclasses
import hashlib
import itertools
import unicodedata
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpt.corpus.documents import Document
from gpt.corpus.grams import KEPT, folded
from gpt.corpus.reading import Corpus
from gpt.corpus.slices import PASSAGES, documents_at
from gpt.corpus.stages import digest
from gpt.dataset.manifest import SPLITS
from gpt.errors import InputError

TRAIN, VALIDATION = SPLITS
DROPPED = "dropped"  # in place of a split
SIDES = (TRAIN, VALIDATION, DROPPED)
MAX_CHARACTERS = 50_000_000  # of validation: some 12 million of GPT-2's tokens, more than an evaluation reads
WANTED = 16  # passages that validation has at least, about: documents are cut as far as that takes
ENOUGH, TOO_MUCH = 0.5, 1.5  # of the share: what chance may make of it
SHORTEST, LONGEST = 1 << 9, 1 << 19  # characters: how long passages are, about
FEWEST, LEAST = 8, 1 << 6  # passages of a text, about; and characters of one, if it is so little that they are shorter
BLANKS = b" \t\n\r\v\f"
LOWER = bytes(range(256)).lower()
READ = 32  # characters, by which the end of a passage is chosen
MANY = 500  # places where a passage may end, of which most are left out by tables
NO_UTF8, FIRST_BYTE = b"\xff", -64  # a byte that is in no text; of a character, the first has this as int8 at least


@dataclass(frozen=True)
class Piece:
    """A text on one side of the split, 'train' or 'validation'; `name` is its document's."""

    name: str
    split: str
    text: str


Divide = Callable[[Document], Iterator[Piece]]
Divided = Iterator[tuple[Document, Iterator[Piece]]]
Splitter = Callable[[Corpus], Divide]


@dataclass(frozen=True)
class ByContent:
    """Divides documents by the keys of their passages."""

    passage: int
    """Documents longer than twice so many characters are cut into passages of about that."""
    threshold: int
    """Passages whose key is smaller validate."""
    exceptions: dict[int, str] = field(default_factory=dict)
    """The sides of those that are elsewhere than their key says."""

    def sides(self, keys: np.ndarray) -> np.ndarray:
        """Return on which sides passages are, (N,) of numbers in `SIDES`, by their keys, (N,) uint64."""
        found = (keys < np.uint64(min(self.threshold, 2**64 - 1))).astype(np.int8)
        if len(keys) and (self.exceptions or "_in_order" in vars(self)):
            known, own = self._in_order
            places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            found = np.where(known[places] == keys, own[places], found)
        return found

    @cached_property
    def _in_order(self) -> tuple[np.ndarray, np.ndarray]:
        """The keys of the exceptions in order, and the numbers of their sides."""
        known = np.fromiter(self.exceptions, np.uint64, len(self.exceptions))
        sides = np.fromiter(map(SIDES.index, self.exceptions.values()), np.int8, len(known))
        order = np.argsort(known)
        return known[order], sides[order]

    def __getstate__(self) -> dict[str, Any]:
        """Take the exceptions to another process as arrays, which are a tenth of the dictionary and ask for no work."""
        return vars(self) | ({"exceptions": {}, "_in_order": self._in_order} if self.exceptions else {})

    def __call__(self, document: Document) -> Iterator[Piece]:
        """Yield the pieces: neighboring passages of one side are one."""
        texts = list(cut_passages(document.text, self.passage))
        sides = self.sides(np.array([key_of(text) for text in texts], dtype=np.uint64))
        return joined(document.name, texts, sides.tolist())


def joined(name: str, texts: list[str], sides: list[int]) -> Iterator[Piece]:
    """Yield the pieces of a document, whose passages are these, on sides of these numbers."""
    if len(texts) == 1:  # as most have
        if SIDES[sides[0]] != DROPPED:
            yield Piece(name, SIDES[sides[0]], texts[0])
        return
    for side, group in itertools.groupby(zip(sides, texts, strict=True), key=lambda pair: pair[0]):
        if SIDES[side] != DROPPED:
            yield Piece(name, SIDES[side], "".join(text for _, text in group))


def pieces_of(documents: Iterator[Document], divide: Divide, rows: np.ndarray | None) -> Divided:
    """Yield each document of a slice with its pieces.

    `rows` are its passages, if they are known, (P, 4) uint64: key, characters, number of the document, words.
    """
    if rows is None or not isinstance(divide, ByContent):
        yield from ((document, divide(document)) for document in documents)
        return
    sides, lengths = divide.sides(rows[:, 0]).tolist(), rows[:, 1].tolist()
    starts = np.searchsorted(rows[:, 2], np.arange(len(rows) + 1, dtype=np.uint64)).tolist()
    for number, document in enumerate(documents):
        own = slice(starts[number], starts[number + 1])
        yield document, joined(document.name, cut_by_lengths(document.text, lengths[own]), sides[own])


def pieces_in(corpus: Corpus, divide: Divide) -> Divided:
    """Yield each document that is kept with its pieces."""
    for each in corpus.slices:
        yield from pieces_of(documents_at(each.place, each.repeats), divide, passages_at(each.passages))


def cut_by_lengths(text: str, lengths: list[int]) -> list[str]:
    """Cut a text into passages of known lengths."""
    if len(lengths) == 1:
        return [text]
    ends = list(itertools.accumulate(lengths))
    return [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def key_of(text: str) -> int:
    """Return a text's number, of 64 bits: that of all that differ from it in blanks, case or Unicode's forms."""
    return key_of_folded(folded(text.encode("utf-8", "surrogatepass")))


def key_of_folded(content: bytes) -> int:
    """Return the number of a text that is folded."""
    return int.from_bytes(hashlib.blake2b(content.translate(LOWER, BLANKS), digest_size=8).digest(), "little")


def cut_passages(text: str, size: int) -> Iterator[str]:
    """Cut a text that is longer than 2 × `size` characters into passages of size / 2 to 2 × size.

    They end with a paragraph, a line or at least a word. Of the places where one may end, that is taken which the words
    after it choose by a hash: where text is put in or taken out, the passages farther on stay what they are. A text in
    another one of Unicode's forms is cut where its twin in the composed form (NFC) is.
    """
    if not unicodedata.is_normalized("NFC", text):
        yield from _cut_alike(text, cut_passages(unicodedata.normalize("NFC", text), size))
        return
    start = 0
    while len(text) - start > 2 * size:
        first, last = start + size // 2, start + 2 * size
        end = first + _end(text[first:last], text[last : last + READ])
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def _cut_alike(text: str, passages: Iterator[str]) -> Iterator[str]:
    """Cut a text where its twin ends passages: of the decomposed form, both have as many characters until there."""
    end = ahead = 0
    for passage in passages:
        start, ahead = end, ahead + len(unicodedata.normalize("NFD", passage))
        while ahead > 0:
            ahead -= len(unicodedata.normalize("NFD", text[end]))
            end += 1
        yield text[start:end]


def _end(text: str, after: str) -> int:
    """Choose where a passage ends, which may be after any character of a text; `after` are the first that follow it.

    After a paragraph, else after a line, else after a word, there where the 32 characters that follow have the smallest
    CRC-32; else in the middle.
    """
    content = text.encode("utf-8", "replace")
    mark = next((mark for mark in (b"\n\n", b"\n", b" ") if mark in content), None)
    if mark is None:
        return len(text) // 2
    places = np.flatnonzero(np.frombuffer(content.replace(mark, mark[:-1] + NO_UTF8), np.uint8) == NO_UTF8[0]) + 1
    content += after.encode("utf-8", "replace")
    numbers, ends = places, np.minimum(places + READ, len(content))
    if not content.isascii():
        starts = np.frombuffer(content, dtype=np.int8) >= FIRST_BYTE
        numbers = np.cumsum(starts)[places - 1]  # of the characters that begin there
        ends = np.append(np.flatnonzero(starts), [len(content)] * READ)[numbers + READ]
    if len(places) > MANY:
        leading = _leading_bytes(content, ends, ends - places)
        kept = leading == leading.min()
        places, ends, numbers = places[kept], ends[kept], numbers[kept]
    bounds = zip(places.tolist(), ends.tolist(), strict=True)
    return int(numbers[np.argmin([zlib.crc32(content[place:end]) for place, end in bounds])])


def _leading_bytes(content: bytes, ends: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Compute the first byte of the CRC-32 of many stretches of a text, (N,) uint8.

    But for one that hangs on the length alone, it is the exclusive or of a byte for each byte, which hangs on how many
    follow; that for a zero byte is 0, and such stand here before stretches that are shorter than others.
    """
    longest = int(lengths.max())
    found = np.array([zlib.crc32(bytes(length)) >> 24 for length in range(longest + 1)], dtype=np.uint8)[lengths]
    padded = bytes(longest + 8) + content
    eights = np.ndarray(len(padded) - 7, "<u8", padded, strides=(1,))  # from each byte on
    for done in range(0, longest, 8):
        words = eights[ends + longest - done]
        if (missing := np.clip(done + 8 - lengths, 0, 8)).any():
            words &= ~KEPT[missing]
        for table, column in zip(_tables()[done:], words.view(np.uint8).reshape(-1, 8).T[::-1], strict=False):
            found ^= np.frombuffer(column.tobytes().translate(table), dtype=np.uint8)
    return found


@cache
def _tables() -> list[bytes]:
    """Tell what each byte adds to the first byte of a CRC-32, by how many bytes follow it."""
    tables = [np.array([zlib.crc32(bytes([byte])) ^ zlib.crc32(b"\0") for byte in range(256)], dtype=np.uint32)]
    while len(tables) < 4 * READ:
        tables.append(tables[-1] >> np.uint32(8) ^ tables[0][tables[-1] & np.uint32(0xFF)])
    return [(table >> np.uint32(24)).astype(np.uint8).tobytes() for table in tables]


def passage_size(validation: float, total: int) -> int:
    """Choose how long passages are, of so many characters: a power of two.

    So long that validation has some, but not so short that they tell nothing; and of little text so short that there
    are some at all.
    """
    wanted = min(LONGEST, max(SHORTEST, validation / WANTED), total / FEWEST)
    return 1 << int(max(LEAST, wanted)).bit_length() - 1


def distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, of (key, characters) of passages, (N, 2), the keys in order and each once, and the characters of each."""
    keys, inverse = np.unique(rows[:, 0], return_inverse=True)
    lengths = np.bincount(inverse.ravel(), weights=rows[:, 1], minlength=len(keys))
    return keys, lengths


def is_among(known: np.ndarray, keys: np.ndarray | np.uint64) -> np.ndarray:
    """Tell which keys, uint64, are among known ones, (K,) uint64 in order, of which not many are read for that."""
    return np.searchsorted(known, keys, side="right") > np.searchsorted(known, keys)


def chosen(
    keys: np.ndarray, lengths: np.ndarray, share: float, characters: int | None = None
) -> tuple[int, dict[int, str]]:
    """Return the threshold, which is the share, and the passages whose side differs from what it says.

    These are some of a small text, of which chance would choose far too much or too little; and one that repeats itself
    so often that it is more than half of all, which trains, so that none validates where there is no other. `keys` may
    be only the smallest ones of the text; `characters` is then the total.
    """
    total = int(lengths.sum()) if characters is None else characters
    usual, rest = int(share * 2**64), 2 * lengths <= total
    limit = threshold(keys[rest], lengths[rest], share, total - int(lengths[~rest].sum()))
    between = rest & (keys >= min(usual, limit)) & (keys < max(usual, limit))
    exceptions = dict.fromkeys(keys[between].tolist(), VALIDATION if limit > usual else TRAIN)
    return usual, exceptions | dict.fromkeys(keys[~rest].tolist(), TRAIN)


def threshold(keys: np.ndarray, lengths: np.ndarray, share: float, characters: float | None = None) -> int:
    """Return the key below which passages validate: at the share itself, unless chance would make far more or less.

    `keys` may be only the smallest ones of the text; `characters` is then the total.
    """
    sums, target = np.cumsum(lengths), share * (lengths.sum() if characters is None else characters)
    least = int(keys[min(np.searchsorted(sums, ENOUGH * target), len(keys) - 1)]) + 1 if len(keys) else 0
    few = int(np.searchsorted(sums, TOO_MUCH * target, side="right"))  # passages that are not too much together
    most = int(keys[few - 1]) + 1 if few else 0
    return max(min(int(share * 2**64), max(most, least)), least)


def passages_at(place: Path | None) -> np.ndarray | None:
    """Read the passages of a slice, if they are listed: see `pieces_of`."""
    return None if place is None else np.load(f"{place}{PASSAGES}")


def division_key(divide: Divide, place: Path | None) -> str:
    """Name what dividing the documents of a slice hangs on; `place` is where its passages are listed."""
    rows = passages_at(place)
    if isinstance(divide, ByContent) and rows is not None:
        return digest(divide.passage, rows[:, 1], divide.sides(rows[:, 0]))
    if dataclasses.is_dataclass(divide) and not isinstance(divide, type):
        return digest(type(divide).__name__, dataclasses.asdict(divide))
    return uuid.uuid4().hex  # of a function it cannot be told


def require_share(share: float) -> None:
    """Raise InputError for a share of validation that would leave nothing on one side."""
    if not 0 < share <= 0.5:
        raise InputError(f"`validation_share` is {share}; it must be above 0 and at most 0.5")
