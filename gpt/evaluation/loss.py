"""How well a model predicts text: loss, bits per byte and perplexity over a complete split, with standard errors."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt.device import autocast
from gpt.model.transformer import GPT
from gpt.tokens.loader import IGNORED, sequential_windows
from gpt.tokens.shards import Split


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over the targets that count: (B, T, V) and (B, T) → ().

    A sum, so that micro-batches with different numbers of targets add up to the mean over a whole step.
    """
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


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


@torch.inference_mode()
def evaluate(
    model: GPT,
    split: Split,
    byte_lengths: np.ndarray,
    device: str,
    batch: int = 8,
) -> Evaluation:
    """Predict every token of a split but the first, in consecutive windows of the model's context.

    `byte_lengths` is (V,), from `Tokenizer.byte_lengths`.
    The model is left in the mode (training or evaluation) it was in.
    """
    lengths = torch.from_numpy(byte_lengths)
    nats, tokens, text_bytes = [], [], []  # one number per window
    was_training = model.training
    model.eval()
    for inputs, targets in sequential_windows(split, model.config.context, batch):
        with autocast(device):
            logits = model(inputs.to(device))
        flat = F.cross_entropy(
            logits.float().flatten(0, 1), targets.to(device).flatten(), ignore_index=IGNORED, reduction="none"
        )
        losses = flat.view_as(targets)  # (B, T), zero where ignored
        counted = targets != IGNORED
        nats.append(losses.cpu().double().sum(dim=1))
        tokens.append(counted.sum(dim=1))
        text_bytes.append(lengths[targets.clamp(min=0)].mul(counted).sum(dim=1))
    model.train(was_training)
    return summarize(*(torch.cat(sums).double().numpy() for sums in (nats, tokens, text_bytes)))


def summarize(nats: np.ndarray, tokens: np.ndarray, text_bytes: np.ndarray) -> Evaluation:
    """The figures from sums per window, (W,) float64 each.

    Tokens of one window are not independent, so the window is the unit of the standard error: that of a ratio
    of sums, √(Σ(nᵢ − r·mᵢ)² · W/(W − 1)) / Σm (Cochran 1977, Sampling Techniques, equation 2.39).
    """
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
