"""The learning rate of a step."""

import math

from gpt.config import OptimizerConfig


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then a cosine (Loshchilov and Hutter 2017) from the peak to its final fraction.

    `step` counts from 0; the first step of warm-up is not zero, and the last step has exactly the final rate.
    """
    peak, floor = config.learning_rate, config.learning_rate * config.final_learning_rate
    warmup = min(config.warmup_steps, steps // 2)  # a short run must reach its peak and come down again
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup + 1) / (steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
