"""A model graded on a task: what it finds of each row, the figures of that with their errors, and how two differ.

The metrics are lm-evaluation-harness's. That choice is picked which has the largest log-likelihood: `acc` takes it as
it is, `acc_norm` divided by the characters of the choice, `acc_bytes` by its bytes in UTF-8. A continuation is right
(`acc`) if each of its tokens is the likeliest; `perplexity` is exp(−mean log-likelihood), each continuation counting as
one word.

Letters in shapes: N rows, U units.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpt.errors import InputError
from gpt.evaluation.compare import TIE
from gpt.evaluation.likelihood import likelihoods
from gpt.evaluation.statistics import Share, Spread
from gpt.evaluation.tasks.rows import Row
from gpt.evaluation.tasks.task import Task
from gpt.model.transformer import GPT
from gpt.text.added import marked
from gpt.text.tokenizer import Tokenizer

CHOICE, CONTINUATION = ("acc", "acc_norm", "acc_bytes"), ("acc", "perplexity")
AT_ONCE = 2048  # likelihoods between two words of progress, at the most
Pair = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class Figure:
    """A metric's value, and how sure it is."""

    value: float
    errors: np.ndarray
    """What each row adds to its error, (N,)."""
    spread: Spread | None
    """None where there is one row."""
    interval: tuple[float, float]
    """It holds the true value in 95 of 100 cases."""


@dataclass(frozen=True)
class RowDifference:
    """The other model's figure minus the first one's, on the same rows."""

    value: float
    spread: Spread | None
    is_sure: bool
    """Whether the two can be told apart, with 95 % certainty."""
    better: bool
    """Whether the other model has the better figure."""
    alone: tuple[int, int] | None = None
    """Of accuracies: how many rows are right with the first model alone, and with the other one alone."""
    p: float | None = None
    """Of accuracies: McNemar's exact p, where rows are independent."""

    @property
    def verdict(self) -> str:
        """To be followed by the first one's name."""
        if not self.is_sure:
            return TIE
        return "better than" if self.better else "worse than"


@dataclass(frozen=True)
class Grades:
    """What a model finds of the rows of a task."""

    task: Task
    logprobs: tuple[tuple[float, ...], ...]
    """Of each row, the log-likelihood of each choice."""
    greedy: np.ndarray
    """Whether greedy decoding writes the first choice, (N,)."""
    cut: int
    """Rows of which the model did not see the beginning, since they are longer than its context."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return CHOICE if self.task.chooses else CONTINUATION

    def picked(self, metric: str) -> np.ndarray:
        """Give which choice is picked in each row, (N,); of a continuation, 0 if it is right and else −1."""
        if not self.task.chooses:
            return np.where(self.greedy, 0, -1)
        sizes = {"acc": lambda choice: 1, "acc_norm": len, "acc_bytes": lambda choice: len(choice.encode())}[metric]
        pairs = zip(self.task.rows, self.logprobs, strict=True)
        return np.array([np.argmax(np.array(found) / [*map(sizes, row.choices)]) for row, found in pairs])

    def right(self, metric: str) -> np.ndarray:
        """Tell which rows are right, (N,)."""
        return self.picked(metric) == np.array([row.label for row in self.task.rows])

    def figure(self, metric: str) -> Figure:
        """Give a metric's value with its standard error and interval."""
        groups = [row.group for row in self.task.rows]
        if metric != "perplexity":
            return accuracy(self.right(metric), groups)
        nats = -np.array([found[0] for found in self.logprobs])
        value = math.exp(min(700, nats.mean()))
        spread = spread_of((nats - nats.mean()) / len(nats), groups)  # of the mean, of which it is the exponential
        interval = tuple(
            math.exp(min(700, nats.mean() + (spread.half_width if spread else 0) * sign)) for sign in (-1, 1)
        )
        errors = value * (nats - nats.mean()) / len(nats)  # the delta method
        return Figure(value, errors, spread_of(errors, groups), (interval[0], interval[1]))


