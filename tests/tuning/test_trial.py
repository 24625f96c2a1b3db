import math
from dataclasses import replace

import pytest
import torch
from helpers import Training, require_equal

from gpt import InputError
from gpt.config import OptimizerConfig
from gpt.distributed.world import World
from gpt.runs.directory import open_run
from gpt.training.trainer import Trainer
from gpt.tuning import trial
from gpt.tuning.candidates import Candidate
from gpt.tuning.judging import Judge
from gpt.tuning.trial import (
    Costs,
    Speed,
    Trials,
    fast,
    measured_evaluation,
    measured_speed,
    require_tunable,
    with_steps,
)


@pytest.fixture
def trials(dataset, tiny_config):
    """The trials of a tiny model, and of one with another rate, whose speeds are known: a step takes 10 ms."""
    faster = replace(tiny_config, optimizer=replace(tiny_config.optimizer, learning_rate=1e-2))
    judge = Judge([dataset], tiny_config, 10**9)
    made = Trials([Candidate(tiny_config), Candidate(faster)], {dataset.path: dataset}, judge, World("cpu"), 0.0)
    made.speeds = {0: Speed(0.01, 0.0), 1: Speed(0.005, 0.0)}
    return made


def test_a_training_has_the_steps_that_fit_into_its_time(trials):
    one, two = trials.train(0, 5, 0.04), trials.train(1, 6, 0.03)
    assert (one.candidate, one.seed, one.steps, one.fault) == (0, 5, 4, "")
    assert (two.candidate, two.seed, two.steps) == (1, 6, 6)
    for result in (one, two):
        assert 0 < result.training_s < result.whole_s and result.trial_s < 0.01
        nats, tokens, text_bytes = result.measured.sums.sum(axis=0)
        assert tokens == trials.judge.windows_of(trials.candidates[0].config).targets
        assert 0 < nats / tokens < 2 * math.log(257) and text_bytes > 0


def test_the_least_is_a_step(trials):
    assert trials.train(0, 5, 1e-9).steps == 1


def test_it_learns_as_train_py_does(trials, dataset, tiny_config, tmp_path, monkeypatch):
    """To the last bit, with the same steps, seed and settings."""
    made = []
    monkeypatch.setattr(trial, "Trainer", lambda *given: made.append(Trainer(*given)) or made[-1])
    result = trials.train(1, 5, 0.025)
    config = replace(with_steps(trials.candidates[1].config, 5), seed=5, run_dir=tmp_path / "run")
    with open_run(config, dataset.tokenizer, False) as run:
        training = Training(config, dataset, run)
    assert result.steps == config.steps == 5 and config.optimizer.warmup_steps == 1
    for _ in range(5):
        training.step()
    require_equal(dict(made[0].model.state_dict()), dict(training.model.state_dict()))


def test_a_rung_has_the_pace_of_those_before(trials, monkeypatch):
    """Here steps take twice as long as the fastest ones, of one candidate 0.1 and of the other 0.3 seconds."""
    times = iter([[0.1, 0.1, 0.1, 0.3, 0.3], [0.3, 0.3, 0.3, 0.9, 0.9], [9.0] * 3, [9.0] * 3])
    monkeypatch.setattr(trial, "fit", lambda *_: next(times))
    trials.speeds = {0: Speed(0.5, 3.0), 1: Speed(0.7, 3.0)}
    found = [trials.train(0, 1, 5.0), trials.train(1, 1, 7.0)]
    assert [one.steps for one in found] == [10, 10] and trials.pace == 1.0
    assert [one.forecast_s for one in found] == pytest.approx([5.0, 7.0])
    trials.begin_rung()
    assert trials.speeds == {0: Speed(0.1, 3.0), 1: Speed(0.3, 3.0)}
    assert trials.pace == pytest.approx((0.9 + 2.7) / (5 * 0.1 + 5 * 0.3))
    found = [trials.train(0, seed, 1.8) for seed in (1, 2)]
    assert [one.steps for one in found] == [10, 10]  # which that were slower change nothing before the next one
    assert [one.forecast_s for one in found] == pytest.approx([1.8, 1.8])


