"""What a training has made of the weights that it began with: one line, at its very end."""

import math

from gpt.evaluation.compare import Difference, Measured, bits_difference, loss_difference
from gpt.evaluation.loss import summarize
from gpt.evaluation.windows import Windows
from gpt.training.state import TrainState


def outcome(best: TrainState, windows: Windows) -> str | None:
    """Say how far the best weights are from the first ones, whose evaluations are of these windows, with paired errors.

    `best` is the state of the best checkpoint. None where nothing was evaluated before the first step.
    """
    if best.first_sums is None or best.best_sums is None:
        return None
    before, after = (summarize(sums, windows) for sums in (best.first_sums, best.best_sums))
    one, two = (Measured(windows.weighted(sums.numpy()), windows) for sums in (best.first_sums, best.best_sums))
    nats, bits = loss_difference(one, two, windows.strata), bits_difference(one, two)
    if best.step == 0:
        return f"nothing was learned: no step was better than the weights that it began with ({before.loss:.4f} nats)"
    ratio = math.exp(nats.value)
    error = None if nats.standard_error is None else ratio * nats.standard_error
    return (
        f"learned by step {best.step:,}, of validation: {before.loss:.4f} → {after.loss:.4f} nats per token "
        f"({_change(nats)}), {before.bits_per_byte:.4f} → {after.bits_per_byte:.4f} bits per byte ({_change(bits)}), "
        f"perplexity {before.perplexity:.2f} → {after.perplexity:.2f} (× {ratio:.3f}{_error(error, 3)})"
    )


def _change(found: Difference) -> str:
    return f"{found.value:+.4f}{_error(found.standard_error, 4)}"


def _error(error: float | None, digits: int) -> str:
    return "" if error is None else f" ± {error:.{digits}f}"
