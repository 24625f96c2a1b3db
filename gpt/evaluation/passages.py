"""What a model makes of passages: the loss on them, and whether it would go on with their second halves by itself.

1. A split is cut into passages of 100 tokens, of which at most so many are chosen, spread evenly.
2. The model reads each once. From what it gives to each next token follow the loss, whether the second half is what it
   finds likeliest after the first, token by token, and how likely it is drawn: nothing is generated.
3. Of a short text, or a model of a short context, passages are shorter, so that there are enough of them.
4. Of text with masks, such as conversations, only what is learned counts, in the loss as in second halves.

The measure is that of Carlini et al. 2022 (arXiv 2202.07646), with 50 tokens of prompt and 50 to come; its probability
is that of Hayes et al. 2024 (arXiv 2410.19482).

Letters in shapes: W passages, B of them at a time, P pieces of text (see `Windows`), T tokens, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt.choices import IGNORE_INDEX
from gpt.dataset.dataset import Dataset
from gpt.dataset.shards import Split
from gpt.device import autocast, choose_dtype
from gpt.errors import require
from gpt.evaluation.compare import Measured
from gpt.evaluation.statistics import FEWEST_PIECES
from gpt.evaluation.windows import Windows
from gpt.model.loss import chunk_rows, precise, require_finite
from gpt.model.transformer import GPT

LENGTH, SHORTEST = 100, 20  # tokens of a passage; shorter ones, of a short text, come out by chance
LEAST_LEARNED = SHORTEST // 2  # tokens of a second half: fewer come out by chance
MOST = 1000  # passages of a split
BATCH_TOKENS = 8192
DrawLogprob = Callable[[Tensor, Tensor], float]  # of logits (T, V) and ids (T,): how likely these are drawn from those


@dataclass(frozen=True)
class PassageScores:
    """What a model made of the passages of a split."""

    measured: Measured
    """Its losses."""
    verbatim: np.ndarray
    """Of each whole passage of which enough is learned, whether its second half is what the model finds likeliest,
    as far as it is learned, (W,) bool."""
    logprobs: np.ndarray
    """How likely that half is drawn, (W,) float64 natural logarithms; −∞ for never."""

    @property
    def loss(self) -> float:
        """Nats per token."""
        nats, tokens, _ = self.measured.sums.sum(axis=0)
        return float(nats / tokens)


class Passages:
    """The passages of a dataset's two splits, of the same length, and how models read them."""

    def __init__(
        self,
        dataset: Dataset,
        context_length: int,
        device: str,
        drawn: DrawLogprob,
        most: int = MOST,
        document_mask: bool = False,
    ) -> None:
        """Choose at most `most` passages of each split, for models of at least this context.

        With `document_mask`, a token sees what is before it in its document alone. Raises InputError for fewer than one
        passage, for a split of fewer than two tokens, and where nothing of a split is learned.
        """
        require(most >= 1, "`passages`", most, "at least 1")
        for split in (dataset.train, dataset.validation):
            require(split.tokens > 1, f"the number of tokens of the {split.name} split", split.tokens, "at least 2")
        self.length = passage_length((dataset.train, dataset.validation), context_length)
        self.device, self.drawn, self.byte_lengths = device, drawn, dataset.tokenizer.byte_lengths()
        steps, end = self.length - 1, dataset.tokenizer.end_of_text
        self.train, self.validation = (
            Windows(split, steps, end, tokens=most * steps, document_mask=document_mask)
            for split in (dataset.train, dataset.validation)
        )
        for windows in (self.train, self.validation):
            windows.require_targets("passages", "passages")

    @property
    def suffix(self) -> int:
        """Tokens of the second half of a passage; the first has as many, or one less."""
        return self.length - self.length // 2

    def read(self, model: GPT | None, windows: Windows) -> PassageScores:
        """Read the passages of a split with a model in evaluation mode.

        Without a model, all tokens are equally likely: the base of what began with random weights.
        """
        if model is None:
            return _uniform(windows, self.byte_lengths, self.suffix)
        return _read(model, windows, self.byte_lengths, self.suffix, self.device, self.drawn)

    @property
    def by_frequency(self) -> Measured:
        """Predict validation text by how often each token occurs in the passages of training text, and by nothing else.

        The least that a model learns. What does not occur there shares the chance of all that occurs for the first time
        (Witten and Bell 1991, method C).
        """
        counts = np.zeros(len(self.byte_lengths))
        for _, targets, _ in _batches(self.train):
            counts += np.bincount(targets[targets != IGNORE_INDEX].numpy(), minlength=len(counts))
        new = np.count_nonzero(counts)
        return _guessed(
            self.validation, self.byte_lengths, -np.log((counts + new / len(counts)) / (counts.sum() + new))
        )


