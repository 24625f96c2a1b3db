"""The figures of evaluations in words."""

import math
from typing import Any

from gpt.evaluation.compare import Difference
from gpt.evaluation.loss import Evaluation

Row = tuple[str, str]
Interval = tuple[float, float]


def format_evaluation(evaluation: Evaluation, precision: str = "", what: str = "validation split") -> list[Row]:
    """Format the figures of an evaluation, each with its standard error and 95 % interval, and how they were made.

    `what` was evaluated on: 'validation split' or 'text'.
    """
    e = evaluation
    losses = around(e.loss, e.loss_se, e.factor)
    shown = f"the whole {what}"
    if e.split_tokens and e.tokens < e.split_tokens - 1:
        shown = f"{e.tokens / (e.split_tokens - 1):.1%} of the {what}, spread evenly"
    rows = [
        (f"{what.partition(' ')[0]} loss", figure(f"{e.loss:.4f}", e.loss_se, losses, 4, " nats per token")),
        ("bits per byte", bits_words(e)),
        ("perplexity", figure(f"{e.perplexity:.2f}", e.perplexity_se, tuple(math.exp(min(700, x)) for x in losses), 2)),
        ("evaluated on", f"{e.tokens:,} tokens, {e.text_bytes:,} bytes: {shown}"),
    ]
    if e.context_length:
        protocol = f"context {e.context_length:,}, stride {e.stride:,}" + e.document_mask * ", inside documents"
        protocol += ", answers only" if e.answers_only else f", answers only of {e.answers_of}" if e.answers_of else ""
        rows.append(("protocol", f"{protocol}, {precision}" if precision else protocol))
    if e.units:
        rows.append(("standard errors", f"of {e.units}, taken as independent"))
    return rows


def source_rows(record: dict[str, Any]) -> list[Row]:
    """Format the losses on each source of a mixture, and how often it was read, from the record of an evaluation."""
    rows = []
    for name in (key.partition("/")[2] for key in record if key.startswith("val_loss/")):
        loss, error, half = (record.get(f"val_loss{kind}/{name}") for kind in ("", "_se", "_ci95"))
        if loss is not None:
            words = figure(f"{loss:.4f}", error, (loss - (half or 0), loss + (half or 0)), 4, " nats per token")
            trained = record.get(f"train_loss/{name}")  # None where the step had no target of it
            words += "" if trained is None else f"; {trained:.4f} in the training batch"
            rows.append((f"on {name}", f"{words}; read {record.get(f'epoch/{name}', math.nan):.3g} times"))
    return rows


def bits_words(e: Evaluation) -> str:
    interval = around(e.bits_per_byte, e.bits_per_byte_se, e.factor)
    return figure(f"{e.bits_per_byte:.4f}", e.bits_per_byte_se, interval, 4)


def difference_rows(differences: dict[str, Difference], first: str) -> list[Row]:
    """Format how far a model is from the first one."""
    return [
        ("difference", f"{difference_words(found, name)}: {found.verdict} {first}")
        for name, found in differences.items()
    ]


def difference_words(found: Difference, name: str) -> str:
    """Format a difference with its error, in the unit of the figure called so."""
    units = {"loss": "nats per token", "bits_per_byte": "bits per byte"}
    interval = (found.value - found.half_width, found.value + found.half_width)
    return figure(f"{found.value:+.4f}", found.standard_error, interval, 4, f" {units[name]}")


def around(value: float, error: float | None, factor: float) -> Interval:
    """Return the interval of so many standard errors on either side."""
    return value - factor * (error or 0.0), value + factor * (error or 0.0)


def figure(value: str, error: float | None, interval: tuple[float, ...], digits: int, unit: str = "") -> str:
    """Format a figure with its standard error and 95 % interval, or say that there is too little text for them."""
    if not math.isfinite(float(value)):
        return f"{value}{unit}"
    if error is None:
        return f"{value}{unit} (too little text for a standard error)"
    low, high = interval
    return f"{value} ± {error:.{digits}f}{unit} (95 %: {low:.{digits}f} to {high:.{digits}f})"
