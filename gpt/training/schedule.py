"""How the learning rate of a step relates to its peak."""

import math

from gpt.config import OptimizerConfig


def lr_multiplier(step: int, steps: int, config: OptimizerConfig) -> float:
    """Compute the learning rate as a fraction of its peak: a linear warm-up, then down to the final fraction.

    cosine: half a period of it (Loshchilov and Hutter 2017). wsd: stable at the peak, then a straight line during the
    last `decay_ratio` of all steps, at least one (Hägele et al. 2024). `step` counts from 0. No step has the rate 0,
    which would move nothing: the first step of warm-up has a part of the peak, and the last step the final fraction;
    where that is 0, the way down is one step longer than the training.
    """
    floor, warmup = config.min_lr_ratio, _warmup(steps, config)
    end = steps if floor > 0 else steps + 1  # when the final fraction is reached
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "cosine":
        progress = (step - warmup + 1) / (end - warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    start = decay_start(steps, config)
    return 1.0 if step < start else floor + (1 - floor) * max(0, end - 1 - step) / (end - start)


def decay_start(steps: int, config: OptimizerConfig) -> int:
    """Count the steps that are done when the learning rate begins to come down."""
    if config.schedule == "cosine":
        return _warmup(steps, config)
    decaying = max(1, round(config.decay_ratio * steps)) if config.decay_ratio else 0
    return max(_warmup(steps, config), steps - decaying)


def _warmup(steps: int, config: OptimizerConfig) -> int:
    return min(config.warmup_steps, steps // 2)  # a short run must reach its peak and come down again


def branch_point(steps: int, config: OptimizerConfig) -> int:
    """Count the steps after which a run can still become longer, as its rate is the same; 0 with cosine."""
    return decay_start(steps, config) if config.schedule == "wsd" else 0
