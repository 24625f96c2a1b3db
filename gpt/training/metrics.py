"""What a run reports: metrics.jsonl, Weights & Biases, and the picture of its losses."""

import json
from pathlib import Path
from typing import Any

from gpt.config import Config, to_dict
from gpt.errors import InputError
from gpt.run import METRICS, PICTURE

Record = dict[str, Any]


class MetricsFile:
    """metrics.jsonl: one JSON object per line, their steps increasing."""

    def __init__(self, run: Path, after_step: int) -> None:
        """Open it to go on after a step: later lines, and one torn by a crash, are removed."""
        self.path = run / METRICS
        kept = [record for record in read_metrics(run) if record["step"] <= after_step]
        partial = run / f".{METRICS}.partial"
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        partial.replace(self.path)
        self._file = open(self.path, "a", encoding="utf-8")

    def write(self, record: Record) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(run: Path) -> list[Record]:
    """The records of a run; a last line that a crash tore is left out."""
    try:
        lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record["step"], record["train_loss"]
            records.append(record)
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                raise InputError(f"{run / METRICS}, line {number}: is no record; repair or remove the line") from None
    return records


class WandbLog:
    """Weights & Biases, imported only when it is wanted, and never left to ask for a login."""

    def __init__(self, config: Config, run: Path, run_id: str | None) -> None:
        """`run_id` goes on with an earlier run; else a new one begins, whose id is then `self.run_id`."""
        self.run_id = run_id
        self._run = None
        if config.wandb == "disabled":
            return
        import wandb

        try:
            self._run = wandb.init(
                project="gpt",
                name=run.name,
                dir=run,
                mode=config.wandb,
                config=to_dict(config),
                id=run_id,
                resume="allow",
            )
        except wandb.Error as error:
            raise InputError(
                f"--wandb {config.wandb}: {error} (log in with `wandb login`, or use --wandb offline)"
            ) from None
        self.run_id = self._run.id

    def write(self, record: Record) -> None:
        if self._run is not None:
            self._run.log({key: value for key, value in record.items() if key != "step"}, step=record["step"])

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


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
        [r["train_loss"] for r in records],
        color="#9db7d5",
        linewidth=1,
        label="training batch",
    )
    axes.errorbar(
        [r["step"] for r in evaluated],
        [r["val_loss"] for r in evaluated],
        yerr=[2 * (r["val_loss_se"] or 0) for r in evaluated],
        color="#c44e52",
        marker="o",
        markersize=4,
        capsize=3,
        label="validation, complete (± 2 standard errors)",
    )
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=run.name)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(run / PICTURE)
    pyplot.close(figure)
    return run / PICTURE
