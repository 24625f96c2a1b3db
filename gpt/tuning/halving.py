"""Successive halving (Karnin et al. 2013; Jamieson and Talwalkar 2016), which says what is chance.

1. All candidates train for the same short time; the better half goes on, and trains anew for twice the time.
2. It stops when at most four are left, or when those that are left cannot be told from the best: these are the
   finalists. Those that begin, candidate 0, are always among them.
3. Finalists train with three seeds that were not used before. What is best on the half of the validation text that
   chooses is held against candidate 0 on the other half; it wins if the 95 % interval of the paired difference says so.

How long a training is follows, rung by rung, from the time that is left. Nothing here knows a model: whoever calls says
how candidates are trained and compared.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gpt.errors import InputError
from gpt.evaluation.compare import TIE, Difference, Measured
from gpt.log import log
from gpt.terminal import duration
from gpt.tuning.judging import Half
from gpt.tuning.trial import Costs, Result

FINALISTS, SEEDS = 4, 3
GROWTH = 2.0  # times the seconds of the rung before
MOST_UNEQUAL = 1.5  # times, of what trainings took that should take the same; from there on it is said
LATE = 0.1  # of all the time: as much later the last training may end


class Trains(Protocol):
    """Trains a candidate for about so many seconds."""

    def begin_rung(self) -> None: ...

    def train(self, number: int, seed: int, seconds: float) -> Result: ...


class Judges(Protocol):
    """Compares what two candidates made of a half of the text, from as many seeds each."""

    def difference(self, first: Sequence[Measured], other: Sequence[Measured], half: Half) -> Difference: ...

    def bits(self, measured: Sequence[Measured], half: Half) -> float: ...


@dataclass(frozen=True)
class Finding:
    """What a search ends with."""

    candidate: int
    """What is to be used: the best, or candidate 0 where none is surely better."""
    steps: int
    training_s: float
    """Seconds of its steps, in the last trainings."""
    best: int = 0
    """The best on the half that chooses."""
    difference: Difference | None = None
    """Of the best from candidate 0: on the half that reports, or, not `confirmed`, on the one that chooses."""
    seeds: int = 1
    confirmed: bool = False
    """Whether all seeds of the finalists were trained."""


def sizes(candidates: int) -> list[int]:
    """Count the candidates of each rung, the last of which are the finalists: 16 → 16, 8, 4."""
    found = [candidates]
    while found[-1] > FINALISTS:
        found.append(max(FINALISTS, -(-found[-1] // 2)))
    return found


def trainings(rungs: Sequence[int]) -> list[int]:
    """Count the trainings of each rung: of finalists, several."""
    return [*rungs[:-1], rungs[-1] * SEEDS]


def seconds_each(rungs: Sequence[int], left: float, around: float) -> float:
    """Divide the time that is left: the seconds of steps of a training of the first of these rungs.

    Each rung has twice those of the one before; `around` is what a training takes beside its steps.
    """
    counts = trainings(rungs)
    return (left - around * sum(counts)) / sum(count * GROWTH**rung for rung, count in enumerate(counts))


def seconds_needed(rungs: Sequence[int], each: float, around: float) -> float:
    """Give the way back: the time of all trainings, where those of the first rung take so many seconds of steps."""
    counts = trainings(rungs)
    return around * sum(counts) + each * sum(count * GROWTH**rung for rung, count in enumerate(counts))


class Search:
    """Finds the best of so many candidates in so many seconds; what it knows survives where it is interrupted."""

    def __init__(
        self,
        names: Sequence[str],
        trials: Trains,
        judge: Judges,
        seed: int,
        end: float,
        whole: float,
        costs: Costs,
        record: Callable[[int, Result], None] = lambda rung, result: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Set up: `names` are those of the candidates, `end` is by `clock`, and `whole` is all of the time in seconds.

        `costs` hold until trainings have shown others. `record` is told of each, with the number of its rung.
        """
        self.names, self.trials, self.judge, self.seed = names, trials, judge, seed
        self.end, self.whole, self.costs, self.record, self.clock = end, whole, costs, record, clock
        self.rungs: list[dict[int, list[Result]]] = []  # the results of each candidate, a seed after another
        self._beside = list[float]()

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.end - self.clock()

    @property
    def around(self) -> float:
        """Seconds that a training takes beside its steps: the mean so far."""
        return sum(self._beside) / len(self._beside) if self._beside else self.costs.around

    @property
    def count(self) -> int:
        """Trainings so far."""
        return sum(len(results) for rung in self.rungs for results in rung.values())

    def run(self) -> Finding:
        """Search until the winner is known, or until time is up."""
        alive, settled = [*range(len(self.names))], False
        while len(alive) > FINALISTS and not settled:
            seconds = seconds_each(sizes(len(alive)), self.left - self._trials_of(alive), self.around)
            if seconds < self.costs.least:
                return self._out_of_time()
            self._begin(alive, f"{len(alive)} candidates", seconds)
            for number in alive:
                self._train(number, self.seed, seconds)
            self._doubt()
            alive, settled = self._halved(alive)
        return self._final(alive) if len(alive) > 1 else self.best_so_far()

    def _trials_of(self, alive: Sequence[int]) -> float:
        """Forecast the seconds of the trials of speed that are still to be made."""
        return 0.0 if self.rungs else self.costs.trial * len(alive)

    def _final(self, finalists: list[int]) -> Finding:
        """Train the finalists with all seeds, a seed after another, and hold the best against candidate 0."""
        seconds = seconds_each([len(finalists)], self.left - self._trials_of(finalists), self.around)
        if seconds < self.costs.least:
            return self._out_of_time()
        self._begin(finalists, f"{len(finalists)} finalists, {SEEDS} seeds each", seconds)
        for seed in range(SEEDS):
            if seed and self.left + LATE * self.whole < len(finalists) * (seconds + self.around):
                return self._out_of_time()
            for number in finalists:
                if _is_sound(self.rungs[-1][number]):  # what failed once is out
                    self._train(number, self.seed + 1 + seed, seconds)
        self._doubt()
        return self.best_so_far()

    def _doubt(self) -> None:
        """Say so where the trainings of a rung did not have equal times, as while other programs are busy."""
        times = [
            result.training_s / result.forecast_s
            for results in self.rungs[-1].values()
            for result in results
            if result.measured is not None
        ]
        if times and max(times) > MOST_UNEQUAL * min(times):
            log.warning(
                f"trainings of this rung took {min(times):.1f} to {max(times):.1f} times what was forecast, as where "
                "other programs are busy: they are compared less fairly"
            )

    def _begin(self, alive: Sequence[int], who: str, seconds: float) -> None:
        self.trials.begin_rung()
        self.rungs.append({number: [] for number in alive})
        log.info(f"rung {len(self.rungs)}: {who}, {time_words(seconds)} each")

    def _train(self, number: int, seed: int, seconds: float) -> None:
        result = self.trials.train(number, seed, seconds)
        self._beside.append(result.whole_s - result.training_s - result.trial_s)
        self.rungs[-1][number].append(result)
        self.record(len(self.rungs), result)
        log.info(self._line(result))
        if len(self.rungs) == 1 and not number and result.measured is None:
            raise InputError(
                f"the settings that the tuning begins with cannot be trained: {result.fault} within {result.steps:,} "
                "steps; begin with others (a preset, or `config`)"
            )

    def _line(self, result: Result) -> str:
        """Say what became of a training: its figure, and the paired difference from candidate 0."""
        before = f"  {self.names[result.candidate]}: "
        if result.measured is None:
            return f"{before}{result.fault} (seed {result.seed}, {result.steps:,} steps)"
        words = f"{self.judge.bits([result.measured], 'chooses'):.4f} bits per byte"
        own = _of_seeds(self.rungs[-1][0]).get(result.seed)
        if result.candidate and own:
            words += f", {in_words(self.judge.difference([own], [result.measured], 'chooses'))}"
        return f"{before}{words} ({result.steps:,} steps, {time_words(result.training_s)})"

    def _halved(self, alive: list[int]) -> tuple[list[int], bool]:
        """Keep the better half, and candidate 0; tell whether none of them can be told from the best.

        Says who is dropped although it is within a standard error of the best.
        """
        found = {number: result.measured for number, [result] in self.rungs[-1].items() if result.measured is not None}
        order = sorted(found, key=lambda number: self.judge.bits([found[number]], "chooses"))
        kept = order[: sizes(len(alive))[1]]
        kept = kept if 0 in kept else [*kept[: sizes(len(alive))[1] - 1], 0]
        beside = {number: self.judge.difference([found[order[0]]], [found[number]], "chooses") for number in order[1:]}
        near = [number for number in order if number not in kept and is_near(beside[number])]
        if near:
            log.info("dropped for lack of time, although within a standard error of the best:")
            for number in near:
                log.info(f"  {self.names[number]}: {in_words(beside[number])}")
        settled = all(beside[number].verdict == TIE for number in kept if number in beside)
        if settled and len(kept) > FINALISTS:
            log.info(f"none of the best {len(kept)} can be told from the very best: the best {FINALISTS} are finalists")
            kept = [*[number for number in kept if number][: FINALISTS - 1], 0]
        return sorted(kept), settled

    # ---- what is known ----

    def best_so_far(self) -> Finding:
        """Judge by the last rung, and those of its seeds with which all of it were trained; what failed is out.

        Of the first one, what was trained is enough. Where finalists had all their seeds, the half that reports
        decides; before, nothing is confirmed.
        """
        for rung in reversed(self.rungs):
            sound = {number: _of_seeds(results) for number, results in rung.items() if _is_sound(results)}
            if rung is self.rungs[0]:
                sound = {number: found for number, found in sound.items() if found}
            common = sorted(set.intersection(*(set(found) for found in sound.values()))) if sound else []
            if common and 0 in sound:
                return self._judged(rung, {n: [found[seed] for seed in common] for n, found in sound.items()})
        return Finding(0, 0, 0.0)

    def _judged(self, rung: dict[int, list[Result]], found: dict[int, list[Measured]]) -> Finding:
        """Take the best on the half that chooses, and hold it against candidate 0; `found` are those of each seed."""
        own, others = found[0], [number for number in found if number]
        seeds = len(own)
        if not others:
            return Finding(0, rung[0][0].steps, rung[0][0].training_s, seeds=seeds)
        chosen = {number: self.judge.difference(own, found[number], "chooses") for number in others}
        best = min(others, key=lambda number: chosen[number].value)
        confirmed = seeds == SEEDS
        beside = self.judge.difference(own, found[best], "reports") if confirmed else chosen[best]
        better = chosen[best].value < 0 and beside.verdict == "better than"
        winner = rung[best if better else 0][0]
        return Finding(winner.candidate, winner.steps, winner.training_s, best, beside, seeds, confirmed)

    def _out_of_time(self) -> Finding:
        log.warning("the minutes are over before the search is, as trainings took longer than forecast")
        return self.best_so_far()


def _of_seeds(results: Sequence[Result]) -> dict[int, Measured]:
    """Map seeds to what was measured with them."""
    return {result.seed: result.measured for result in results if result.measured is not None}


def _is_sound(results: Sequence[Result]) -> bool:
    return all(result.measured is not None for result in results)


def is_near(difference: Difference) -> bool:
    """Tell whether a difference from the best is at most a standard error."""
    return difference.value <= (difference.standard_error or 0.0)


def in_words(difference: Difference) -> str:
    """Write a difference with its standard error, which a text may be too short for."""
    error = difference.standard_error
    return f"{difference.value:+.4f}" + (f" ± {error:.4f}" if error is not None else "")


def time_words(seconds: float) -> str:
    """Write a time as 1:05, or a short one as 2.3 s."""
    return duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"
