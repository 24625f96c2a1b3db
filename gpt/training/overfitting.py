"""When a model begins to learn its text by heart: what it has seen becomes likelier, and nothing else."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from gpt.errors import InputError
from gpt.tracking.jsonl import Record, read_metrics

if TYPE_CHECKING:
    from gpt.training.trainer import Trainer

RISE = 0.05  # nats above the best validation loss that are no chance; the same weights give the same loss
LAST = 10  # records of metrics.jsonl whose training losses are averaged


@dataclass
class OverfittingWatch:
    """Hears of every step, and says once that validation rises while the training loss falls. Part of a checkpoint."""

    said: bool = False
    total: float = 0.0  # of the training losses since the last evaluation
    count: int = 0
    best: float | None = None  # validation loss
    at_best: float | None = None  # the training loss on the way to it

    def hear(self, record: Record) -> str | None:
        """Take a step's record; a warning where the evaluation in it shows what is to be warned of."""
        if record["train_loss"] is not None:
            self.total, self.count = self.total + record["train_loss"], self.count + 1
        validation = record.get("val_loss")
        if validation is None or not math.isfinite(validation) or not self.count:
            return None
        training = self.total / self.count
        self.total, self.count = 0.0, 0
        if self.best is None or self.at_best is None or validation < self.best:
            self.best, self.at_best = validation, training
        elif not self.said and validation > self.best + RISE and training < min(self.at_best, validation):
            self.said = True
            return (
                f"step {record['step']:,}: it has begun to learn the text by heart: validation is {validation:.4f}, "
                f"above its best of {self.best:.4f}, while training fell to {training:.4f}; the best is kept"
            )
        return None


def _last_training_losses(run: Path) -> list[float]:
    """Those of the last records; none where they cannot be read, which is no reason for a training not to end well."""
    try:
        return [r["train_loss"] for r in read_metrics(run)[-LAST:] if r["train_loss"] is not None]
    except (InputError, OSError):
        return []


def overfitted(trainer: "Trainer", best: dict[str, Any]) -> str | None:
    """In words, whether the last weights are worse than the best, whose state is given, or both no better than guesses.

    None where neither is so.
    """
    if best["evaluation"] is None:
        return None
    loss, step, last = best["evaluation"]["loss"], best["step"], trainer.last_loss
    guessing = math.log(trainer.config.model.vocab_size)
    if loss >= guessing:
        return f"nothing was learned that holds for new text: to guess among all tokens alike gives {guessing:.4f}"
    if last is None or last <= loss + RISE:
        return None
    seen = _last_training_losses(trainer.run)
    trained = f", the training loss {fmean(seen):.4f}" if seen else ""
    return (
        f"yes: validation ended at {last:.4f}{trained}; the best, {loss:.4f}, was at step {step:,}, which is what "
        "sample.py uses. Train for fewer epochs, or on more text"
    )
