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

import numpy as np

from gpt.corpus.documents import Document
from gpt.corpus.reading import Corpus
from gpt.corpus.stages import digest
from gpt.dataset.manifest import SPLITS
from gpt.errors import InputError
from gpt.text.chat_template import Spans

TRAIN, VALIDATION = SPLITS
DROPPED = "dropped"  # in place of a split
MAX_CHARACTERS = 50_000_000  # of validation: some 12 million of GPT-2's tokens, more than an evaluation reads
PASSAGES = 16  # that validation has at least, about: documents are cut as far as that takes
ENOUGH, TOO_MUCH = 0.5, 1.5  # of the share: what chance may make of it
SHORTEST, LONGEST = 1 << 9, 1 << 19  # characters: how long passages are, about
BLANKS = b" \t\n\r\v\f"
LOWER = bytes(range(256)).lower()


@dataclass(frozen=True)
class Piece:
    """A text on one side of the split, 'train' or 'validation'; `name` is its document's."""

    name: str
    split: str
    text: str
    learned: Spans = ()
    """As in a Document; a piece of an example is all of it."""


Divide = Callable[[Document], Iterator[Piece]]
Split = Callable[[Corpus], Divide]


@dataclass(frozen=True)
class ByEnd:
    """Lets the end of each document validate."""

    share: float

    def __call__(self, document: Document) -> Iterator[Piece]:
        cut = int(len(document.text) * (1 - self.share))
        for split, text in ((TRAIN, document.text[:cut]), (VALIDATION, document.text[cut:])):
            if text:
                yield Piece(document.name, split, text)


@dataclass(frozen=True)
class ByContent:
    """Divides documents by the keys of their passages."""

    passage: int
    """Documents longer than twice so many characters are cut into passages of about that."""
    threshold: int
    """Passages whose key is smaller validate."""
    exceptions: dict[int, str] = field(default_factory=dict)
    """The sides of those that are elsewhere than their key says."""

    def side(self, key: int) -> str:
        return self.exceptions.get(key) or (VALIDATION if key < self.threshold else TRAIN)

    def __call__(self, document: Document) -> Iterator[Piece]:
        """Yield the pieces: neighboring passages of one side are one."""
        if document.learned:
            side = self.side(key_of(document.text))
            yield from [Piece(document.name, side, document.text, document.learned)] if side != DROPPED else []
            return
        sides = ((self.side(key_of(text)), text) for text in passages(document.text, self.passage))
        for side, group in itertools.groupby(sides, key=lambda pair: pair[0]):
            if side != DROPPED:
                yield Piece(document.name, side, "".join(text for _, text in group))


def key_of(text: str) -> int:
    """Return a text's number, of 64 bits: that of all that differ from it in blanks, case or Unicode's forms."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).lower()
    content = text.encode("utf-8", "surrogatepass").translate(LOWER, BLANKS)
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def passages(text: str, size: int) -> Iterator[str]:
    """Cut a text that is longer than 2 × `size` characters into passages of size / 2 to 2 × size.

    They end with a paragraph, a line or at least a word. Of the places where one may end, that is taken which the words
    after it choose by a hash: where text is put in or taken out, the passages farther on stay what they are.
    """
    start = 0
    while len(text) - start > 2 * size:
        first, last = start + size // 2, start + 2 * size
        end = min(
            _places(text, first, last),
            key=lambda place: zlib.crc32(text[place : place + 32].encode("utf-8", "replace")),
        )
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def _places(text: str, first: int, last: int) -> list[int]:
    """List where a passage may end: after a paragraph, else after a line, else after a word, else anywhere."""
    for mark in ("\n\n", "\n", " "):
        places, place = [], text.find(mark, first, last)
        while place >= 0:
            places.append(place + len(mark))
            place = text.find(mark, place + len(mark), last)
        if places:
            return places
    return [(first + last) // 2]


def passage_size(validation_characters: float) -> int:
    """Choose how long passages are, so that validation has some: a power of two."""
    wanted = max(1, int(validation_characters / PASSAGES))
    return min(LONGEST, max(SHORTEST, 1 << (wanted.bit_length() - 1)))


def distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, of (key, characters) of passages, (N, 2), the keys in order and each once, and the characters of each."""
    keys, inverse = np.unique(rows[:, 0], return_inverse=True)
    lengths = np.bincount(inverse.ravel(), weights=rows[:, 1], minlength=len(keys))
    return keys, lengths


def threshold(keys: np.ndarray, lengths: np.ndarray, share: float) -> int:
    """Return the key below which passages validate: at the share itself, unless chance would make far more or less."""
    sums, target = np.cumsum(lengths), share * lengths.sum()
    usual = int(share * 2**64)
    least = int(keys[np.searchsorted(sums, ENOUGH * target)]) + 1 if len(keys) else 0
    most = int(keys[np.searchsorted(sums, TOO_MUCH * target, side="right") - 1]) + 1 if len(keys) else 0
    return max(min(usual, max(most, least)), least)


def division_key(divide: Divide, keys: np.ndarray | None) -> str:
    """Name what dividing the documents of a slice hangs on: `keys` are those of its passages, if it goes by them."""
    if isinstance(divide, ByContent) and keys is not None:
        own = {str(key): divide.exceptions[key] for key in keys.tolist() if key in divide.exceptions}
        return digest(divide.passage, divide.threshold, own)
    if dataclasses.is_dataclass(divide) and not isinstance(divide, type):
        return digest(type(divide).__name__, dataclasses.asdict(divide))
    return uuid.uuid4().hex  # of a function it cannot be told


def by_end(share: float) -> Split:
    """Let the end of each document validate. Raises InputError for a share that leaves nothing on one side."""
    require_share(share)
    return lambda corpus: ByEnd(share)


def require_share(share: float) -> None:
    """Raise InputError for a share of validation that would leave nothing on one side."""
    if not 0 < share <= 0.5:
        raise InputError(f"`validation_share` is {share}; it must be above 0 and at most 0.5")
