"""How the learning rate of a step relates to its peak."""

import math

from gpt.config import OptimizerConfig


def rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """The learning rate as a fraction of its peak: a linear warm-up, then one of two ways down to the final fraction.

    cosine: half a period of it (Loshchilov and Hutter 2017). wsd: stable at the peak, then a straight line during the
    last `decay` of all steps (Hägele et al. 2024). `step` counts from 0; the first step of warm-up is not zero, and the
    last step has exactly the final fraction.
    """
    floor = config.final_learning_rate
    warmup = min(config.warmup_steps, steps // 2)  # a short run must reach its peak and come down again
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "cosine":
        progress = (step - warmup + 1) / (steps - warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    decaying = min(steps - warmup, round(config.decay * steps))
    left = max(0, steps - 1 - step)
    return 1.0 if left >= decaying else floor + (1 - floor) * left / decaying
