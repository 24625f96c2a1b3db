"""Trains a candidate for so many seconds, as train.py would with its settings, and evaluates it.

1. How long a step takes is measured by some steps that are thrown away, and by the trainings from then on. Other
   programs can make a step slower, and none makes it faster: so the fast ones count.
2. A training gets as many steps as fit into its time, and a schedule that ends with them; no more than read the text as
   often as suits it.
3. Where trainings take longer than their steps did, as other programs are busy, the coming ones get fewer steps.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.dataset.loader import Prefetcher
from gpt.distributed.world import World
from gpt.errors import InputError, OutOfMemory
from gpt.evaluation.compare import Measured
from gpt.evaluation.loss import sums_per_piece
from gpt.evaluation.windows import Windows
from gpt.memory import is_out_of_memory, release_memory
from gpt.suits import suit_for
from gpt.training.budget import EVALUATIONS, WARMUP
from gpt.training.start import new_model, training_loader
from gpt.training.state import TrainState
from gpt.training.trainer import StepFailed, Trainer
from gpt.tuning.candidates import Candidate
from gpt.tuning.judging import Judge

FIRST_STEPS, FEWEST_TIMED = 2, 4  # of a trial of speed: those that are slower, and those that count
MOST_TIMED = 10**6
FEWEST_STEPS = 20  # in which a training tells something
DIVERGED, OUT_OF_MEMORY = "diverged", "out of memory"


@dataclass(frozen=True)
class Speed:
    """How long a candidate takes here, in seconds."""

    step: float
    beginning: float
    """Of making the model and the first step, beyond what a step takes."""


@dataclass(frozen=True)
class Costs:
    """What trainings take, by trials of the settings that a tuning begins with, in seconds."""

    step: float
    around: float
    """What a training takes beside its steps: to begin, and to be evaluated."""
    trial: float
    """The trial of a candidate's speed."""
    longest: float
    """The longest training that suits the text."""

    @property
    def least(self) -> float:
        """Give the shortest training that tells something."""
        return min(self.longest, FEWEST_STEPS * self.step)


@dataclass(frozen=True)
class Result:
    """What became of a training."""

    candidate: int
    seed: int
    steps: int
    training_s: float
    """Seconds of its steps."""
    forecast_s: float
    """What these were forecast to take."""
    whole_s: float
    """Seconds of all of it, trial and evaluation included."""
    trial_s: float = 0.0
    """Seconds of the trial of its speed, where there was one."""
    measured: Measured | None = None
    """What it made of the validation text; None where it failed."""
    fault: str = ""
    """Why it failed."""


class Trials:
    """Trains candidates, one after another, in this process alone."""

    def __init__(
        self, candidates: Sequence[Candidate], datasets: dict[Path, Dataset], judge: Judge, world: World, trial_s: float
    ) -> None:
        """Set up; the trial of a candidate's speed takes at least `trial_s` seconds."""
        self.candidates, self.datasets, self.judge, self.world = candidates, datasets, judge, world
        self.trial_s = trial_s  # at least, of the trial of a candidate's speed
        self.speeds: dict[int, Speed] = {}
        self.pace = 1.0  # times what steps take at their fastest: the same for all of a rung
        self._done: list[tuple[int, list[float]]] = []  # the number of a candidate, and the seconds of each step

    def begin_rung(self) -> None:
        """Take speeds and pace of all trainings so far for the coming ones; within a rung they stay what they are."""
        for number, times in self._done:
            before = self.speeds[number]
            self.speeds[number] = replace(before, step=min(before.step, fast(times)))
        if self._done:
            forecast = sum(len(times) * self.speeds[number].step for number, times in self._done)
            self.pace = sum(sum(times) for _, times in self._done) / forecast

    def train(self, number: int, seed: int, seconds: float) -> Result:
        """Train a candidate for about so many seconds of steps, and evaluate it."""
        start, steps, training_s, forecast_s, trial_s = time.perf_counter(), 0, 0.0, 0.0, 0.0
        measured, fault = None, ""
        try:
            config = replace(self._config(number), seed=seed)
            speed = self.speed(number)
            trial_s = time.perf_counter() - start
            steps = min(self.most_steps(config), max(1, round(seconds / (speed.step * self.pace))))
            forecast_s = steps * speed.step * self.pace
            config = with_steps(config, steps)
            trainer = Trainer(new_model(config, self.world.device), config, self.world)
            begun = time.perf_counter()
            times = fit(trainer, config, self._dataset(config))
            training_s = time.perf_counter() - begun
            if not trainer.guard.gave_up:
                self._done.append((number, times))
                measured = self._evaluated(trainer, config)
            fault = DIVERGED if measured is None else ""
            del trainer
        except Exception as error:
            if not (isinstance(error, StepFailed | OutOfMemory) or is_out_of_memory(error)):
                raise
            fault = OUT_OF_MEMORY
        release_memory(self.world.device)
        whole_s = time.perf_counter() - start
        return Result(number, seed, steps, training_s, forecast_s, whole_s, trial_s, measured, fault)

    def speed(self, number: int) -> Speed:
        """Tell how fast a candidate is, by a trial where it was not asked before."""
        if number not in self.speeds:
            config = self._config(number)
            self.speeds[number] = measured_speed(config, self._dataset(config), self.world, self.trial_s)
        return self.speeds[number]

    def costs(self, evaluation_s: float) -> Costs:
        """Say what trainings take, as far as candidate 0 and the seconds of an evaluation tell."""
        start = time.perf_counter()
        speed = self.speed(0)
        trial_s = time.perf_counter() - start
        longest = self.most_steps(self._config(0)) * speed.step
        return Costs(speed.step, speed.beginning + evaluation_s, trial_s, longest)

    def _config(self, number: int) -> TrainConfig:
        """Give a candidate's settings, without the compiler where only `auto` asks for it: it would take most time."""
        config = self.candidates[number].config
        return replace(config, compile="off") if config.compile == "auto" else config

    def most_steps(self, config: TrainConfig) -> int:
        """Count the steps in which a text is read as often as suits it, or as `max_epochs` allows."""
        dataset = self._dataset(config)
        suit = suit_for(config.init_from, dataset.train.tokens, config.preset)
        epochs = config.max_epochs or suit.most_epochs(config.model)
        windows = training_loader(config, dataset).windows
        return max(1 if config.max_epochs else EVALUATIONS, int(epochs * windows / config.batch_sequences))

    def _evaluated(self, trainer: Trainer, config: TrainConfig) -> Measured | None:
        """Evaluate a model on what all predict; None if its loss is no number."""
        windows = self.judge.windows_of(config)
        lengths = self._dataset(config).tokenizer.byte_lengths()
        sums = sums_per_piece(trainer.model, windows, lengths, trainer.device, trainer.dtype, trainer.micro_batch.size)
        assert sums is not None
        return Measured(sums.numpy(), windows) if math.isfinite(float(sums.sum())) else None

    def _dataset(self, config: TrainConfig) -> Dataset:
        assert isinstance(config.data, Path), "a candidate has one dataset"
        return self.datasets[config.data]


