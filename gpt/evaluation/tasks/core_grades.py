"""A model graded by CORE: which rows it has right, the accuracy of each task, and the mean of them, centered by chance.

Every text begins with end-of-text. Of choices that one is picked whose tokens have the smallest mean loss: those that
come after the common beginning (multiple choice) or make up the common end (schema). A continuation is right if greedy
decoding writes it. CORE is the mean over tasks of (accuracy − chance) / (1 − chance).

Letters in shapes: N rows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from gpt.errors import InputError
from gpt.evaluation.likelihood import Likelihood, likelihoods
from gpt.evaluation.statistics import Spread
from gpt.evaluation.tasks.core import Core, CoreTask
from gpt.evaluation.tasks.grades import AT_ONCE, Figure, Pair, RowDifference, accuracy, accuracy_difference
from gpt.model.transformer import GPT
from gpt.text.added import marked
from gpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class CoreGrades:
    """What a model finds of the rows of a bundle."""

    core: Core
    rights: tuple[np.ndarray, ...]
    """Of each task, which rows are right, (N,) bool."""
    cuts: tuple[int, ...]
    """Of each task, how many rows are longer than the model's context, and lose their beginning."""

    def accuracy(self, number: int) -> Figure:
        """Give a task's accuracy."""
        return accuracy(self.rights[number], [""] * len(self.rights[number]))

    def centered(self, number: int) -> float:
        """Give a task's accuracy, with chance at 0."""
        return self.core.tasks[number].centered(float(self.rights[number].mean()))

    @property
    def value(self) -> float:
        return math.fsum(map(self.centered, range(len(self.rights)))) / len(self.rights)

    @property
    def spread(self) -> Spread | None:
        """Give the error of `value`, None where a file has one row. Tasks of one file have the same rows as units."""
        return _spread(self._errors())

    def _errors(self) -> dict[str, np.ndarray]:
        """Give what each row of each file adds to the error of `value`, (N,) each."""
        errors = dict[str, np.ndarray]()
        for task, right in zip(self.core.tasks, self.rights, strict=True):
            own = (right - right.mean()) / len(right) / (1 - task.baseline) / len(self.rights)
            errors[task.file] = errors.get(task.file, 0) + own
        return errors

    def minus(self, first: "CoreGrades") -> RowDifference:
        """Estimate how far this is from the first one's value, by the interval of the paired differences."""
        assert self.core is first.core
        one, two, value = first._errors(), self._errors(), self.value - first.value
        spread = _spread({file: two[file] - one[file] for file in one})
        return RowDifference(value, spread, spread is not None and abs(value) > spread.half_width, value > 0)

    def task_minus(self, first: "CoreGrades", number: int) -> RowDifference:
        """Estimate how far a task's accuracy is from the first one's."""
        right = self.rights[number]
        return accuracy_difference(first.rights[number], right, [""] * len(right))


def _spread(errors: dict[str, np.ndarray]) -> Spread | None:
    """Add up the variances of independent files; degrees of freedom are Welch's and Satterthwaite's (1946)."""
    rows = np.array([len(each) for each in errors.values()])
    if rows.min() < 2:
        return None
    variances = np.array([float((each**2).sum()) for each in errors.values()]) * rows / (rows - 1)
    total = float(variances.sum())
    freedom = total**2 / float((variances**2 / (rows - 1)).sum()) if total else float((rows - 1).sum())
    return Spread(math.sqrt(total), freedom, f"{rows.sum():,} rows of {len(rows):,} files")


