"""Which gradients the optimizer gets to see: finite ones, and on request none that stick out."""

import math
from collections import deque
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from gpt.errors import InputError
from gpt.runs.checkpoint import list_checkpoints, step_of
from gpt.training.optimizer import HUGE

WINDOW = 128  # accepted gradient norms that a new one is compared with
SPIKE_DEVIATIONS = 6.0
NO_TARGETS = "none of its targets counts"
MOST_SKIPPED = 3  # batches in a row; then it is not the data
FLOAT16_SCALE = 2.0**16
SCALE_GROWS_AFTER = 2000  # accepted steps


class GradientGuard:
    """Judges every step's loss and gradient norm before the optimizer steps."""

    def __init__(self, skip_spikes: bool, clips: bool = True) -> None:
        """Begin without a history. `clips`: accepted gradients are clipped, so that they may be of any size."""
        self.skip_spikes, self.clips = skip_spikes, clips
        self.accepted: deque[float] = deque(maxlen=WINDOW)  # only accepted norms: one NaN would blind the window
        self.skipped_in_a_row = 0

    def judge(self, loss: float, norm: float) -> str | None:
        """Return None if the gradient is accepted, else why the batch must be skipped."""
        reason = self._fault(loss, norm)
        if reason is None:
            self.skipped_in_a_row = 0
            self.accepted.append(norm)
        else:
            self.skipped_in_a_row += 1
        return reason

    @property
    def gave_up(self) -> bool:
        """Tell whether so many batches in a row were skipped that it is not the data."""
        return self.skipped_in_a_row == MOST_SKIPPED

    def _fault(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss) or not math.isfinite(norm):
            return f"not finite: loss {loss}, gradient norm {norm}"
        if not self.clips and norm > HUGE:
            return f"gradient norm {norm:.4g} cannot be squared in float32, and `optimizer.gradient_clip` is 0"
        if self.skip_spikes and len(self.accepted) == WINDOW:
            mean, deviation = fmean(self.accepted), pstdev(self.accepted)
            if norm > mean + SPIKE_DEVIATIONS * deviation:
                times = (norm - mean) / deviation if deviation else math.inf
                return f"gradient norm {norm:.4g} is {times:.1f} standard deviations above the usual {mean:.4g}"
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"accepted_norms": list(self.accepted), "skipped_in_a_row": self.skipped_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.accepted = deque(state["accepted_norms"], maxlen=WINDOW)
        self.skipped_in_a_row = state["skipped_in_a_row"]


def diverged_at(step: int, run: Path) -> InputError:
    """Make the error that ends a training when one batch after another gave no usable gradient.

    The weights that gave none are those of the step before the first of these batches; they may have been saved.
    """
    sick = step - MOST_SKIPPED
    return InputError(
        f"{run}: training diverged at step {step}: {MOST_SKIPPED} batches in a row had to be skipped; "
        f"{newest_before(run, sick)}; lower `optimizer.learning_rate`, or lengthen `optimizer.warmup_steps`"
    )


def newest_before(run: Path, step: int) -> str:
    """Say which checkpoint is from before the weights of a step, which are no good, and how to go on from it."""
    saved = list_checkpoints(run)
    earlier = [path for path in saved if step_of(path) < step]
    if not earlier:
        return "none of its checkpoints is from before that" if saved else "nothing was saved yet"
    newest = step_of(earlier[-1])
    return (
        f"its newest healthy checkpoint, {earlier[-1].name}, is from before that: "
        f"go on from it with `resume` `from_step` {newest}"
    )


def first_not_finite(tensors: dict[str, Tensor]) -> str | None:
    """Find the name of the first tensor that holds infinity or NaN."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)


class LossScale:
    """What the loss is multiplied by before the backward pass, so that float16 can hold its gradients.

    A power of two that is halved when they overflow and doubled after 2,000 accepted steps (Micikevicius et al.
    2018, "Mixed precision training", section 3.2). Other types need none: it is 1 and stays so.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.varies = dtype == torch.float16
        self.value = FLOAT16_SCALE if self.varies else 1.0
        self.accepted_steps = 0

    def lower(self) -> bool:
        """Halve it for another try; False if that cannot help any more."""
        if not self.varies or self.value <= 1.0:
            return False
        self.value, self.accepted_steps = self.value / 2, 0
        return True

    def accept(self) -> None:
        """Count a step whose gradients did not overflow."""
        if self.varies:
            self.accepted_steps += 1
            if self.accepted_steps % SCALE_GROWS_AFTER == 0:
                self.value *= 2

    def state_dict(self) -> dict[str, Any]:
        return {"varies": self.varies, "value": self.value, "accepted_steps": self.accepted_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.varies and state["varies"]:  # that of another precision says nothing
            self.value, self.accepted_steps = state["value"], state["accepted_steps"]
