import math
import re

import pytest

from gpt import InputError
from gpt.tuning.halving import seconds_needed, sizes, trainings
from gpt.tuning.plan import planned, tokens_to_judge
from gpt.tuning.trial import Costs

COSTS = Costs(step=0.05, around=2.0, trial=1.0, longest=math.inf)


def whole(plan, costs):
    """The seconds of all trainings of a plan."""
    return seconds_needed(sizes(plan.count), plan.first_s, costs.around) + plan.count * costs.trial


@pytest.mark.parametrize(("minutes", "count"), [(3, 8), (8, 8), (20, 16), (60, 32), (600, 32)])
def test_there_are_as_many_candidates_as_the_minutes_allow(minutes, count):
    plan = planned(60 * minutes, 0.0, COSTS, None, 625)
    assert plan.count == count
    assert whole(plan, COSTS) == pytest.approx(60 * minutes)


def test_so_many_as_asked_for_and_as_there_can_be():
    assert planned(1200, 0.0, COSTS, 11, 625).count == 11
    assert planned(1200, 0.0, COSTS, 11, 5).count == 5
    assert planned(1200, 0.0, COSTS, None, 5).count == 5


def test_a_small_text_which_is_soon_read_is_tried_with_more_candidates():
    short = Costs(step=0.05, around=0.5, trial=0.1, longest=8.0)
    plan = planned(600, 0.0, short, None, 625)
    assert plan.count == 32 and plan.seconds[-1] > short.longest


def test_too_few_minutes_are_refused_with_how_many_are_needed():
    with pytest.raises(InputError, match="`minutes` 0.5: are too few for 8 candidates here") as caught:
        planned(28.0, 2.0, COSTS, None, 625)
    needed = float(re.search(r"give at least ([\d.]+), or fewer `candidates`", str(caught.value))[1])
    plan = planned(60 * needed - 2.0, 2.0, COSTS, None, 625)
    assert plan.first_s >= COSTS.least
    least = (2.0 + whole(type(plan)(8, COSTS.least), COSTS)) / 60
    assert least <= needed < 1.25 * least


def test_the_fewest_candidates_are_two():
    with pytest.raises(InputError) as caught:
        planned(1.0, 0.0, COSTS, 2, 625)
    assert "fewer" not in str(caught.value)


def test_all_evaluations_take_a_quarter_of_the_time_at_most():
    tokens = tokens_to_judge(1200.0, 1e-4, None, 128, 10**9)
    assert tokens * 1e-4 * sum(trainings(sizes(16))) == pytest.approx(300, rel=1e-3)
    assert tokens_to_judge(1200.0, 1e-4, None, 16, 5000) == 5000
    assert tokens_to_judge(1e-3, 1.0, 8, 16, 5000) == 64 * 16  # without which nothing can be told
