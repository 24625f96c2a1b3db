"""The figures of an evaluation in words."""

import math

from gpt.evaluation.loss import Evaluation


def evaluation_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The figures of an evaluation in words, each with its standard error and 95 % interval, and how they were made."""
    e, width = evaluation, evaluation.factor * (evaluation.loss_se or 0.0)
    perplexities = (math.exp(min(700, e.loss - width)), math.exp(min(700, e.loss + width)))
    shown = "the whole validation split"
    if e.split_tokens and e.tokens < e.split_tokens - 1:
        shown = f"{e.tokens / (e.split_tokens - 1):.1%} of the validation split, spread evenly"
    rows = [
        ("validation loss", figure(e.loss, e.loss_se, e.factor, 4, " nats per token")),
        ("bits per byte", figure(e.bits_per_byte, e.bits_per_byte_se, e.factor, 4)),
        ("perplexity", figure(e.perplexity, e.perplexity_se, e.factor, 2, interval=perplexities)),
        ("evaluated on", f"{e.tokens:,} tokens, {e.text_bytes:,} bytes: {shown}"),
    ]
    if e.context:
        rows.append(("protocol", f"context {e.context:,}, stride {e.stride:,}"))
    if e.units:
        rows.append(("standard errors", f"of {e.units}, taken as independent"))
    return rows


def figure(
    value: float,
    error: float | None,
    factor: float,
    digits: int,
    unit: str = "",
    interval: tuple[float, float] | None = None,
) -> str:
    """A figure with its standard error and 95 % interval, or the word that there is too little text for them."""
    if error is None:
        return f"{value:.{digits}f}{unit} (too little text for a standard error)"
    low, high = interval or (value - factor * error, value + factor * error)
    return f"{value:.{digits}f} ± {error:.{digits}f}{unit} (95 %: {low:.{digits}f} to {high:.{digits}f})"