def test_fast_steps_are_those_that_a_tenth_are_below():
    assert fast([9.0, 9.0, *range(20, 0, -1)]) == 3  # two of twenty are faster
    assert fast([9.0, 9.0, 5.0, 4.0]) == 4.0
    assert fast([9.0]) == 9.0


@pytest.mark.process
def test_speed_and_evaluation_are_measured(dataset, tiny_config):
    speed = measured_speed(tiny_config, dataset, World("cpu"), 0.05)
    assert 0 < speed.step < 1.0 and speed.beginning >= 0
    assert 0 < measured_evaluation(tiny_config, dataset, World("cpu"), 0.01) < 0.1


@pytest.mark.process
def test_costs_are_those_of_what_it_begins_with(trials, dataset):
    del trials.speeds[0]
    costs = trials.costs(2.0)
    speed = trials.speeds[0]
    assert (costs.step, costs.around) == (speed.step, speed.beginning + 2.0)
    assert costs.trial > 5 * speed.step
    assert costs.longest == pytest.approx(trials.most_steps(trials.candidates[0].config) * speed.step)
    assert Costs(1.0, 0.0, 0.0, math.inf).least == 20.0 and Costs(1.0, 0.0, 0.0, 10.0).least == 10.0


def test_no_text_is_read_more_often_than_suits_it(trials, dataset, tiny_config):
    """A small one, five times where there are no n-grams; by `max_epochs`, as often as that says."""
    windows = math.ceil((dataset.train.tokens - 1) / 32)
    assert trials.most_steps(tiny_config) == 6 * windows // 6  # of 6 sequences each; some 30,000 tokens: six epochs
    more = replace(tiny_config, model=replace(tiny_config.model, ngram=2))
    assert trials.most_steps(more) == windows // 6
    assert trials.most_steps(replace(tiny_config, max_epochs=0.1)) == int(0.1 * windows / 6)
    assert trials.most_steps(replace(tiny_config, batch_tokens=32 * windows, max_epochs=None)) == 10


def test_a_warm_up_is_at_most_a_tenth_as_in_train_py(tiny_config):
    def warmups(asked):
        config = replace(tiny_config, optimizer=OptimizerConfig(warmup_steps=asked))
        return [with_steps(config, steps).optimizer.warmup_steps for steps in (1, 30, 1000)]

    assert warmups(20) == [1, 3, 20] and warmups(0) == [0, 0, 0]


def test_what_diverges_has_no_figure(trials, monkeypatch):
    monkeypatch.setattr(Trainer, "gradient", lambda *_: (math.nan, math.nan))
    result = trials.train(0, 1, 1.0)
    assert (result.fault, result.measured) == ("diverged", None)
    assert trials._done == []  # it was given up before all of its steps


def test_so_has_a_loss_that_is_no_number(trials, monkeypatch):
    sums = torch.full((3, 3), math.nan)
    monkeypatch.setattr(trial, "sums_per_piece", lambda *_: sums)
    assert trials.train(0, 1, 0.01).fault == "diverged"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), trial.StepFailed("step 3: out of memory")]
)
def test_what_does_not_fit_into_memory_is_told_and_the_next_goes_on(trials, monkeypatch, error):
    def fails(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(trial, "new_model", fails)
        assert trials.train(1, 1, 0.01).fault == "out of memory"
    assert trials.train(0, 1, 0.01).fault == ""


def test_other_errors_are_errors(trials, monkeypatch):
    def fails(*_):
        raise InputError("data/x: cannot be read")

    monkeypatch.setattr(trial, "new_model", fails)
    with pytest.raises(InputError, match="cannot be read"):
        trials.train(0, 1, 0.01)


def test_the_compiler_is_left_out_unless_it_is_asked_for(trials, tiny_config):
    for asked, used in (("auto", "off"), ("on", "on"), ("off", "off")):
        trials.candidates = [Candidate(replace(tiny_config, compile=asked))]
        assert trials._config(0).compile == used


def test_what_cannot_be_tuned_is_refused(tiny_config):
    with pytest.raises(InputError, match="begins with random weights, and `init_from` names others"):
        require_tunable(replace(tiny_config, init_from="gpt2"))
    with pytest.raises(InputError, match="`data` a=1 b=2: is a mixture; a tuning takes one dataset"):
        require_tunable(replace(tiny_config, data=("a=1", "b=2")))
    require_tunable(tiny_config)
