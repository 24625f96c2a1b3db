"""Which gradients the optimizer gets to see: finite ones, and on request none that stick out."""

import math
from collections import deque
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch

from gpt.checkpoint import list_checkpoints
from gpt.errors import InputError

WINDOW = 128  # accepted gradient norms that a new one is compared with
SPIKE_DEVIATIONS = 6.0
MOST_SKIPPED = 3  # batches in a row; then it is not the data
FLOAT16_SCALE = 2.0**16
SCALE_GROWS_AFTER = 2000  # accepted steps


class GradientGuard:
    """Judges every step's loss and gradient norm before the optimizer steps."""

    def __init__(self, skip_spikes: bool) -> None:
        self.skip_spikes = skip_spikes
        self.accepted: deque[float] = deque(maxlen=WINDOW)  # only accepted norms: one NaN would blind the window
        self.skipped_in_a_row = 0

    def judge(self, loss: float, norm: float) -> str | None:
        """None if the gradient is accepted, else the reason in words why the batch must be skipped."""
        reason = self._fault(loss, norm)
        if reason is None:
            self.skipped_in_a_row = 0
            self.accepted.append(norm)
        else:
            self.skipped_in_a_row += 1
        return reason

    def _fault(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss) or not math.isfinite(norm):
            return f"not finite: loss {loss}, gradient norm {norm}"
        if self.skip_spikes and len(self.accepted) == WINDOW:
            mean, deviation = fmean(self.accepted), pstdev(self.accepted)
            if norm > mean + SPIKE_DEVIATIONS * deviation:
                times = (norm - mean) / deviation if deviation else math.inf
                return f"gradient norm {norm:.4g} is {times:.1f} standard deviations above the usual {mean:.4g}"
        return None

    def state(self) -> dict[str, Any]:
        return {"accepted_norms": list(self.accepted), "skipped_in_a_row": self.skipped_in_a_row}

    def load_state(self, state: dict[str, Any]) -> None:
        self.accepted = deque(state["accepted_norms"], maxlen=WINDOW)
        self.skipped_in_a_row = state["skipped_in_a_row"]


def diverged_at(step: int, run: Path) -> InputError:
    """The error that ends a training in which one batch after another gave no usable gradient."""
    saved = list_checkpoints(run)
    kept = f"its newest checkpoint, {saved[-1].name}, is from before that" if saved else "nothing was saved yet"
    return InputError(
        f"{run}: training diverged at step {step}: {MOST_SKIPPED} batches in a row had to be skipped; "
        f"{kept}: lower --optimizer.learning-rate, or lengthen --optimizer.warmup-steps"
    )


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

    def state(self) -> dict[str, Any]:
        return {"varies": self.varies, "value": self.value, "accepted_steps": self.accepted_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        if self.varies and state["varies"]:  # that of another precision says nothing
            self.value, self.accepted_steps = state["value"], state["accepted_steps"]
