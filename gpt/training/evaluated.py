"""What a resumed training keeps of the evaluations before it: those that the coming ones can be compared with.

The best loss that they are compared with, for early stopping too, is that of the best checkpoint on disk: one that went
another way, or was damaged, is no longer to be had.
"""

import base64
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gpt.evaluation.compare import Difference
from gpt.evaluation.loss import Evaluation
from gpt.evaluation.statistics import Spread
from gpt.runs import checkpoint
from gpt.tracking.jsonl import Record
from gpt.training.overfitting import OverfittingWatch

if TYPE_CHECKING:
    from gpt.training.trainer import Trainer

OF_EVALUATIONS = ("val_", "complete_val_")  # how their entries in a record begin, beside the sample
State = dict[str, Any]


def pack(sums: Tensor) -> str:
    """The sums of an evaluation's pieces, (P, 3) float64, as text for JSON, to the last bit."""
    return base64.b64encode(sums.numpy().astype("<f8").tobytes()).decode()


def unpack(text: str) -> Tensor:
    """The way back from `pack`."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f8").astype(np.float64).reshape(-1, 3))


def evaluates_alike(trainer: "Trainer", state: State) -> bool:
    """Whether the evaluations before predicted the same tokens of the same data as those to come."""
    same_data = state["dataset_fingerprint"] == trainer.dataset.fingerprint
    return same_data and _windows(trainer, state) == len(trainer.windows)


def _windows(trainer: "Trainer", state: State) -> int:
    return state.get("evaluated_windows", trainer.windows.whole)  # older versions had no budget


def tokens_evaluated(trainer: "Trainer", state: State) -> int:
    """The `evaluation.tokens` that predicts what the evaluations before did, of the same data."""
    windows = trainer.windows
    before = _windows(trainer, state)
    return windows.split.tokens if before == windows.whole else before * windows.stride


def without_evaluations(record: Record) -> Record:
    """The record of a step as it was before its evaluations."""
    return {key: value for key, value in record.items() if key != "sample" and not key.startswith(OF_EVALUATIONS)}


def restore_evaluations(trainer: "Trainer", state: State) -> None:
    """Take over what a checkpoint's state says of evaluations; older ones lack much of it."""
    state = _with_best_on_disk(trainer, state)
    best, sums, gain = state["best_validation_loss"], state.get("best_sums"), state.get("gain")
    trainer.best_loss, trainer.last_loss = math.inf if best is None else best, state["last_validation_loss"]
    trainer.evaluations = state.get("evaluations", 0)
    trainer.evaluations_since_best = state.get("evaluations_since_best", 0)
    trainer.evaluation, trainer.complete_evaluation = (
        Evaluation(**state[name]) if state.get(name) else None for name in ("evaluation", "complete_evaluation")
    )
    trainer.best_sums = unpack(sums) if sums else None
    trainer.gain = Difference(gain["value"], gain["spread"] and Spread(**gain["spread"])) if gain else None
    trainer.overfitting = OverfittingWatch(**state.get("overfitting", {}))


def _with_best_on_disk(trainer: "Trainer", state: State) -> State:
    """The state, its best loss replaced by that of the best checkpoint where they differ."""
    kept = trainer.world.from_main(lambda: checkpoint.best_state(trainer.run))
    evaluation = kept["evaluation"] if kept else None
    if not (kept and evaluation and evaluates_alike(trainer, kept) and evaluation["tokens"] == trainer.windows.targets):
        return state | {"best_validation_loss": None, "evaluations_since_best": 0, "best_sums": None, "gain": None}
    loss = evaluation["loss"]
    if loss == state["best_validation_loss"]:
        return state
    since = state.get("evaluations", 0) - kept.get("evaluations", 0)
    own = kept if kept["best_validation_loss"] == loss else {}
    return state | {
        "best_validation_loss": loss,
        "evaluations_since_best": max(0, since),
        "best_sums": own.get("best_sums"),
        "gain": own.get("gain"),
    }
