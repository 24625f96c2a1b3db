"""The picture of a run's losses."""

import math
from pathlib import Path

from gpt.runs.directory import PICTURE
from gpt.tracking.jsonl import read_metrics


def draw_losses(run: Path) -> Path:
    """Write loss.png: the training loss, and the validation loss with two standard errors, over the steps."""
    import matplotlib

    matplotlib.use("Agg")  # a picture in a file needs no screen
    from matplotlib import pyplot

    records = read_metrics(run)
    evaluated = [record for record in records if "val_loss" in record]
    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120)
    axes.plot(
        [r["step"] for r in records],
        [math.nan if r["train_loss"] is None else r["train_loss"] for r in records],  # a gap where a batch was skipped
        color="#9db7d5",
        linewidth=1,
        label="training batch",
    )
    axes.errorbar(
        [r["step"] for r in evaluated],
        [math.nan if r["val_loss"] is None else r["val_loss"] for r in evaluated],
        yerr=[r.get("val_loss_ci95") or 0 for r in evaluated],
        color="#c44e52",
        marker="o",
        markersize=4,
        capsize=3,
        label="validation (95 % interval)",
    )
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.set_title(run.name, parse_math=False)  # two dollars in a name are no formula
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(run / PICTURE)
    pyplot.close(figure)
    return run / PICTURE