def passage_length(splits: tuple[Split, Split], context_length: int) -> int:
    """Choose how many tokens a passage has, so that the shorter split has enough of them for an error."""
    shortest = min(split.tokens for split in splits)
    return min(LENGTH, context_length + 1, shortest, max(SHORTEST, shortest // FEWEST_PIECES))


def _read(
    model: GPT, passages: Windows, byte_lengths: np.ndarray, suffix: int, device: str, drawn: DrawLogprob
) -> PassageScores:
    """Read passages. Raises InputError if the model's logits are not finite, or a shard cannot be read."""
    sums = np.zeros((len(passages.documents), 3))
    verbatim, logprobs = [], []
    batch = max(1, min(BATCH_TOKENS, chunk_rows(model.config.vocab_size, device)) // passages.context_length)
    for first in range(0, len(passages), batch):
        chosen = range(len(passages))[first : first + batch]
        inputs, targets, pieces = passages.read(chosen)
        logits = _logits(model, inputs.to(device), passages, device)  # (B, T, V)
        counted = targets != IGNORE_INDEX
        losses = F.cross_entropy(logits[counted.to(device)], targets[counted].to(device), reduction="none")
        _add(sums, losses.cpu().double().numpy(), targets, pieces, byte_lengths)
        for row, learned in _second_halves(targets, _are_whole(passages)[first : first + batch], suffix):
            ids = targets[row, -suffix:][learned]
            second = logits[row, -suffix:, : len(byte_lengths)][learned.to(device)]
            verbatim.append(bool((second.argmax(dim=-1).cpu() == ids).all()))
            logprobs.append(drawn(second, ids.to(device)))
    return PassageScores(Measured(sums, passages), np.array(verbatim, dtype=bool), np.array(logprobs, dtype=np.float64))


@torch.no_grad()
def _logits(model: GPT, inputs: Tensor, passages: Windows, device: str) -> Tensor:
    with autocast(device, choose_dtype("auto", device)):
        logits = precise(model.head(model.hidden_states(inputs, documents=passages.masked(inputs))))
    require_finite(logits.flatten(0, 1))
    return logits


def _are_whole(passages: Windows) -> np.ndarray:
    """Tell which passages are as long as the others, (W,) bool: all but perhaps the last one of the split."""
    return passages.lasts - passages.begins == passages.context_length


def _add(sums: np.ndarray, nats: np.ndarray, targets: Tensor, pieces: np.ndarray, byte_lengths: np.ndarray) -> None:
    """Add the nats, tokens and bytes of the targets that count to those of their pieces, (P, 3)."""
    counted = (targets != IGNORE_INDEX).numpy()
    aims, of = targets.numpy()[counted], pieces[counted]
    for column, values in enumerate((nats, np.ones(len(aims)), byte_lengths[aims])):
        np.add.at(sums[:, column], of, values)


def _second_halves(targets: Tensor, whole: np.ndarray, suffix: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the rows of targets (B, T) whose second half is asked for, with what of it is learned, (suffix,) bool."""
    for row in np.flatnonzero(whole).tolist():
        learned = targets[row, -suffix:] != IGNORE_INDEX
        if learned.sum() >= min(LEAST_LEARNED, suffix):
            yield row, learned


def _batches(passages: Windows) -> Iterator[tuple[int, Tensor, np.ndarray]]:
    """Yield targets and pieces of some passages at a time, with the number of the first of them."""
    for first in range(0, len(passages), BATCH_TOKENS // LENGTH):
        _, targets, pieces = passages.read(range(len(passages))[first : first + BATCH_TOKENS // LENGTH])
        yield first, targets, pieces


def _guessed(passages: Windows, byte_lengths: np.ndarray, nats: np.ndarray) -> Measured:
    """Give each token the same loss wherever it stands, (V,) nats."""
    sums = np.zeros((len(passages.documents), 3))
    for _, targets, pieces in _batches(passages):
        _add(sums, nats[targets[targets != IGNORE_INDEX].numpy()], targets, pieces, byte_lengths)
    return Measured(sums, passages)


def _uniform(passages: Windows, byte_lengths: np.ndarray, suffix: int) -> PassageScores:
    nats, whole = math.log(len(byte_lengths)), _are_whole(passages)
    counts = [
        int(learned.sum())
        for first, targets, _ in _batches(passages)
        for _, learned in _second_halves(targets, whole[first : first + len(targets)], suffix)
    ]
    measured = _guessed(passages, byte_lengths, np.full(len(byte_lengths), nats))
    return PassageScores(measured, np.zeros(len(counts), dtype=bool), -nats * np.array(counts))