def with_steps(config: TrainConfig, steps: int) -> TrainConfig:
    """Give a config another number of steps, and a warm-up that suits it, as train.py does."""
    warmup = min(config.optimizer.warmup_steps, max(1, round(WARMUP * steps)))
    return replace(config, steps=steps, optimizer=replace(config.optimizer, warmup_steps=warmup))


def fit(trainer: Trainer, config: TrainConfig, dataset: Dataset, at_least: float = math.inf) -> list[float]:
    """Do all steps, or those of so many seconds, and some; give the seconds that each took.

    It ends where the trainer gives up, as batch after batch had no usable gradient.
    """
    state, loader, times, start = TrainState(), training_loader(config, dataset), list[float](), time.perf_counter()

    def goes_on() -> bool:
        is_short = len(times) < FIRST_STEPS + FEWEST_TIMED or time.perf_counter() - start < at_least
        return state.step < config.steps and is_short and not trainer.guard.gave_up

    with Prefetcher(loader, trainer.first_row, trainer.rows, trainer.device) as batches:
        while goes_on():
            begun = time.perf_counter()
            trainer.step(state, batches.batch(state.step))
            times.append(time.perf_counter() - begun)
    return times


def fast(times: Sequence[float]) -> float:
    """Give the time of a step that nothing has slowed down: that which a tenth of them stay below."""
    later = sorted(times[FIRST_STEPS:] or times)
    return later[len(later) // 10]


def measured_speed(config: TrainConfig, dataset: Dataset, world: World, at_least: float) -> Speed:
    """Time some steps that are thrown away, for at least so many seconds: the first ones of a long training.

    They have the candidate's own rates: with next to none, numbers are so small that a CPU takes ten times as long.
    """
    config = replace(config, steps=MOST_TIMED)
    start = time.perf_counter()
    trainer = Trainer(new_model(config, world.device), config, world)
    made = time.perf_counter() - start
    times = fit(trainer, config, dataset, at_least)
    step = fast(times)
    return Speed(step, made + max(0.0, times[0] - step))


def measured_evaluation(config: TrainConfig, dataset: Dataset, world: World, at_least: float) -> float:
    """Time the prediction of windows, for at least so many seconds: seconds per token."""
    trainer = Trainer(new_model(config, world.device), config, world)
    lengths, batch = dataset.tokenizer.byte_lengths(), trainer.micro_batch.size
    context_length, end_of_text = config.model.context_length, dataset.tokenizer.end_of_text
    tokens, seconds = batch * context_length, list[float]()
    while sum(seconds) < at_least or len(seconds) < FIRST_STEPS:
        windows = Windows(dataset.validation, context_length, end_of_text, tokens=tokens)
        start = time.perf_counter()
        sums_per_piece(trainer.model, windows, lengths, trainer.device, trainer.dtype, batch)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / max(1, windows.targets)


def require_tunable(config: TrainConfig) -> None:
    """Raise InputError if a config begins with trained weights, or reads several datasets: neither is tuned here."""
    if config.init_from != "scratch":
        raise InputError(
            "a tuning begins with random weights, and `init_from` names others: what suits those, and how long, is "
            "planned by gpt train finetune"
        )
    if isinstance(config.data, tuple):
        raise InputError(f"`data` {' '.join(config.data)}: is a mixture; a tuning takes one dataset, without a weight")
