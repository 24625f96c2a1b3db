"""What is reached on a validation split without a network: what the loss of a training is to be held beside.

N-gram models of the training split's tokens, and xz, which compresses the validation text behind training text. Both
take a part of a large split, which is said.
"""

import json
import lzma
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpt.dataset.dataset import Dataset
from gpt.errors import InputError
from gpt.evaluation.ngram_model import NgramCounts
from gpt.evaluation.windows import Windows
from gpt.files import read_json, write_whole
from gpt.text.tokenizer import Tokenizer

FILE = "baselines.json"  # in a run
ORDERS = {"unigrams": 1, "bigrams": 2, "5-grams": 5}  # of tokens, smoothed as Kneser and Ney do
XZ = "xz"
MOST_TRAINING, MOST_PREDICTED = 4_000_000, 500_000  # tokens
MOST_COMPRESSED = 2_000_000  # bytes of training text: the window of xz, in its usual setting, is of 8 MiB


@dataclass(frozen=True)
class Baselines:
    """What each baseline reaches, the worst first, and of how much text."""

    bits_per_byte: dict[str, float]
    """Of the text of the tokens that are predicted, by name."""
    bytes_per_token: float
    """Of those, on average."""
    training_tokens: int
    """That n-grams were counted in, from the beginning of the training split."""
    split_tokens: int
    """Of the training split."""
    compressed_bytes: int
    """Of training text before the validation text that xz compresses."""
    dataset: str
    """The fingerprint of the data."""

    def nats_per_token(self, bits: float) -> float:
        """Give so many bits per byte as a loss."""
        return bits * math.log(2) * self.bytes_per_token

    @property
    def protocol(self) -> str:
        """Say what the baselines are made of."""
        known = "the" if self.training_tokens == self.split_tokens else f"the first {self.training_tokens:,}"
        return (
            f"n-grams of tokens, Kneser–Ney, counted in {known} training tokens; "
            f"xz with {self.compressed_bytes / 1e6:.3g} MB of training text before"
        )


def measure_baselines(dataset: Dataset, windows: Windows) -> Baselines:
    """Measure the baselines on what windows of the validation split predict, or on some of them, spread evenly.

    Raises InputError where that cannot be: of a mixture, of answers alone, of text without bytes, and of a training
    split that is shorter than five tokens.
    """
    return Measuring(dataset).measure(windows)


class Measuring:
    """Measures baselines of a dataset: what it finds of the training split, and sizes of texts, serves each time."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self._sizes = dataset, dict[bytes, int]()  # of compressed texts

    def measure(self, windows: Windows) -> Baselines:
        """Do what `measure_baselines` says."""
        dataset, tokenizer = self.dataset, self.dataset.tokenizer
        if len(dataset.sources) > 1 or windows.answers_only:
            raise InputError(f"{dataset.path}: baselines are of one dataset of plain text")
        training = self._training
        ids, predicted = _joined(windows)
        text_bytes = int(tokenizer.byte_lengths()[ids[predicted]].sum())
        if not text_bytes:
            raise InputError(f"{dataset.path}: its validation split has no text")
        before = _text(tokenizer, training[-MOST_COMPRESSED:])[-MOST_COMPRESSED:]  # a token has a byte or more
        with ThreadPoolExecutor(2) as threads:  # which work beside this one
            sizes = threads.map(self._size, [before, before + _text(tokenizer, ids[predicted])])
            bits = {
                name: float(-np.log2(self._grams.probabilities(ids, order)[predicted]).sum())
                for name, order in ORDERS.items()
            }
            alone, both = sizes
        bits[XZ] = 8 * max(0, both - alone)
        found = {name: value / text_bytes for name, value in bits.items()}
        ordered = dict(sorted(found.items(), key=lambda item: -item[1]))
        per_token = text_bytes / int(predicted.sum())
        known = dataset.train.tokens
        return Baselines(ordered, per_token, len(training), known, len(before), dataset.fingerprint)

    @cached_property
    def _training(self) -> np.ndarray:
        count = min(self.dataset.train.tokens, MOST_TRAINING)
        if count < max(ORDERS.values()):
            raise InputError(f"{self.dataset.path}: its training split is too short to count n-grams in")
        return self.dataset.train.read(0, count)

    @cached_property
    def _grams(self) -> NgramCounts:
        return NgramCounts(self._training, self.dataset.tokenizer.vocab_size, max(ORDERS.values()))

    def _size(self, text: bytes) -> int:
        if text not in self._sizes:
            self._sizes[text] = _compressed_size(text)
        return self._sizes[text]


def _joined(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Read what windows predict, behind the ids of which n-grams go on: ids, (Q,), and which of them is predicted."""
    share = min(1.0, MOST_PREDICTED / max(1, windows.targets))
    chosen = np.arange(max(1, int(share * len(windows)))) * len(windows) // max(1, int(share * len(windows)))
    parts, marks = [], []
    for first, last in zip(windows.firsts[chosen].tolist(), windows.lasts[chosen].tolist(), strict=True):
        begin = max(0, first - max(ORDERS.values()) + 1)
        parts.append(windows.split.read(begin, last - begin + 1))
        marks.append(np.arange(begin, last + 1) >= first)
    return np.concatenate(parts), np.concatenate(marks)


def _text(tokenizer: Tokenizer, ids: np.ndarray) -> bytes:
    spelled = [*tokenizer.ranks, *[b""] * len(tokenizer.special_tokens)]
    return b"".join(map(spelled.__getitem__, ids.tolist()))


def _compressed_size(text: bytes) -> int:
    return len(lzma.compress(text))


# ---- in a run ----


def write_baselines(run: Path, baselines: Baselines) -> None:
    write_whole(run / FILE, json.dumps(asdict(baselines), indent=1) + "\n")


def read_baselines(run: Path, fingerprint: str | None = None) -> Baselines | None:
    """Read a run's baselines; None where there are none, or none of the data with this fingerprint."""
    try:
        found = Baselines(**read_json(run / FILE))
    except (InputError, TypeError):
        return None
    return found if fingerprint in (None, found.dataset) else None


def baseline_words(baselines: Baselines, records: list[dict[str, Any]]) -> Iterator[str]:
    """Say of each baseline how many bits per byte it reaches, and which evaluation was the first that was better."""
    for name, bits, step in passed(baselines, records):
        when = "not passed" if step is None else f"passed by step {step:,}" if step else "passed before the first step"
        yield f"{name} {bits:.4f} ({when})"


def passed(baselines: Baselines, records: list[dict[str, Any]]) -> Iterator[tuple[str, float, int | None]]:
    """Yield each baseline's name, its bits per byte, and the first evaluated step that was better, if one was."""
    evaluated = [(record["step"], record.get("val_bits_per_byte")) for record in records if "val_loss" in record]
    for name, bits in baselines.bits_per_byte.items():
        steps = [step for step, reached in evaluated if reached is not None and reached < bits]
        yield name, bits, steps[0] if steps else None
