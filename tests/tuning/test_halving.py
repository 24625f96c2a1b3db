"""The search alone: trainings are fakes whose losses are known, and time is what they say they took."""

import itertools
import math
import random

import pytest

from gpt import InputError
from gpt.evaluation.compare import Difference
from gpt.evaluation.statistics import Spread
from gpt.tuning.halving import Search, is_near, seconds_each, seconds_needed, sizes, time_words, trainings
from gpt.tuning.trial import Costs, Result

COSTS = Costs(step=0.1, around=1.0, trial=0.5, longest=math.inf)


class Fakes:
    """Candidates of known losses, and a judge that adds nothing, or noise that is another one on each half."""

    def __init__(self, losses, error=1e-4, slower=1.0, noise=0.0, stop_after=math.inf, seeds=0.0):
        self.losses, self.error, self.slower, self.noise = losses, error, slower, noise
        self.now, self.asked, self.stop_after, self.seeds = 0.0, [], stop_after, seeds
        self.rungs, self.pace, self.learns, self.busy = 0, 1.0, True, None

    def begin_rung(self):
        self.rungs += 1
        self.pace = self.slower if self.learns and self.asked else 1.0

    def train(self, number, seed, seconds):
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        trial = 0.5 if number not in {asked for asked, _, _ in self.asked} else 0.0
        self.asked.append((number, seed, seconds))
        training = seconds * self.slower / self.pace
        whole = training + 1.0 + trial
        self.now += whole
        loss = self.losses[number]
        steps = round(seconds / 0.1)
        if loss is None:
            return Result(number, seed, steps, training, seconds, whole, trial, None, "diverged")
        of_seed = random.Random(f"{number} {seed}").gauss(0, self.seeds)
        forecast = seconds * self.slower / self.pace if self.busy is None else training / self.busy[number]
        return Result(number, seed, steps, training, forecast, whole, trial, (number, loss + of_seed))

    def bits(self, measured, half):
        drawn = [self.noise * random.Random(f"{number} {half}").gauss(0, 1) for number, _ in measured]
        return sum(loss + noise for (_, loss), noise in zip(measured, drawn, strict=True)) / len(measured)

    def difference(self, first, other, half):
        assert len(first) == len(other)
        return Difference(self.bits(other, half) - self.bits(first, half), Spread(self.error, 100.0, "documents"))

    def search(self, seconds=1000.0, **options):
        names = [f"c{number}" for number in range(len(self.losses))]
        return Search(names, self, self, 7, seconds, seconds, COSTS, clock=lambda: self.now, **options)

    def trained(self):
        """The candidates of each rung of one seed, and then those of the finals."""
        found = {}
        for number, _, seconds in self.asked:
            found.setdefault(round(seconds, 6), set()).add(number)
        return [*found.values()]


def halves(losses):
    """Successive halving, plainly: who is trained in each rung, if candidate 0 always is."""
    alive, rungs = set(range(len(losses))), []
    while True:
        rungs.append(alive)
        if len(alive) <= 4:
            return rungs
        order = sorted(alive, key=losses.__getitem__)
        kept = set(order[: max(4, math.ceil(len(alive) / 2))])
        if 0 not in kept:
            kept.remove(max(kept, key=losses.__getitem__))
            kept.add(0)
        alive = kept


@pytest.mark.parametrize("seed", range(30))
def test_the_better_half_goes_on_and_the_best_wins(seed):
    rng = random.Random(seed)
    losses = [rng.uniform(1, 2) for _ in range(rng.randrange(2, 40))]
    fakes = Fakes(losses)
    finding = fakes.search().run()
    assert fakes.trained() == halves(losses)
    best = min(range(len(losses)), key=losses.__getitem__)
    assert finding.candidate == best and finding.confirmed
    if best:
        assert finding.difference.value == pytest.approx(losses[best] - losses[0])
        assert finding.best == best
    else:
        assert finding.difference.value > 0


def test_time_is_kept_and_doubles_from_rung_to_rung():
    for count in (2, 4, 5, 8, 16, 32):
        fakes = Fakes([2 - number / 100 for number in range(count)])
        fakes.search(seconds=500.0).run()
        assert fakes.now == pytest.approx(500.0)
        seconds = list(dict.fromkeys(round(each, 6) for _, _, each in fakes.asked))
        assert len(seconds) == len(sizes(count))
        for one, two in itertools.pairwise(seconds):
            assert two == pytest.approx(2 * one)
        assert fakes.rungs == len(seconds)


