"""The learning rate of a step."""

import math

from gpt.config import OptimizerConfig


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then a cosine (Loshchilov and Hutter 2017) from the peak to its final fraction.

    `step` counts from 0; the first step of warm-up is not zero, and the last step has exactly the final rate.
    """
    peak, floor = config.learning_rate, config.learning_rate * config.final_learning_rate
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps + 1) / max(1, steps - config.warmup_steps)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
