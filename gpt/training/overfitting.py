"""When a model begins to learn its text by heart: what it has seen becomes likelier, and nothing else."""

import math
from dataclasses import dataclass

from gpt.tracking.jsonl import Record

RISE = 0.05  # nats above the best validation loss that are no chance; the same weights give the same loss


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
