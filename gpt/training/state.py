"""What a training has reached, beside its weights and moments: one record, saved and restored whole."""

import base64
import dataclasses
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.evaluation.compare import Difference, Measured, loss_difference
from gpt.evaluation.loss import Evaluation
from gpt.evaluation.statistics import Spread
from gpt.evaluation.windows import Windows
from gpt.log import log
from gpt.tracking.jsonl import Metrics
from gpt.training.schedule import Cooldown, lr_multiplier

RISE = 0.05  # nats above the best validation loss that are no chance; the same weights give the same loss
OF_PIECES = ("best_sums", "first_sums")
START: Metrics = {  # before the first step
    "step": 0,
    "tokens": 0,
    "train_loss": None,
    "learning_rate": 0.0,
    "gradient_norm": None,
    "tokens_per_s": 0.0,
    "mfu": None,
}
# How their entries in a record begin, beside the sample.
OF_EVALUATIONS = ("val_", "complete_val_", "train_split_", "within_error")


@dataclass
class OverfittingWatch:
    """Hears of every step, and says once that validation rises while the training loss falls. Part of a checkpoint."""

    said: bool = False
    total: float = 0.0  # of the training losses since the last evaluation
    count: int = 0
    best: float | None = None  # validation loss
    at_best: float | None = None  # the training loss on the way to it

    def hear(self, record: Metrics) -> str | None:
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


