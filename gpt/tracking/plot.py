"""The picture of a run's losses."""

import io
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt.evaluation.baselines import Baselines, baseline_words, read_baselines
from gpt.runs.directory import PICTURE
from gpt.tracking.jsonl import Metrics, read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_losses(run: Path) -> Path:
    """Write loss.png: see `loss_figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # without pyplot, which looks for a screen

    canvas = FigureCanvasAgg(loss_figure(run))
    partial = run / f".{PICTURE}.partial"  # a viewer never sees half of it
    try:
        canvas.print_png(partial)  # savefig would lay all out once more
        partial.replace(run / PICTURE)
    finally:
        partial.unlink(missing_ok=True)
    return run / PICTURE


def loss_figure(run: Path) -> "Figure":
    """Draw the training loss, and the validation loss with its 95 % interval, over the steps of a run.

    Where it was measured, also the loss on the training split, and what is reached without a network, by lines and in
    words; of a mixture, the losses of batches and of validation on each source, in one color.
    """
    from matplotlib.figure import Figure  # which needs no pyplot, and no screen

    class ShownFigure(Figure):
        """Shown by a notebook that has not loaded pyplot as well."""

        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png")
            return content.getvalue()

    records = read_metrics(run)
    evaluated = [record for record in records if "val_loss" in record]
    figure = ShownFigure(figsize=(7, 4), dpi=120)
    axes = figure.subplots()
    axes.plot(*_line(records, "train_loss"), color="#9db7d5", linewidth=1, label="training batch")
    axes.errorbar(
        *_line(evaluated, "val_loss"),
        yerr=[r.get("val_loss_ci95") or 0 for r in evaluated],
        color="#c44e52",
        marker="o",
        markersize=4,
        capsize=3,
        label="validation (95 % interval)",
    )
    if measured := [record for record in records if record.get("train_split_loss") is not None]:
        axes.plot(
            *_line(measured, "train_split_loss"), color="#55a868", marker="s", markersize=4, label="training split"
        )
    sources = dict.fromkeys(name for record in evaluated for name in record if name.startswith("val_loss/"))
    for name in sources:  # of a mixture
        source = name.partition("/")[2]
        (line,) = axes.plot(*_line(evaluated, name), linewidth=1, marker=".", label=f"on {source}")
        batches = _line(records, f"train_loss/{source}")
        axes.plot(*batches, color=line.get_color(), linewidth=0.7, alpha=0.5, label=f"training batch, {source}")
    if baselines := read_baselines(run):
        _draw_baselines(figure, baselines, records)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.set_title(run.name, parse_math=False)  # two dollars in a name are no formula
    axes.grid(alpha=0.3)
    for text in axes.legend().get_texts():
        text.set_parse_math(False)
    figure.tight_layout()
    return figure


def _draw_baselines(figure: "Figure", baselines: Baselines, records: list[Metrics]) -> None:
    """Draw what is reached without a network, as far as that lies in the picture, and write all of it below."""
    (axes,), scale = figure.axes, baselines.nats_per_token(1.0)
    both_ways = partial(np.multiply, 1 / scale), partial(np.multiply, scale)
    axes.secondary_yaxis("right", functions=both_ways).set_ylabel("bits per byte")
    low, high = axes.get_ylim()
    for name, bits in baselines.bits_per_byte.items():
        loss = baselines.nats_per_token(bits)
        if low < loss < high:
            axes.axhline(loss, color="#888888", linewidth=0.8, linestyle=":")
            axes.annotate(name, (1, loss), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    words = [*baseline_words(baselines, records)]
    lines = (", ".join(some) for some in (words[:2], words[2:]) if some)
    figure.supxlabel("bits per byte without a network: " + ",\n".join(lines), fontsize=7)


def _line(records: list[Metrics], figure: str) -> tuple[list[int], list[float]]:
    """Give the steps of some records, and a figure at each; a gap where there is none, as where a batch was skipped."""
    return [r["step"] for r in records], [math.nan if r.get(figure) is None else r[figure] for r in records]
