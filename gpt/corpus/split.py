"""Which text trains and which validates: policies, each of which looks at a corpus and then divides its documents.

A policy is called with the corpus, once it was read, and returns a function from a document to its pieces.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpt.corpus.documents import Document
from gpt.corpus.reading import Corpus
from gpt.errors import InputError

MAX_CHARACTERS = 50_000_000  # of validation: some 12 million of GPT-2's tokens, more than an evaluation reads
MIN_DOCUMENTS_TO_HASH = 100  # fewer are each cut in two, since a hash might send none of them to validation


@dataclass(frozen=True)
class Piece:
    """A text on one side of the split, 'train' or 'validation'; `name` is its document's."""

    name: str
    split: str
    text: str


Divide = Callable[[Document], Iterator[Piece]]
Split = Callable[[Corpus], Divide]


def by_name_or_end(share: float) -> Split:
    """Split many documents by the hash of their names; of few, let the end of each validate.

    `share` of the text validates, but of very large corpora no more than is of use. Raises InputError for a share that
    leaves nothing on one side.
    """
    require_share(share)

    def split(corpus: Corpus) -> Divide:
        useful = min(share, MAX_CHARACTERS / max(1, corpus.characters))
        return by_name(useful) if corpus.documents >= MIN_DOCUMENTS_TO_HASH else by_end(useful)

    return split


def by_name(share: float) -> Divide:
    def divide(document: Document) -> Iterator[Piece]:
        validates = hash_fraction(document.name) < share
        yield Piece(document.name, "validation" if validates else "train", document.text)

    return divide


def by_end(share: float) -> Divide:
    def divide(document: Document) -> Iterator[Piece]:
        cut = int(len(document.text) * (1 - share))
        for split, text in (("train", document.text[:cut]), ("validation", document.text[cut:])):
            if text:
                yield Piece(document.name, split, text)

    return divide


def require_share(share: float) -> None:
    """Raise InputError for a share of validation that would leave nothing on one side."""
    if not 0 < share <= 0.5:
        raise InputError(f"`validation_share` is {share}; it must be above 0 and at most 0.5")


def hash_fraction(name: str) -> float:
    """Return the number from 0 to below 1 that a name has on every machine, and that nobody chose."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
