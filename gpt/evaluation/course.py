"""How a run went: its losses on training and validation text, and whether a checkpoint is worse than the best."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from gpt.choices import WeightDtype
from gpt.errors import InputError
from gpt.evaluation.compare import loss_difference
from gpt.evaluation.memorization import CourseSource, Point, Rise
from gpt.evaluation.passages import Passages, PassageScores
from gpt.log import log
from gpt.runs.checkpoint import best_state, list_checkpoints, step_of
from gpt.runs.load import LoadedRun, load_run

FEWEST, MOST = 3, 8  # losses of a course, and checkpoints that are read for it


@dataclass(frozen=True)
class _CheckpointScores:
    """What a checkpoint made of the passages."""

    epoch: float | None
    train: PassageScores
    validation: PassageScores


class Course:
    """The checkpoints of a run. Each is read once, when it is first asked for; one model is held at a time."""

    def __init__(self, run: Path, passages: Passages, device: str, dtype: WeightDtype) -> None:
        self._run, self._passages, self._how = run, passages, (device, dtype)
        self._steps = [step_of(path) for path in list_checkpoints(run)]
        self._read: dict[int, _CheckpointScores | None] = {}

    def take(self, loaded: LoadedRun) -> tuple[PassageScores, PassageScores]:
        """Read the passages of training and validation text with a checkpoint that is loaded."""
        passages = self._passages
        train, validation = (passages.read(loaded.model, split) for split in (passages.train, passages.validation))
        record = loaded.state.get("record") or {}
        self._read[loaded.state["step"]] = _CheckpointScores(record.get("epoch"), train, validation)
        return train, validation

    def told(
        self, records: list[dict[str, Any]], began: list[PassageScores] | None = None
    ) -> tuple[list[Point], CourseSource]:
        """Give the losses of the run by the best source that there is: see `CourseSource` and `points`."""
        if alike := measured(records):
            return alike, "training"
        if points := self.points(began):
            return points, "passages"
        return recorded(records), "records"

    def points(self, began: list[PassageScores] | None = None) -> list[Point]:
        """Measure the losses of checkpoints, spread evenly where they are many, after those of what it began with.

        `began`: what that made of training and validation text, if it was read. [] of fewer than three in all.
        """
        first = [Point(0, 0.0, *(scores.loss for scores in began))] if began and 0 not in self._steps else []
        if len(first) + len(self._steps) < FEWEST:
            return []
        numbers = {round(i * (len(self._steps) - 1) / (MOST - 1)) for i in range(MOST)}
        chosen = [(self._steps[number], self._of(self._steps[number])) for number in sorted(numbers)]
        return first + [Point(step, read.epoch, read.train.loss, read.validation.loss) for step, read in chosen if read]

    def rise(self, step: int) -> Rise | None:
        """Compare a checkpoint with the best one before it; or if it is the best itself, the last one with it."""
        state = best_state(self._run)
        best = state["step"] if state else step
        later = self._steps[-1] if best == step else step
        one, two = (self._of(best), self._of(later)) if later > best else (None, None)
        if one is None or two is None:
            return None
        return Rise(best, later, loss_difference(one.validation.measured, two.validation.measured))

    def _of(self, step: int) -> _CheckpointScores | None:
        """Read a checkpoint, unless it was read before; None where it is damaged, which is said."""
        if step not in self._read:
            try:
                self.take(load_run(self._run, *self._how, checkpoint=step))
            except InputError as error:
                log.warning(f"{error}; passed over")
                self._read[step] = None
        return self._read[step]


def measured(records: list[dict[str, Any]]) -> list[Point]:
    """Give the losses that a training measured on both splits alike, once an epoch; [] where it did not."""
    return [
        Point(record["step"], record.get("epoch"), record["train_split_loss"], record["val_loss"])
        for record in records
        if record.get("train_split_loss") is not None and record.get("val_loss") is not None
    ]


def recorded(records: list[dict[str, Any]]) -> list[Point]:
    """Give the losses that a training recorded: at each evaluation, the training loss being the mean since the last."""
    points, since = list[Point](), list[float]()
    for record in records:
        if record["train_loss"] is not None:
            since.append(record["train_loss"])
        if record.get("val_loss") is not None:
            points.append(
                Point(record["step"], record.get("epoch"), fmean(since) if since else None, record["val_loss"])
            )
            since = []
    return points
