"""How well a model predicts text: loss, bits per byte and perplexity over a complete split, with standard errors."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpt.config import IGNORED
from gpt.device import autocast
from gpt.model.transformer import GPT
from gpt.tokens.loader import consecutive_windows, read_windows
from gpt.tokens.shards import Split


@dataclass(frozen=True)
class Evaluation:
    """Result on a split. Each `_se` is the standard error of the figure before it."""

    loss: float
    """Nats per token."""
    loss_se: float
    bits_per_byte: float
    """Bits per byte of UTF-8 text: comparable between tokenizers."""
    bits_per_byte_se: float
    perplexity: float
    perplexity_se: float
    tokens: int
    text_bytes: int


def evaluate(
    model: GPT,
    split: Split,
    byte_lengths: np.ndarray,
    device: str,
    dtype: torch.dtype = torch.float32,
    batch: int = 8,
) -> Evaluation:
    """Predict every token of a split but the first, in consecutive windows of the model's context.

    `byte_lengths` is (V,), from `Tokenizer.byte_lengths`.
    The model is left in the mode (training or evaluation) it was in.
    """
    sums = window_sums(model, split, byte_lengths, device, dtype, batch)
    assert sums is not None
    return summarize(sums)


@torch.no_grad()  # not inference_mode: the weights that fully_shard gathers in it could not be trained on afterwards
def window_sums(
    model: GPT,
    split: Split,
    byte_lengths: np.ndarray,
    device: str,
    dtype: torch.dtype,
    batch: int,
    part: tuple[int, int] = (0, 1),
    stop: Callable[[], bool] = lambda: False,
) -> Tensor | None:
    """Nats, targets and bytes of text of each of the W consecutive windows: (W, 3) float64, for `summarize`.

    Of several processes, each asks for its `part` (number, of how many); the windows of the others are zeros, so that
    the results are to be added. All make the same number of forward passes. None if `stop()`, asked between them.
    """
    lengths = torch.from_numpy(byte_lengths)
    number, parts = part
    windows = consecutive_windows(split, model.config.context)
    sums = torch.zeros(windows, 3, dtype=torch.float64)
    was_training = model.training
    model.eval()
    stopped = False
    for first in range(0, windows, batch * parts):
        if stopped := stop():
            break
        own = range(windows)[first + number * batch :][:batch]
        inputs, targets = read_windows(split, model.config.context, own or range(1))
        with autocast(device, dtype):
            losses = model(inputs.to(device), targets=targets.to(device), reduction="none")
        losses = losses.cpu().double()  # (B, T), zero where ignored
        counted = targets != IGNORED
        text_bytes = lengths[targets.clamp(min=0)] * counted
        if own:
            sums[own.start : own.stop] = torch.stack([losses.sum(1), counted.sum(1), text_bytes.sum(1)], dim=1)
    model.train(was_training)
    return None if stopped else sums


def summarize(sums: Tensor) -> Evaluation:
    """The figures from the sums of each window, (W, 3) float64 as `window_sums` gives them.

    Tokens of one window are not independent, so the window is the unit of the standard error: that of a ratio
    of sums, √(Σ(nᵢ − r·mᵢ)² · W/(W − 1)) / Σm (Cochran 1977, Sampling Techniques, equation 2.39).
    """
    nats, tokens, text_bytes = sums.numpy().T
    loss, loss_se = _ratio(nats, tokens)
    bits, bits_se = _ratio(nats / math.log(2), text_bytes)
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return Evaluation(
        loss, loss_se, bits, bits_se, perplexity, perplexity * loss_se, int(tokens.sum()), int(text_bytes.sum())
    )


def _ratio(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float]:
    total, windows = denominators.sum(), len(numerators)
    if total == 0:
        return math.nan, math.nan
    ratio = numerators.sum() / total
    if windows < 2:
        return float(ratio), math.nan
    residuals = numerators - ratio * denominators
    return float(ratio), float(math.sqrt((residuals**2).sum() * windows / (windows - 1)) / total)


def evaluation_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The figures of an evaluation in words, each with its standard error."""
    return [
        ("validation loss", f"{evaluation.loss:.4f} ± {evaluation.loss_se:.4f} nats per token"),
        ("bits per byte", f"{evaluation.bits_per_byte:.4f} ± {evaluation.bits_per_byte_se:.4f}"),
        ("perplexity", f"{evaluation.perplexity:.2f} ± {evaluation.perplexity_se:.2f}"),
        ("evaluated on", f"{evaluation.tokens:,} tokens, {evaluation.text_bytes:,} bytes: the whole validation split"),
    ]
