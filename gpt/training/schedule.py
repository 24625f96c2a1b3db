"""The learning rate of a step, and what becomes of it where a run gets another schedule."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from gpt.config import OptimizerConfig, TrainConfig
from gpt.config_io import to_dict

MOST_JUMP = {
    "cosine": 2.0,
    "linear": 2.0,
    "wsd": 1.1,
}  # times what it was, once it comes down; wsd has a way without a jump
MOST_RAISE = 3.0  # times its peak before that: from there, a run that was tried ended as one begun with that peak
SCALED = ("embedding", "ngram", "head", "vector")  # kinds of weights that can have an AdamW rate of their own
LEAST_RATE = 0.05  # of the peak: from below, the jump is counted from here


def lr_multiplier(step: int, steps: int, config: OptimizerConfig) -> float:
    """Compute the learning rate as a fraction of its peak: a linear warm-up, then down to the final fraction.

    cosine: half a period of it (Loshchilov and Hutter 2017). linear: a straight line. wsd: stable at the peak, then
    such a line during the last `decay_ratio` of all steps, at least one (Hägele et al. 2024). `step` counts from 0. No
    step has the rate 0, which would move nothing: the first step of warm-up has a part of the peak, and the last step
    the final fraction; where that is 0, the way down is one step longer than the training.
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
    if config.schedule != "wsd":
        return _warmup(steps, config)
    decaying = max(1, round(config.decay_ratio * steps)) if config.decay_ratio else 0
    return max(_warmup(steps, config), steps - decaying)


def _warmup(steps: int, config: OptimizerConfig) -> int:
    return min(config.warmup_steps, steps // 2)  # a short run must reach its peak and come down again


def branch_point(steps: int, config: OptimizerConfig) -> int:
    """Count the steps after which a run can still become longer, as its rate is the same; 0 but with wsd."""
    return decay_start(steps, config) if config.schedule == "wsd" else 0


@dataclass(frozen=True)
class Cooldown:
    """The end of a training that stopped early: some steps from its best weights, in which the rate falls to 0."""

    best_step: int
    """Of the weights that it began with."""
    begin: int
    """Steps that were done before."""
    steps: int
    factor: float
    """The rate before it comes down, as a fraction of its peak."""

    @property
    def end(self) -> int:
        return self.begin + self.steps

    def at(self, step: int) -> float:
        """Compute the rate as a fraction of its peak: a straight line, which reaches 0 one step after the last."""
        return self.factor * (self.end - step) / (self.steps + 1)


@dataclass(frozen=True)
class Schedule:
    """What decides how far a step moves the weights."""

    steps: int
    optimizer: OptimizerConfig

    @staticmethod
    def of(config: TrainConfig) -> "Schedule":
        return Schedule(config.steps, config.optimizer)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "optimizer": to_dict(self.optimizer)}

    def factor(self, step: int) -> float:
        """Compute the rate after `step` steps as a fraction of its peak; after the end, that of the last step."""
        return lr_multiplier(min(step, self.steps - 1), self.steps, self.optimizer)

    def rate(self, step: int) -> float:
        """Compute AdamW's learning rate when `step` steps are done; after the end, that of the last step."""
        return self.factor(step) * self.optimizer.learning_rate

    def changes(self, now: "Schedule") -> list[str]:
        """Say what differs: 'steps 100 → 200'."""
        one, two = ({"steps": s.steps} | _named(s.optimizer) for s in (self, now))
        return [f"{name} {value} → {two[name]}" for name, value in one.items() if value != two[name]]

    def spoiled_by(self, now: "Schedule", step: int) -> bool:
        """Tell whether a rate would jump up after `step` steps: one already in decay, or a peak by much."""
        if step <= decay_start(self.steps, self.optimizer):
            return any(after > MOST_RAISE * before for before, after in self._peaks(now).values())
        before, after = max(self.factor(step), LEAST_RATE), now.factor(step)
        jumps = [after * new / (before * old) for old, new in self._peaks(now).values()]
        return max(jumps) > MOST_JUMP[self.optimizer.schedule]

    def rates(self, now: "Schedule", step: int) -> str:
        """Say how the rates of the step after `step` change."""
        said = []
        for name, (old, new) in self._peaks(now).items():
            before, after = self.factor(step) * old, now.factor(step) * new
            change = f"stays {after:.2e}" if before == after else f"is {after:.2e} and not {before:.2e}"
            said.append(f"the {name} of step {step + 1:,} {change}")
        return ", ".join(said)

    def _peaks(self, now: "Schedule") -> dict[str, tuple[float, float]]:
        """Pair the peaks, by name, of the rates that the optimizer has a use for, and of those that are scaled anew."""
        one, two = self.optimizer, now.optimizer
        peaks = {"learning rate": (one.learning_rate, two.learning_rate)}
        if one.name == "muon":
            peaks["muon learning rate"] = one.muon_learning_rate, two.muon_learning_rate
        for kind in SCALED:
            before, after = (getattr(optimizer, f"{kind}_lr_scale") for optimizer in (one, two))
            if before != after:
                peaks[f"{kind} learning rate"] = before * one.learning_rate, after * two.learning_rate
        return peaks


def _named(optimizer: OptimizerConfig) -> dict[str, Any]:
    return {f"optimizer.{field.name}": getattr(optimizer, field.name) for field in dataclasses.fields(optimizer)}
