"""What a step learned from each source of a mixture."""

import math

from torch import Tensor

from gpt.choices import IGNORE_INDEX
from gpt.dataset.loader import Batch
from gpt.distributed.world import World
from gpt.tracking.jsonl import Metrics


def source_losses(batch: Batch, row_losses: Tensor, count: float, world: World) -> Metrics:
    """Make the entries of a step's record, as 'train_loss/code': the mean loss of the targets of each source.

    A batch has this process's rows; `row_losses`, (B,), are what each has of the step's loss, the mean over `count`
    targets of all processes. None for a source without a target in the step, or where the loss is not finite.
    Called by all ranks alike.
    """
    targets = (batch.targets != IGNORE_INDEX).sum(1)
    own = [float(of_rows[rows].double().sum()) for of_rows in (row_losses, targets) for rows in batch.sources.values()]
    found = world.sum(*own)
    losses, counts = found[: len(batch.sources)], found[len(batch.sources) :]
    return {
        f"train_loss/{name}": loss * count / targets if targets and math.isfinite(loss) else None
        for name, loss, targets in zip(batch.sources, losses, counts, strict=True)
    }
