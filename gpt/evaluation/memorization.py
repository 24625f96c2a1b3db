"""Whether a model has learned its text, or memorized it: figures, and one sentence that follows from them.

1. The gain over the base, which is what the training began with: its loss less the model's, on training and on
   validation text. What both have in common is learned. The excess on training text, which holds for no other text, is
   memorized (counterfactually, in the sense of Zhang et al. 2021, as validation text never was trained on).
2. The share of training passages whose second half comes out verbatim after the first, beside the base's, which may
   have known it, and that of validation text, which is chance.
3. Overfitted is a model whose validation loss is above that of the best checkpoint by more than two errors.
4. To predict new text no better than by how often each token occurs is to have learned nothing of it.

All errors of differences between models are paired, passage by passage. `decide` has the rule.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from gpt.evaluation.compare import Difference, Measured, loss_difference
from gpt.evaluation.passages import PassageScores
from gpt.evaluation.statistics import Excess, Share, excess, paired_excess

LEAST_GAIN = 0.05  # nats per token: a smaller gain is none, and there is no share of it to speak of
MOST_EXCESS = 0.5  # of the gain on training text
MOST_ALIKE = 0.5  # of validation passages that come out verbatim: more, and it is training text
DRAWS = 0.9  # the probability with which so many draws give a passage


@dataclass(frozen=True)
class Sides:
    """What the base and the tuned model made of the same passages of a split."""

    base: PassageScores
    tuned: PassageScores

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


CourseSource = Literal["training", "passages", "records"]
"""What a course is of: what training measured on both splits alike, once an epoch; checkpoints, measured on the same
passages; or the records of steps, whose training loss is a mean over batches with dropout."""


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


class Evidence(NamedTuple):
    """What follows from the figures, each with an error of chance. None: too little text to tell."""

    on_training: bool | None
    """Whether the model predicts its training text better than the base does."""
    on_new: bool | None
    """Whether it predicts new text better than the base does, and better than by how often each token occurs."""
    own: bool | None
    """Whether most of the gain on training text holds for no other text."""
    verbatim: bool
    """Whether training passages come out that neither the base gives, nor chance."""
    overfitted: bool
    """Whether the model is worse on validation text than the run's best checkpoint."""
    alike: bool
    """Whether most of validation text comes out verbatim as well: then it is no new text."""


def decide(e: Evidence) -> str:
    """Give the verdict: 'learned', 'memorized', 'learned and memorized', 'nothing learned' or 'too little text'.

    An excess on training text is no fault by itself up to the best checkpoint: it is the price of what is learned.
    """
    is_useful = bool(e.on_new) and not e.overfitted and not e.alike
    if e.verbatim:
        return "learned and memorized" if is_useful else "memorized"
    if e.alike:
        return "too little text"
    if e.own and not is_useful:
        return "memorized"
    if e.on_new:
        return "learned"
    if e.on_training is False:
        return "nothing learned"
    is_certain = e.on_training and e.on_new is False and e.own is False
    return "nothing learned" if is_certain else "too little text"


def is_gain(gain: Difference) -> bool | None:
    """Tell whether a gain, in nats per token, is more than chance and a trifle; None where too little text tells."""
    error = gain.standard_error
    if error is None or math.isnan(gain.value):
        return None
    if gain.value > max(LEAST_GAIN, 2 * error):
        return True
    return False if error <= LEAST_GAIN or gain.value < -2 * error else None


@dataclass(frozen=True)
class Memorization:
    """What was found of a run's checkpoint. `evidence` follows from it, and words are made of both alike."""

    train: Sides
    validation: Sides
    step: int
    base: str
    """What it is compared with, in words."""
    prompt: int
    """Tokens of a passage's first half, after which the second is asked for."""
    suffix: int
    by_frequency: Measured
    """What how often each token occurs makes of validation text."""
    rise: Rise | None = None
    """None where there is one checkpoint only."""
    course: list[Point] = field(default_factory=list)
    course_source: CourseSource = "records"
    course_windows: int = 0
    """Of each split at the most, where training has measured both alike; else 0."""

    @property
    def has_more_passages(self) -> bool:
        """Whether passages were left out of the split whose error is larger, so that they would tell more."""
        errors = [side.gain.standard_error for side in (self.train, self.validation)]
        of_train, of_validation = (math.inf if error is None else error for error in errors)
        side = self.train if of_train > of_validation else self.validation
        return not side.tuned.measured.windows.is_complete

    # ---- what was memorized ----

    @cached_property
    def excess_share(self) -> float | None:
        """The share of the gain on training text that holds for no other text; None where there is no such gain."""
        return 1 - self.validation.gain.value / self.train.gain.value if is_gain(self.train.gain) else None

    @cached_property
    def excess_share_error(self) -> float | None:
        """Its standard error, by the delta method; None where there is too little text."""
        errors = self.train.gain.standard_error, self.validation.gain.standard_error
        if self.excess_share is None or errors[0] is None or errors[1] is None:
            return None
        gain = self.train.gain.value
        return math.hypot(errors[1] / gain, self.validation.gain.value * errors[0] / gain**2)

    @cached_property
    def over_base(self) -> Excess:
        """By how much the share of passages that come out verbatim is above the base's."""
        return paired_excess(self.train.tuned.verbatim, self.train.base.verbatim)

    @cached_property
    def over_validation(self) -> Excess:
        """By how much it is above that of validation text."""
        return excess(self.train.extracted, self.validation.extracted)

    @cached_property
    def validation_over_base(self) -> Excess:
        """By how much the share of validation passages that come out verbatim is above the base's."""
        return paired_excess(self.validation.tuned.verbatim, self.validation.base.verbatim)

    @cached_property
    def over_frequency(self) -> Difference:
        """By how much it predicts validation text better than how often each token occurs, in nats per token."""
        return loss_difference(self.validation.tuned.measured, self.by_frequency)

    @cached_property
    def evidence(self) -> Evidence:
        """Draw the conclusions from which the verdict follows."""
        gains = is_gain(self.validation.gain), is_gain(self.over_frequency)
        return Evidence(
            on_training=is_gain(self.train.gain),
            on_new=False if False in gains else None if None in gains else True,
            own=self._is_own,
            verbatim=self.over_base.is_sure and self.over_validation.is_sure,
            overfitted=self.rise is not None and self.rise.is_sure and self.rise.later_step == self.step,
            alike=self.validation_over_base.is_sure and self.validation_over_base.value > MOST_ALIKE,
        )

    @property
    def _is_own(self) -> bool | None:
        share, error = self.excess_share, self.excess_share_error
        if share is None:
            return None if is_gain(self.train.gain) is None else False
        if error is None or abs(share - MOST_EXCESS) <= 2 * error:
            return None
        return share > MOST_EXCESS

    @property
    def verdict(self) -> str:
        """What `decide` makes of the evidence."""
        return decide(self.evidence)


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
    draws = math.log(1 - DRAWS) / missed if missed else math.inf
    return math.ceil(draws) if math.isfinite(draws) else math.inf
