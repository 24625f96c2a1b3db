"""How the minutes of a tuning are divided: so many candidates, so long trainings, so much text that judges."""

import math
from dataclasses import dataclass

from gpt.errors import InputError
from gpt.training.budget import MOST_EVALUATING
from gpt.tuning.halving import GROWTH, seconds_each, seconds_needed, sizes, trainings
from gpt.tuning.trial import Costs

COUNTS = (8, 16, 32)  # candidates, where nobody says how many: as many as the time allows
SHORT_S = 10.0  # seconds of steps: rather than have shorter trainings, there are fewer candidates
FEWEST_WINDOWS = 64  # by whose halves anything can be told
TRIAL_SHARE, TRIAL_S = 2e-3, 1.5  # of all the time, for the trial of a candidate's speed, and at most


@dataclass(frozen=True)
class Plan:
    """What is to be done in the time that is left."""

    count: int
    """Candidates."""
    first_s: float
    """Seconds of steps of each of the first trainings."""

    @property
    def seconds(self) -> list[float]:
        """Seconds of steps of a training of each rung."""
        return [self.first_s * GROWTH**rung for rung in range(len(sizes(self.count)))]


def planned(left: float, gone: float, costs: Costs, asked: int | None, possible: int) -> Plan:
    """Choose how many candidates are tried, as `asked` or as many as the time allows, of all that are possible.

    `left` and `gone` are seconds. Raises InputError, which says how many minutes are needed, if there are too few.
    """
    counts = sorted({min(count, possible) for count in ((asked,) if asked else COUNTS)})

    def first(count: int) -> float:
        return seconds_each(sizes(count), left - costs.trial * count, costs.around)

    fewest = counts[0]
    if first(fewest) < costs.least:
        needed = gone + costs.trial * fewest + seconds_needed(sizes(fewest), costs.least, costs.around)
        fewer = ", or fewer `candidates`" if fewest > 2 else ""
        raise InputError(
            f"`minutes` {(left + gone) / 60:g}: are too few for {fewest} candidates here, where a step takes "
            f"{costs.step:.2g} s and a training {costs.around:.2g} s besides: give at least {_up(needed / 60)}{fewer}"
        )
    good = [count for count in counts if first(count) >= max(costs.least, _short(count, costs))]
    count = good[-1] if good else fewest
    return Plan(count, first(count))


def _short(count: int, costs: Costs) -> float:
    """Give how long the first trainings should be, so that the last ones need not be longer than suits the text."""
    return min(SHORT_S, costs.longest / GROWTH ** (len(sizes(count)) - 1))


def _up(minutes: float) -> str:
    """Round up to two digits, and some time more, since a trial of speed may be wrong by as much."""
    digits = 1 - math.floor(math.log10(minutes * 1.1))
    return f"{math.ceil(minutes * 1.1 * 10**digits) / 10**digits:g}"


def tokens_to_judge(whole: float, per_token: float, asked: int | None, context_length: int, most: int) -> int:
    """Choose how many tokens each evaluation predicts: so that all of them take a quarter of the time at most.

    `whole` is all the time in seconds, and `per_token` what the prediction of a token takes. They are `most` at most,
    but for those it takes to tell anything.
    """
    evaluations = sum(trainings(sizes(asked or COUNTS[1])))
    affordable = int(MOST_EVALUATING * whole / evaluations / per_token)
    return max(FEWEST_WINDOWS * context_length, min(most, affordable))
