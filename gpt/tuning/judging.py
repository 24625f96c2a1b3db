"""How far two candidates are apart on the validation text: on the half that chooses, and on the half that reports.

1. All candidates predict the same text: the same windows, or, with several vocabularies, the same documents.
2. What is better by chance on the half that chooses is not so on the other one, by which the winner is reported.
3. The error of a difference is that of paired pieces of text; of several seeds, what they differ by is added.

Letters in shapes: P pieces of text.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from gpt.choices import IGNORE_INDEX
from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.dataset.shards import MemorySplit, Split
from gpt.errors import InputError
from gpt.evaluation.compare import BYTES, NATS, TOKENS, Difference, Measured, PairedPieces, bits_of, paired
from gpt.evaluation.statistics import Spread, ratio_errors, spread, student_t
from gpt.evaluation.windows import Windows

Half = Literal["chooses", "reports"]
FEWEST_DOCUMENTS = 16  # however few tokens are asked for
MOST_FREEDOM = 1e6
AT_A_TIME = 64  # windows that are read
NEAR_THE_MIDDLE = 0.1  # of the text: so far from it, it is divided where a document ends


class Judge:
    """Knows what is predicted, and compares what was made of it."""

    def __init__(self, datasets: Sequence[Dataset], config: TrainConfig, tokens: int) -> None:
        """Choose about so many tokens of the validation splits of the same text in several vocabularies, or of one.

        Raises InputError if the splits are not the same documents, or have too little text to tell anything.
        """
        self.alike = len(datasets) == 1
        splits = [datasets[0].validation] if self.alike else same_documents(datasets, tokens)
        self.windows = {
            dataset.path: Windows(
                split,
                config.model.context_length,
                dataset.tokenizer.end_of_text,
                tokens=tokens if self.alike else None,
                document_mask=config.document_mask,
            )
            for dataset, split in zip(datasets, splits, strict=True)
        }
        self._halves: dict[Half, slice] = {}
        self._divide(datasets[0])

    def _divide(self, dataset: Dataset) -> None:
        windows = self.windows[dataset.path]
        windows.require_targets("data")
        sums = text_sums(windows, dataset.tokenizer.byte_lengths())
        pieces = paired(Measured(sums, windows), Measured(sums, windows), self.alike)
        middle = middle_of(pieces.first[:, BYTES], pieces.documents)
        self._halves = {"chooses": slice(0, middle), "reports": slice(middle, None)}
        for half in self._halves.values():
            part = pieces.part(half)
            if spread(np.zeros(len(part.starts)), part.first[:, BYTES], part.documents) is None:
                units = "windows" if self.alike else "documents, by which vocabularies are compared"
                raise InputError(
                    f"{dataset.path}: its validation split has too little text to tell candidates apart: a half of it "
                    f"has {len(part.starts)} {units}; prepare more text, or with a larger `validation_share`"
                )

    def windows_of(self, config: TrainConfig) -> Windows:
        """Give what a candidate predicts."""
        assert isinstance(config.data, Path), "a candidate has one dataset"
        return self.windows[config.data]

    @property
    def tokens(self) -> int:
        """Count the tokens that a candidate predicts, in the first vocabulary."""
        return next(iter(self.windows.values())).targets

    def bits(self, measured: Sequence[Measured], half: Half) -> float:
        """Give the bits per byte of a half, of several seeds on average."""
        parts = [paired(one, one, self.alike).part(self._halves[half]).first for one in measured]
        return float(np.mean([ratio_errors(part[:, NATS] / math.log(2), part[:, BYTES])[0] for part in parts]))

    def difference(self, first: Sequence[Measured], other: Sequence[Measured], half: Half) -> Difference:
        """Estimate by how many bits per byte the other candidate needs more, from as many seeds of both."""
        pairs = [paired(*both, self.alike).part(self._halves[half]) for both in zip(first, other, strict=True)]
        return over_seeds(pairs)


def over_seeds(pairs: Sequence[PairedPieces]) -> Difference:
    """Estimate a difference in bits per byte from several seeds, each paired on the same pieces of text.

    The error of the text is that of the seeds' mean; that of the seeds is how much their differences vary, divided by
    the root of their number. Both add up as variances do, and so do the halves of their 95 % intervals: of three seeds,
    4.3 errors. With degrees of freedom that add up (Welch and Satterthwaite), the interval would cover too seldom, as
    so few seeds are often alike by chance.
    """
    first, other = (np.mean([getattr(pair, name) for pair in pairs], axis=0) for name in ("first", "other"))
    text = bits_of(replace(pairs[0], first=first, other=other))
    if len(pairs) == 1 or text.spread is None:
        return text
    of_seeds = float(np.std([bits_of(pair).value for pair in pairs], ddof=1)) / math.sqrt(len(pairs))
    error = math.hypot(text.spread.standard_error, of_seeds)
    half = math.hypot(text.spread.half_width, of_seeds * student_t(len(pairs) - 1))
    freedom = freedom_of(half / error) if error else text.spread.freedom
    return Difference(text.value, Spread(error, freedom, f"{text.spread.units}, and {len(pairs)} seeds"))


def freedom_of(factor: float) -> float:
    """Find the degrees of freedom with which half a 95 % interval has so many errors: the way back of `student_t`."""
    low, high = 1.0, MOST_FREEDOM
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if student_t(middle) > factor else (low, middle)
    return high


def text_sums(windows: Windows, byte_lengths: np.ndarray) -> np.ndarray:
    """Count targets and bytes of each piece, as an evaluation does, with nothing for its nats: (P, 3)."""
    sums = np.zeros((len(windows.documents), 3))
    for first in range(0, len(windows), AT_A_TIME):
        _, targets, pieces = windows.read(range(len(windows))[first : first + AT_A_TIME])
        aims = targets.numpy()
        counted = aims != IGNORE_INDEX
        np.add.at(sums[:, TOKENS], pieces[counted], 1)
        np.add.at(sums[:, BYTES], pieces[counted], byte_lengths[aims[counted]])
    return sums


def middle_of(sizes: np.ndarray, documents: np.ndarray) -> int:
    """Count the pieces of the first half of a text, of (P,) sizes: it ends with a document, where one ends near it."""
    done = np.cumsum(sizes) / sizes.sum()
    middle = int(np.argmin(np.abs(done - 0.5)))
    ends = np.flatnonzero(np.diff(documents))
    if len(ends):
        near = int(ends[np.argmin(np.abs(done[ends] - 0.5))])
        middle = near if abs(done[near] - 0.5) <= NEAR_THE_MIDDLE else middle
    return middle + 1


def same_documents(datasets: Sequence[Dataset], tokens: int) -> list[Split]:
    """Choose about so many tokens of the documents that validate, the same of each dataset, spread evenly.

    Raises InputError if they are not the same text, or prompts and answers, of which not all is predicted.
    """
    texts = [_documents(dataset) for dataset in datasets]
    sizes = [
        [int(dataset.tokenizer.byte_lengths()[ids].sum()) for ids in text]
        for dataset, text in zip(datasets, texts, strict=True)
    ]
    for dataset, others in zip(datasets[1:], sizes[1:], strict=True):
        if others != sizes[0]:
            raise InputError(
                f"{dataset.path}: its validation split is not the text of {datasets[0].path}; prepare both from the "
                "same files, with no other option than `tokenizer` changed"
            )
    count, most = len(texts[0]), max(sum(map(len, text)) for text in texts)
    chosen = min(count, max(FEWEST_DOCUMENTS, count * tokens // max(1, most)))
    numbers = np.arange(chosen) * count // chosen
    return [
        _joined([text[number] for number in numbers], dataset) for dataset, text in zip(datasets, texts, strict=True)
    ]


def _documents(dataset: Dataset) -> list[np.ndarray]:
    """Read the ids of each document that validates, without the end-of-text between them."""
    if dataset.validation.is_masked:
        raise InputError(
            f"{dataset.path}: is of prompts and answers, whose vocabularies cannot be compared: name one dataset"
        )
    ids = dataset.validation.read(0, dataset.validation.tokens)
    ends = np.flatnonzero(ids == dataset.tokenizer.end_of_text)
    return [part[1:] if number else part for number, part in enumerate(np.split(ids, ends))]


def _joined(documents: list[np.ndarray], dataset: Dataset) -> Split:
    separator = [] if dataset.tokenizer.end_of_text is None else [dataset.tokenizer.end_of_text]
    parts = [np.append(separator if number else [], ids) for number, ids in enumerate(documents)]
    return MemorySplit("validation", np.concatenate(parts).astype(np.int64))