def test_seconds_are_divided_as_they_add_up():
    rungs = sizes(16)
    assert (rungs, trainings(rungs), sizes(5), sizes(3)) == ([16, 8, 4], [16, 8, 12], [5, 4], [3])
    each = seconds_each(rungs, 1000, 2.0)
    assert 16 * (each + 2) + 8 * (2 * each + 2) + 12 * (4 * each + 2) == pytest.approx(1000)
    assert seconds_needed(rungs, each, 2.0) == pytest.approx(1000)


def test_finalists_have_three_seeds_that_no_rung_had():
    fakes = Fakes([2 - number / 100 for number in range(8)])
    fakes.search().run()
    seeds = {}
    for number, seed, seconds in fakes.asked:
        seeds.setdefault(round(seconds, 6), {}).setdefault(number, []).append(seed)
    first, final = seeds.values()
    assert set(map(tuple, first.values())) == {(7,)}
    assert set(map(tuple, final.values())) == {(8, 9, 10)} and len(final) == 4


def test_what_began_is_always_a_finalist_even_if_it_is_the_worst():
    fakes = Fakes([9.0, *(1 + number / 10 for number in range(15))])
    fakes.search().run()
    assert fakes.trained()[1:] == [{0, *range(1, 8)}, {0, 1, 2, 3}]


def test_what_cannot_be_told_apart_stops_the_halving(said):
    """Of 32, sixteen are as good as the best: three of them and what began are finalists, two rungs sooner."""
    losses = [1.0 + number * 1e-6 for number in range(16)] + [2.0] * 16
    fakes = Fakes(losses, error=0.01)
    finding = fakes.search().run()
    assert fakes.trained() == [set(range(32)), {0, 1, 2, 3}]
    assert any("none of the best 16 can be told from the very best" in line for line in said)
    assert finding.candidate == 0 and finding.confirmed and fakes.now == pytest.approx(1000)


def test_who_is_dropped_within_a_standard_error_is_said(said):
    """Two of the worse half are within an error of the best."""
    losses = [1.0, 1.001, 1.002, 1.003, 1.004, 1.005, 1.5, 1.6]
    fakes = Fakes(losses, error=0.0045)
    fakes.search().run()
    place = said.index("dropped for lack of time, although within a standard error of the best:")
    assert said[place + 1] == "  c4: +0.0040 ± 0.0045"
    assert not said[place + 2].startswith("  c")
    said.clear()
    Fakes(losses, error=0.003).search().run()
    assert not any("dropped" in line for line in said)


def test_near_is_at_most_a_standard_error():
    assert is_near(Difference(0.5, Spread(0.5, 9.0, ""))) and not is_near(Difference(0.51, Spread(0.5, 9.0, "")))
    assert not is_near(Difference(0.5, None))


def test_where_nothing_is_surely_better_what_began_is_kept():
    fakes = Fakes([1.0, 0.999, 0.998, 1.1], error=0.01)
    finding = fakes.search().run()
    assert (finding.candidate, finding.best, finding.confirmed) == (0, 2, True)
    assert finding.difference.value == pytest.approx(-0.002)


def test_the_winner_is_reported_by_text_that_did_not_choose_it():
    """All candidates are alike. The best on one half is better there by chance, and hardly ever on the other."""
    won = 0
    for draw in range(200):
        fakes = Fakes([1.0] * 8, error=0.01, noise=0.01)
        fakes.bits = lambda measured, half, draw=draw: (
            sum(loss + 0.01 * random.Random(f"{draw} {number} {half}").gauss(0, 1) for number, loss in measured)
            / len(measured)
        )
        finding = fakes.search().run()
        chosen = {number: fakes.bits([(number, 1.0)], "chooses") for number, _, _ in fakes.asked[-12:]}
        assert finding.best == min({*chosen} - {0}, key=chosen.__getitem__)
        reported = fakes.bits([(finding.best, 1.0)], "reports") - fakes.bits([(0, 1.0)], "reports")
        assert finding.difference.value == pytest.approx(reported)
        won += finding.candidate != 0
    # 1.98 errors where the deviation is √2 of them: one of twelve, of those that are better on the first half at all.
    assert won < 0.15 * 200


def test_what_diverges_is_out_and_said(said):
    fakes = Fakes([1.0, None, 0.5, None, 0.6, 0.7, None, 0.8])
    assert fakes.search().run().candidate == 2
    assert fakes.trained()[1] == {0, 2, 4, 5}
    assert any(line.startswith("  c3: diverged (seed 7, ") for line in said)
    fakes = Fakes([1.0, None, None, None, None, None, None, None])
    finding = fakes.search().run()
    assert (finding.candidate, finding.difference) == (0, None) and finding.steps > 0
    assert len(fakes.asked) == 8  # no finals of one