def grade_core(
    model: GPT,
    tokenizer: Tokenizer,
    core: Core,
    opening: int,
    batch: int | None = None,
    progress: Callable[[int, int], None] = lambda task, rows: None,
) -> CoreGrades:
    """Score every row of a bundle; each text begins with the id `opening`. `progress` is told of each task's rows.

    Raises InputError, which names the row, for what the tokenizer cannot encode and the model cannot read: before
    anything is scored, unless examples make the difference.
    """
    for task in core.tasks:
        for number in range(len(task.items)):
            core_pairs(task, number, tokenizer, opening, model.config.context_length, shots=0)
    rights, cuts = list[np.ndarray](), list[int]()
    for place, task in enumerate(core.tasks):
        found = list[tuple[bool, bool]]()
        while len(found) < len(task.items):
            step = max(1, AT_ONCE // len(task.items[0].endings))
            numbers = range(len(found), min(len(task.items), len(found) + step))
            found += _graded(model, tokenizer, task, numbers, opening, batch)
            progress(place, len(found))
        rights.append(np.array([right for right, _ in found]))
        cuts.append(sum(cut for _, cut in found))
    return CoreGrades(core, tuple(rights), tuple(cuts))


def _graded(
    model: GPT, tokenizer: Tokenizer, task: CoreTask, numbers: range, opening: int, batch: int | None
) -> Iterator[tuple[bool, bool]]:
    """Yield of some rows whether each is right, and whether it is longer than the context."""
    limit = model.config.context_length
    rows = [core_pairs(task, number, tokenizer, opening, limit) for number in numbers]
    asked = [pair for pairs in rows for pair in pairs if pair[1]]
    # What is read has the last token as well, as in nanochat: so one less of the context is used than could be.
    scores = iter(likelihoods(model, asked, max_length=limit - 1, batch=batch))
    for number, pairs in zip(numbers, rows, strict=True):
        found = [next(scores) if ending else None for _, ending in pairs]
        cut = any(len(context) + len(ending) > limit for context, ending in pairs)
        if task.kind == "language_modeling":
            yield found[0] is not None and found[0].greedy, cut
        else:
            yield _picked(found) == task.items[number].gold, cut


def _picked(found: Sequence[Likelihood | None]) -> int:
    """Choose the smallest mean loss.

    A choice that is just the beginning of another one has nothing of its own, and so no loss. It is picked where it
    stands first, and never elsewhere: as in nanochat, where NaN is neither less nor more than anything.
    """
    losses = [math.nan if one is None else -one.logprob / one.tokens for one in found]
    return losses.index(min(losses))


def core_pairs(
    task: CoreTask, number: int, tokenizer: Tokenizer, opening: int, limit: int, shots: int | None = None
) -> list[Pair]:
    """Encode a row, and divide each of its texts into what is read and what is scored.

    Raises InputError, which names the row, for what the tokenizer lacks, and where a model that sees `limit` tokens
    could not read anything before what is scored.
    """
    place = task.items[number].place
    try:
        ids = [[opening, *marked(text, tokenizer).ids(tokenizer)] for text in task.texts(number, shots)]
    except InputError as error:
        raise InputError(f"{place}: {error}; grade a run whose tokenizer has every byte") from None
    shortest = min(map(len, ids))
    if task.kind == "schema":
        same = min(_alike([one[::-1] for one in ids]), shortest - 1)  # the first token is never scored
        starts = [len(one) - same for one in ids]
    else:
        starts = [_alike(ids)] * len(ids)
    pairs: list[Pair] = [(one[:start], one[start:]) for one, start in zip(ids, starts, strict=True)]
    if task.kind == "language_modeling":
        del pairs[0]  # the text without its continuation
        if not pairs[0][1]:
            raise InputError(f"{place}: its continuation has no token of its own")
    longest = max(len(ending) for _, ending in pairs)
    if longest >= limit:
        raise InputError(
            f"{place}: what is scored has {longest:,} tokens, and the model sees {limit:,}; "
            "CORE needs a model with a longer context"
        )
    return pairs


def _alike(ids: Sequence[Sequence[int]]) -> int:
    """Count the tokens with which all begin."""
    return sum(1 for _ in takewhile(lambda column: len({*column}) == 1, zip(*ids, strict=False)))
