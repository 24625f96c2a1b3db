"""Two models on the same text: by how much one is better, and how sure that is.

What is hard for one is hard for the other, so the error of their difference is taken of differences, unit by unit,
and is mostly much smaller than the errors of the two figures.
"""

import math
from dataclasses import dataclass

import numpy as np

from gpt.dataset.shards import MemorySplit, Split
from gpt.errors import InputError
from gpt.evaluation.statistics import Spread, ratio_errors, spread, within
from gpt.evaluation.windows import Windows
from gpt.text.tokenizer import Tokenizer

NATS, TOKENS, BYTES = range(3)  # columns of the sums of pieces
TIE = "cannot be told from"


@dataclass(frozen=True)
class Measured:
    """What a model made of the pieces of some windows: nats, tokens and bytes of each, (P, 3), as they count."""

    sums: np.ndarray
    windows: Windows


@dataclass(frozen=True)
class Difference:
    """The other figure minus the first: below 0, the other model is better."""

    value: float
    spread: Spread | None
    """None where text is too little to tell."""

    @property
    def standard_error(self) -> float | None:
        return None if self.spread is None else self.spread.standard_error

    @property
    def half_width(self) -> float:
        return 0.0 if self.spread is None else self.spread.half_width

    @property
    def verdict(self) -> str:
        """Which of the two is better, if the 95 % interval tells: to be followed by the first one's name."""
        if self.spread is None or abs(self.value) <= self.half_width:
            return TIE
        return "better than" if self.value < 0 else "worse than"


@dataclass(frozen=True)
class PairedPieces:
    """What two models made of the same pieces of text."""

    first: np.ndarray
    """Nats, tokens and bytes of each, (P, 3); `other` likewise."""
    other: np.ndarray
    starts: np.ndarray
    """The first target of each in the split that the first model read, (P,)."""
    documents: np.ndarray
    """The number of each one's document, (P,)."""

    @property
    def bits_won(self) -> np.ndarray:
        """Give how many bits less the other model needs for each, (P,)."""
        return (self.first[:, NATS] - self.other[:, NATS]) / math.log(2)

    def part(self, chosen: slice) -> "PairedPieces":
        """Take some of them alone."""
        return PairedPieces(self.first[chosen], self.other[chosen], self.starts[chosen], self.documents[chosen])


def loss_difference(first: Measured, other: Measured, strata: np.ndarray | None = None) -> Difference:
    """Estimate the difference in nats per token, of models with the same tokenizer.

    `strata` as `Windows.strata` gives them, where both have the same windows.
    """
    pieces = paired(first, other)
    columns = [NATS, TOKENS]
    return _difference(pieces.first[:, columns], pieces.other[:, columns], pieces.documents, strata)


def bits_difference(first: Measured, other: Measured, same_tokenizer: bool = True) -> Difference:
    """Estimate the difference in bits per byte; with different tokenizers, of the same documents."""
    return bits_of(paired(first, other, same_tokenizer))


def bits_of(pieces: PairedPieces) -> Difference:
    """Estimate the difference in bits per byte of what two models made of the same pieces."""
    columns, scale = [NATS, BYTES], np.array([1 / math.log(2), 1.0])
    return _difference(pieces.first[:, columns] * scale, pieces.other[:, columns] * scale, pieces.documents)


def _difference(
    first: np.ndarray, other: np.ndarray, documents: np.ndarray, strata: np.ndarray | None = None
) -> Difference:
    """Estimate the difference of the ratios of the columns' sums, (P, 2) each."""
    (one, one_errors), (two, two_errors) = ratio_errors(*first.T), ratio_errors(*other.T)
    counted = (first[:, 1] + other[:, 1]) / 2
    return Difference(two - one, spread(within(strata, two_errors - one_errors, counted), counted, documents))


def paired(first: Measured, other: Measured, same_tokenizer: bool = True) -> PairedPieces:
    """Pair what two models made of the same text: where pieces of both begin, or document by document.

    Raises InputError if they did not predict the same.
    """
    return _same_pieces(first, other) if same_tokenizer else _same_documents(first, other)


def _same_pieces(first: Measured, other: Measured) -> PairedPieces:
    """Cut the text where pieces of both begin, as models of different contexts have different ones.

    Raises InputError if they do not predict the same tokens.
    """
    cuts = np.intersect1d(first.windows.starts, other.windows.starts)
    parts = []
    for measured in (first, other):
        places = np.searchsorted(measured.windows.starts, cuts)
        parts.append(np.add.reduceat(measured.sums, places))
    if not np.array_equal(parts[0][:, TOKENS:], parts[1][:, TOKENS:]):
        raise InputError("models of different contexts predict different tokens of a part: leave `tokens` out")
    return PairedPieces(*parts, cuts, first.windows.documents[np.searchsorted(first.windows.starts, cuts)])


def _same_documents(first: Measured, other: Measured) -> PairedPieces:
    """Take each document as one piece. Raises InputError if they are not the same text.

    Of the first one each tokenizer leaves its own first token out, which nothing predicts.
    """
    sums = []
    for measured in (first, other):
        begins = np.flatnonzero(np.diff(measured.windows.documents, prepend=-1))
        sums.append(np.add.reduceat(measured.sums, begins))
    if len(sums[0]) != len(sums[1]) or not np.array_equal(sums[0][1:, BYTES], sums[1][1:, BYTES]):
        raise InputError(
            "the two tokenizers do not spell the same documents; compare the runs on data that both can encode"
        )
    starts = first.windows.starts[np.flatnonzero(np.diff(first.windows.documents, prepend=-1))]
    return PairedPieces(*sums, starts, np.arange(len(sums[0])))


def encoded_anew(split: Split, before: Tokenizer, tokenizer: Tokenizer) -> Split:
    """Encode the same documents with another tokenizer, in memory. Raises InputError for what it cannot encode."""
    ids = split.read(0, split.tokens)
    ends = np.flatnonzero(ids == before.end_of_text)
    documents = [part[1:] if number else part for number, part in enumerate(np.split(ids, ends))]
    encoded = tokenizer.encode_batch([before.decode(document.tolist()) for document in documents], threads=1)
    separator = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    parts = [[*(separator if number else []), *new] for number, new in enumerate(encoded)]
    return MemorySplit(split.name, np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]))