def test_what_diverges_in_the_finals_is_not_tried_again():
    fakes = Fakes([1.0, 0.9, 0.5, 0.8])
    honest = fakes.train
    fakes.train = lambda number, seed, seconds: (
        honest(number, seed, seconds) if number != 2 else Result(2, seed, 5, 1.0, 1.0, 2.0, 0.0, None, "diverged")
    )
    search = fakes.search()
    assert search.run().candidate == 3
    assert len(search.rungs[0][2]) == 1


def test_settings_that_cannot_be_trained_are_refused():
    with pytest.raises(InputError, match="the settings that the tuning begins with cannot be trained: diverged within"):
        Fakes([None, 1.0, 1.0]).search().run()


# ---- where it ends too soon ----


@pytest.mark.parametrize(
    ("after", "candidate", "best", "seeds"),
    [
        (1, 0, 0, 1),  # of what began alone
        (4, 3, 3, 1),  # in the first rung: the best of those that were trained
        (8, 6, 6, 1),  # after it
        (9, 6, 6, 1),  # in the finals, where only what began was trained
        (12, 6, 6, 1),
        (14, 6, 6, 1),  # 0 and another one have a second seed, but not the best
        (16, 6, 6, 2),
        (18, 6, 6, 2),
        (19, 6, 6, 2),
    ],
)
def test_ctrl_c_leaves_the_best_so_far_unconfirmed(after, candidate, best, seeds):
    fakes = Fakes([1.0, 0.95, 0.97, 0.9, 1.2, 1.3, 0.8, 1.4], stop_after=after)
    search = fakes.search()
    with pytest.raises(KeyboardInterrupt):
        search.run()
    assert search.count == after
    found = search.best_so_far()
    assert (found.candidate, found.best, found.seeds, found.confirmed) == (candidate, best, seeds, False)
    assert found.steps > 0


def test_before_anything_is_known_there_is_nothing():
    search = Fakes([1.0, 2.0], stop_after=0).search()
    with pytest.raises(KeyboardInterrupt):
        search.run()
    assert (search.best_so_far().steps, search.best_so_far().candidate) == (0, 0)


def test_trainings_that_take_longer_shorten_those_to_come():
    fakes = Fakes([2 - number / 100 for number in range(16)], slower=1.3)
    fakes.search(seconds=1000.0).run()
    assert fakes.now < 1100.0


@pytest.mark.parametrize(("slower", "trainings", "seeds"), [(5.0, 16, 1), (1.8, 16 + 8 + 4 + 4, 2)])
def test_where_time_is_up_the_best_is_not_confirmed(said, slower, trainings, seeds):
    """After the first rung, or between the seeds of the finals, which no later rung makes up for."""
    fakes = Fakes([2 - number / 100 for number in range(16)], slower=slower)
    fakes.learns = False
    finding = fakes.search(seconds=500.0).run()
    assert (finding.candidate, finding.confirmed, len(fakes.asked)) == (15, False, trainings)
    assert finding.seeds == seeds
    assert any("the minutes are over before the search is" in line for line in said)


@pytest.mark.parametrize(("times", "told"), [((1.0, 1.2, 0.9), False), ((1.0, 1.8, 1.1), True)])
def test_unequal_times_are_told(said, times, told):
    fakes = Fakes([1.0, 0.9, 0.8])
    fakes.busy = times
    fakes.search().run()
    words = "trainings of this rung took 1.0 to 1.8 times what was forecast, as where other programs are busy"
    assert any(line.startswith(words) for line in said) == told


def test_short_times_have_two_digits():
    assert [time_words(seconds) for seconds in (0.1234, 2.345, 9.96, 65)] == ["0.12 s", "2.3 s", "10 s", "1:05"]


def test_each_training_is_recorded_with_its_rung():
    seen = []
    fakes = Fakes([2 - number / 100 for number in range(8)])
    fakes.search(record=lambda rung, result: seen.append((rung, result.candidate, result.seed))).run()
    assert [each[1:] for each in seen] == [asked[:2] for asked in fakes.asked]
    assert [rung for rung, _, _ in seen] == [1] * 8 + [2] * 12


def test_a_line_for_each_training_as_it_ends(said):
    Fakes([1.0, 0.5]).search(seconds=100.0).run()
    assert said[0].startswith("rung 1: 2 finalists, 3 seeds each, 0:16 each")
    assert said[1] == "  c0: 1.0000 bits per byte (155 steps, 0:16)"
    assert said[2] == "  c1: 0.5000 bits per byte, -0.5000 ± 0.0001 (155 steps, 0:16)"
    assert len(said) == 7