@dataclass
class TrainState:
    """The state of a training. A new one has done no step."""

    step: int = 0
    """Optimizer steps done."""
    elapsed_s: float = 0.0
    """Seconds of training, those before a resume included."""
    record: Metrics | None = None
    """Of the newest step."""
    unevaluated: Metrics | None = None
    """The newest record, while an evaluation of it is still owed."""
    evaluation: Evaluation | None = None
    """Of the weights as they are now."""
    complete_evaluation: Evaluation | None = None
    """Of the last weights on the complete split, where each evaluation predicts a part of it."""
    evaluations: int = 0
    best_validation_loss: float | None = None
    """Of the checkpoints that were saved."""
    best_step: int | None = None
    """Of the checkpoint that has it."""
    last_validation_loss: float | None = None
    evaluations_since_best: int = 0
    best_sums: Tensor | None = None
    """What the best evaluation made of each piece, (P, 3) float64."""
    gain: Difference | None = None
    """Of the best evaluation on the best one before it."""
    first_sums: Tensor | None = None
    """What the evaluation before the first step made of each piece, where there was one."""
    within_error: bool = False
    """Whether the weights' loss is below the best one, but not by as much as a new best must be."""
    cooldown: Cooldown | None = None
    overfitting: OverfittingWatch = field(default_factory=OverfittingWatch)
    epochs_measured: int = 0
    """Whole epochs when the loss on the training split was last measured."""
    evaluated_windows: int = 0
    """Windows that each evaluation predicts."""
    dataset_fingerprint: str | None = None
    corpus_fingerprint: str | None = None
    """Of all that the dataset was made of; None where it does not say it."""
    saved_step: int = 0
    """Of the newest checkpoint, which has no entry of that name."""

    # ---- where it stands ----

    @property
    def is_best(self) -> bool:
        """Tell whether the weights are evaluated, and better than those of all checkpoints: NaN never is."""
        best = math.inf if self.best_validation_loss is None else self.best_validation_loss
        return self.evaluation is not None and self.evaluation.loss < best and not self.within_error

    def out_of_patience(self, config: TrainConfig) -> bool:
        """Tell whether as many evaluations in a row as early_stopping_patience asks for brought no new best loss."""
        patience = config.early_stopping_patience
        return patience is not None and self.evaluations_since_best >= patience

    def is_over(self, config: TrainConfig) -> bool:
        """Tell whether no step is left to be done."""
        if self.cooldown is None and self.out_of_patience(config):
            return not self.cooldown_steps(config)
        return self.step >= (self.cooldown.end if self.cooldown else config.steps)

    def goes_on(self, config: TrainConfig, last: int) -> bool:
        """Tell whether there is something to do: steps up to the last, or an evaluation to be made up for."""
        return self.unevaluated is not None or (self.step < last and not self.is_over(config))

    def cooldown_steps(self, config: TrainConfig) -> int:
        """Count the steps of a cool-down that is to begin now: none where it began already, or the best is no step's.

        They are never more than the run has left: its rate comes down in these as well.
        """
        if self.cooldown is not None or not self.out_of_patience(config):
            return 0
        return min(math.ceil(config.cooldown * (self.best_step or 0)), config.steps - self.step)

    def lr_factor(self, config: TrainConfig) -> float:
        """Compute the learning rate of the next step, as a fraction of its peak."""
        return (
            self.cooldown.at(self.step) if self.cooldown else lr_multiplier(self.step, config.steps, config.optimizer)
        )

    def unsaved_steps(self) -> str:
        """Say what would be lost if the training ended at this moment."""
        steps = self.step - self.saved_step
        if not steps:
            return "nothing but this step"
        since = f"since step {self.saved_step:,}, the last that is saved" if self.saved_step else "so far"
        return f"the {steps:,} {'step' if steps == 1 else 'steps'} {since}"

    # ---- what happens to it ----

    def count_step(self) -> None:
        """Count a step as done; of the weights that it moved nothing is known yet."""
        self.step += 1
        self.evaluation, self.complete_evaluation, self.within_error = None, None, False

    def judge(self, evaluation: Evaluation, sums: Tensor, windows: Windows, min_gain: float = 0.0) -> None:
        """Take over an evaluation of the weights as they are now, and what it made of each piece of the windows.

        They are the best if they beat the best before by `min_gain` standard errors, and after a cool-down by anything.
        """
        self.evaluation, self.last_validation_loss, self.within_error = evaluation, evaluation.loss, False
        self.evaluations += 1
        self.evaluations_since_best += 1
        if self.step == 0:
            self.first_sums = sums
        if not self.is_best:
            return
        one, two = (s if s is None else Measured(windows.weighted(s.numpy()), windows) for s in (self.best_sums, sums))
        gain = loss_difference(one, two, windows.strata) if one and two else None
        if min_gain and gain and not self.cooldown and -gain.value <= min_gain * (gain.standard_error or 0.0):
            self.within_error = True
            return
        self.evaluations_since_best, self.best_sums, self.gain = 0, sums, gain

    def learn_from(self, dataset: Dataset, windows: Windows) -> None:
        """Note what the coming steps learn from, and how much of it each evaluation predicts."""
        self.dataset_fingerprint, self.corpus_fingerprint = dataset.fingerprint, dataset.corpus_fingerprint
        self.evaluated_windows = len(windows)

    def warn_of_overfitting(self, record: Metrics) -> None:
        """Say so once where the evaluation in a step's record shows that the text is learned by heart."""
        if warning := self.overfitting.hear(record):
            log.warning(warning)

    def cool_down(self, cooldown: Cooldown) -> None:
        """Begin the end of a training that stopped early; its weights are those of the best step now."""
        self.cooldown, self.evaluation, self.within_error = cooldown, None, False

    def mark_saved(self) -> None:
        """Count this moment as saved, and its loss as that of a checkpoint."""
        self.saved_step, (self.best_validation_loss, self.best_step) = self.step, self._best_with_this()

    def _best_with_this(self) -> tuple[float | None, int | None]:
        """Give the best loss and its step, once this moment is saved."""
        own = self.evaluation if self.is_best else None
        return (own.loss, self.step) if own else (self.best_validation_loss, self.best_step)

    # ---- on disk ----

    def state_dict(self) -> dict[str, Any]:
        """Give every entry ready for JSON, as it is once this moment is saved."""
        entries = {e.name: getattr(self, e.name) for e in dataclasses.fields(self) if e.name != "saved_step"}
        ready: dict[str, Any] = {k: asdict(v) if dataclasses.is_dataclass(v) else v for k, v in entries.items()}
        ready |= zip(("best_validation_loss", "best_step"), self._best_with_this(), strict=True)
        return ready | {name: _pack(ready[name]) for name in OF_PIECES if ready[name] is not None}

    @staticmethod
    def of(entries: dict[str, Any]) -> "TrainState":
        """Give the way back from `state_dict`, from what a checkpoint holds."""
        values = {entry.name: entries[entry.name] for entry in dataclasses.fields(TrainState) if entry.name in entries}
        for name in ("evaluation", "complete_evaluation"):
            values[name] = Evaluation(**values[name]) if values[name] else None
        gain, cooldown = values["gain"], values.get("cooldown")
        values["gain"] = Difference(gain["value"], gain["spread"] and Spread(**gain["spread"])) if gain else None
        values["cooldown"] = Cooldown(**cooldown) if cooldown else None
        values |= {name: _unpack(values.get(name)) for name in OF_PIECES}
        values["overfitting"] = OverfittingWatch(**values["overfitting"])
        return TrainState(**values, saved_step=values["step"])

    def forget_evaluations(self) -> None:
        """Leave out all that evaluations have found, where the coming ones cannot be compared with them."""
        fresh = TrainState()
        for name in (
            *("evaluation", "complete_evaluation", "evaluations", "best_validation_loss", "last_validation_loss"),
            *("evaluations_since_best", "best_step", "best_sums", "first_sums", "within_error", "gain", "overfitting"),
            "epochs_measured",
        ):
            setattr(self, name, getattr(fresh, name))
        self.record, self.unevaluated = _without_evaluations(self.record), _without_evaluations(self.unevaluated)

    def take_best_from(self, best: "TrainState | None") -> None:
        """Go by the best checkpoint on disk, where another one went another way, or was damaged and is lost."""
        loss = best.evaluation.loss if best and best.evaluation else None
        if loss is not None and loss == self.best_validation_loss:
            return
        own = best if best and loss == best.best_validation_loss else TrainState()
        self.best_validation_loss, self.best_sums, self.gain = loss, own.best_sums, own.gain
        self.best_step = best.step if best and loss is not None else None
        since = self.evaluations - best.evaluations if best and loss is not None else 0
        self.evaluations_since_best = max(0, since)


def _without_evaluations(record: Metrics | None) -> Metrics | None:
    """Give the record of a step as it was before its evaluations."""
    if record is None:
        return None
    return {key: value for key, value in record.items() if key != "sample" and not key.startswith(OF_EVALUATIONS)}


def _pack(sums: Tensor) -> str:
    """Write the sums of an evaluation's pieces, (P, 3) float64, as text for JSON, to the last bit."""
    return base64.b64encode(sums.numpy().astype("<f8").tobytes()).decode()


def _unpack(text: str | None) -> Tensor | None:
    """Give the way back from `_pack`."""
    return (
        None
        if not text
        else torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f8").astype(np.float64).reshape(-1, 3))
    )


def due(step: int, every: int) -> bool:
    """Tell whether something that is done every so many steps, or never (0), is done after this one."""
    return every > 0 and step % every == 0
