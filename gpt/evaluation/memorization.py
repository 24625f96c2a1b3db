"""Whether a model has learned its text, or memorized it: figures, and one sentence that follows from them.

1. The gain over the base, which is what the training began with: its loss less the model's, on training and on
   validation text. What both have in common is learned. The excess on training text, which holds for no other text, is
   memorized (counterfactually, in the sense of Zhang et al. 2021, as validation text never was trained on).
2. The share of training passages whose second half comes out verbatim after the first, beside the base's, which may
   have known it, and that of validation text, which is chance.
3. Overfitted is a model whose validation loss is above that of the best checkpoint by more than two errors.

All errors of differences between models are paired, passage by passage. `Memorization.verdict` has the rule.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gpt.evaluation.compare import Difference, loss_difference
from gpt.evaluation.passages import Reading
from gpt.evaluation.statistics import Excess, Share, excess, paired_excess

LEAST_GAIN = 0.05  # nats per token: of a smaller gain there is no share to speak of
MOST_EXCESS = 0.5  # of the gain on training text
SURE_ENOUGH = 0.25  # standard error of the excess share, above which it says nothing
DRAWS = 0.9  # the probability with which so many draws give a passage


@dataclass(frozen=True)
class Sides:
    """What the base and the tuned model made of the same passages of a split."""

    base: Reading
    tuned: Reading

    @cached_property
    def gain(self) -> Difference:
        """By how much the tuned model is better than the base, in nats per token: above 0 if it is."""
        return loss_difference(self.tuned.measured, self.base.measured)

    @property
    def extracted(self) -> Share:
        """The passages whose second half the tuned model gives verbatim."""
        return share_of(self.tuned.verbatim)


@dataclass(frozen=True)
class Point:
    """The losses of a checkpoint, or of an evaluation, in nats per token."""

    step: int
    epoch: float | None
    train_loss: float | None
    validation_loss: float


@dataclass(frozen=True)
class Rise:
    """By how much the validation loss of a later checkpoint is above that of the best one."""

    best_step: int
    later_step: int
    difference: Difference

    @property
    def is_sure(self) -> bool:
        """Tell whether it is more than two standard errors: the run was overfitted by then."""
        error = self.difference.standard_error
        return error is not None and self.difference.value > 2 * error


@dataclass(frozen=True)
class Memorization:
    """What was found of a run's checkpoint. `verdict` follows from it, and words are made of both alike."""

    train: Sides
    validation: Sides
    step: int
    base: str
    """What it is compared with, in words."""
    prompt: int
    """Tokens of a passage's first half, after which the second is asked for."""
    suffix: int
    rise: Rise | None = None
    """None where there is one checkpoint only."""
    course: list[Point] = field(default_factory=list)
    course_is_measured: bool = False
    """Whether the course is of checkpoints, measured here; or else what the training recorded."""

    # ---- what was memorized ----

    @cached_property
    def excess_share(self) -> float | None:
        """The share of the gain on training text that holds for no other text; None where there is no such gain."""
        return 1 - self.validation.gain.value / self.train.gain.value if self.has_gained else None

    @cached_property
    def excess_share_error(self) -> float | None:
        """Its standard error, by the delta method; None where there is too little text."""
        errors = self.train.gain.standard_error, self.validation.gain.standard_error
        if self.excess_share is None or errors[0] is None or errors[1] is None:
            return None
        gain = self.train.gain.value
        return math.hypot(errors[1] / gain, self.validation.gain.value * errors[0] / gain**2)

    @property
    def has_gained(self) -> bool:
        """Tell whether it predicts its training text better than the base, by more than chance and a trifle."""
        return self.train.gain.value > max(LEAST_GAIN, 2 * (self.train.gain.standard_error or 0.0))

    @cached_property
    def over_base(self) -> Excess:
        """By how much the share of passages that come out verbatim is above the base's."""
        return paired_excess(self.train.tuned.verbatim, self.train.base.verbatim)

    @cached_property
    def over_validation(self) -> Excess:
        """By how much it is above that of validation text."""
        return excess(self.train.extracted, self.validation.extracted)

    @property
    def is_extractable(self) -> bool:
        """Tell whether passages come out that neither the base gives, nor chance."""
        return self.over_base.is_sure and self.over_validation.is_sure

    @property
    def is_mostly_excess(self) -> bool:
        """Tell whether most of the gain holds for the training text alone."""
        share, error = self.excess_share, self.excess_share_error
        return share is not None and error is not None and share - 2 * error > MOST_EXCESS

    @property
    def helps_new_text(self) -> bool:
        """Tell whether it predicts new text better than the base does, and not worse than the best checkpoint."""
        return self.validation.gain.value > 0 and not self.is_overfitted

    @property
    def is_overfitted(self) -> bool:
        """Tell whether this very checkpoint is worse on validation text than the best one."""
        return self.rise is not None and self.rise.is_sure and self.rise.later_step == self.step

    # ---- the verdict ----

    @property
    def verdict(self) -> str:
        """'memorized', 'learned', 'nothing learned' or 'too little text'.

        Memorized, if passages come out verbatim by more than two errors more often than the base's and validation
        text's; or if more than half of the gain on training text is excess, by more than two errors, and new text has
        none of it, or less than at the best checkpoint: up to that one, an excess is the price of what is learned.
        Too little text, if an error is not known, or is so large that neither could have been seen, or that a gain on
        new text cannot.
        """
        if self.is_extractable or (self.is_mostly_excess and not self.helps_new_text):
            return "memorized"
        error = self.validation.gain.standard_error
        if self.train.gain.standard_error is None or error is None:
            return "too little text"
        if not self.has_gained:
            return "nothing learned" if self.train.gain.standard_error <= LEAST_GAIN else "too little text"
        assert self.excess_share_error is not None
        is_known = self.excess_share_error <= SURE_ENOUGH and abs(self.validation.gain.value) > 2 * error
        return "learned" if is_known else "too little text"


def share_of(verbatim: np.ndarray) -> Share:
    """Count the passages that come out verbatim, of (W,) bool."""
    return Share(int(verbatim.sum()), len(verbatim))


def mean_probability(logprobs: np.ndarray) -> tuple[float, float]:
    """Average how likely passages are drawn, (W,) natural logarithms: the mean and its standard error."""
    chances = np.exp(logprobs)
    if len(chances) < 2:
        return float(chances.sum()) if len(chances) else math.nan, math.nan
    return float(chances.mean()), float(chances.std(ddof=1) / math.sqrt(len(chances)))


def draws_needed(logprobs: np.ndarray) -> float:
    """Tell how many draws give the likeliest passage with a probability of 90 %: log 0.1 / log(1 − p). ∞ for never."""
    likeliest = float(logprobs.max(initial=-math.inf))
    if likeliest >= math.log(DRAWS):
        return 1.0
    missed = math.log1p(-math.exp(likeliest))
    return math.ceil(math.log(1 - DRAWS) / missed) if missed else math.inf