def grade(
    model: GPT,
    tokenizer: Tokenizer,
    task: Task,
    opening: int,
    batch: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Grades:
    """Score every row of a task. `opening` is the id that an empty context stands for.

    Raises InputError, which names the row, for what the tokenizer cannot encode and the model cannot read.
    """
    pairs, cut, limit = list[Pair](), 0, model.config.context_length
    for row, place in zip(task.rows, task.places, strict=True):
        try:
            found = encoded(row, tokenizer, opening)
        except InputError as error:
            remedy = "grade a run whose tokenizer has every byte, or leave the row out"
            raise InputError(f"{place}: {error}; {remedy}") from None
        for _, ending in found:
            if not 0 < len(ending) <= limit:
                what = "has no token of its own, as it joins the context's last one" if not ending else "is too long"
                raise InputError(
                    f"{place}: what is to be scored {what} ({len(ending):,} tokens; the model sees {limit:,}); "
                    "leave the row out"
                )
        cut += max(len(context) + len(ending) for context, ending in found) > limit + 1
        pairs += found
    parts = (pairs[begin : begin + AT_ONCE] for begin in range(0, len(pairs), AT_ONCE))
    scores = (score for part in parts for score in likelihoods(model, part, batch=batch, progress=progress))
    answers = [[next(scores) for _ in row.choices] for row in task.rows]
    return Grades(
        task,
        tuple(tuple(one.logprob for one in some) for some in answers),
        np.array([some[0].greedy for some in answers]),
        int(cut),
    )


def encoded(row: Row, tokenizer: Tokenizer, opening: int) -> list[Pair]:
    """Encode a row's context and each of its endings, as lm-evaluation-harness does.

    Both are encoded together, and what is beyond the context's own ids is the ending; spaces at the context's end
    belong to it. An empty context stands for `opening`, unless the ending begins with that. The text of a special token
    is that token.
    """

    def ids(text: str) -> list[int]:
        return marked(text, tokenizer).ids(tokenizer)

    context = row.context.rstrip()
    spaces = row.context[len(context) :]
    if not context:
        whole = [ids(spaces + ending) for ending in row.endings]
        return [(some[:1], some[1:]) if some[:1] == [opening] else ([opening], some) for some in whole]
    before = ids(context)
    return [(before, ids(row.context + ending)[len(before) :]) for ending in row.endings]


def accuracy(right: np.ndarray, groups: Sequence[str]) -> Figure:
    """Give the share of rows that are right, (N,) bool; rows of a group are one unit."""
    value, errors = float(right.mean()), (right - right.mean()) / len(right)
    spread = spread_of(errors, groups)
    if len({*groups}) == 1:  # the binomial's own interval, which keeps to 0 and 1 and is none too short there
        return Figure(value, errors, spread, Share(int(right.sum()), len(right)).interval)
    half = spread.half_width if spread else math.nan
    return Figure(value, errors, spread, (max(0.0, value - half), min(1.0, value + half)))


def difference(first: Grades, other: Grades, metric: str) -> RowDifference:
    """Estimate how far the other model's figure is from the first one's, row by row."""
    assert first.task is other.task
    groups = [row.group for row in first.task.rows]
    if metric != "perplexity":
        return accuracy_difference(first.right(metric), other.right(metric), groups)
    one, two = first.figure(metric), other.figure(metric)
    value, spread = two.value - one.value, spread_of(two.errors - one.errors, groups)
    return RowDifference(value, spread, spread is not None and abs(value) > spread.half_width, value < 0)


def accuracy_difference(first: np.ndarray, other: np.ndarray, groups: Sequence[str]) -> RowDifference:
    """Estimate by how much more rows are right in the other than in the first, (N,) bool each.

    McNemar's exact test decides, where rows are independent; else the interval of the paired differences.
    """
    one, two = accuracy(first, groups), accuracy(other, groups)
    value, spread = two.value - one.value, spread_of(two.errors - one.errors, groups)
    alone = (int((first & ~other).sum()), int((other & ~first).sum()))
    if len({*groups}) > 1:
        sure = spread is not None and abs(value) > spread.half_width
        return RowDifference(value, spread, sure, value > 0, alone)
    p = mcnemar(*alone)
    return RowDifference(value, spread, p < 0.05, value > 0, alone, p)


def spread_of(errors: np.ndarray, groups: Sequence[str]) -> Spread | None:
    """Give the standard error of a figure to which each row adds an error, (N,); rows of a group are one unit.

    √(U/(U−1) Σ u²), u being a unit's sum (Liang and Zeger 1986). For an accuracy on single rows that is the binomial's
    √(p(1−p)/(N−1)). None where there is one unit.
    """
    what = "rows"
    if len({*groups}) > 1:
        _, numbers = np.unique(np.array(groups), return_inverse=True)
        errors, what = np.bincount(numbers, errors), "groups of rows"
    units = len(errors)
    if units < 2 or not np.isfinite(errors).all():
        return None
    return Spread(math.sqrt(units / (units - 1) * float((errors**2).sum())), units - 1, f"{units:,} {what}")


def mcnemar(one: int, two: int) -> float:
    """Give the two-sided exact p of so many rows for either side, if both were as likely (McNemar 1947)."""
    total, least = one + two, min(one, two)
    terms = (math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(least + 1))
    return min(1.0, 2 * math.fsum(math.exp(term - total * math.log(2)) for term in terms))
