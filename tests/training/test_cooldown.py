"""A best that must be better by errors, and the end of a training that stopped early: back to the best, and down."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import require_equal, tensors, weights, without_clock

from gpt import InputError
from gpt.config import CheckpointConfig, EvaluationConfig
from gpt.evaluation.loss import summarize
from gpt.evaluation.windows import Windows
from gpt.runs import checkpoint
from gpt.runs.checkpoint import list_checkpoints, load_best, load_newest, prune, step_of
from gpt.tracking.jsonl import read_metrics
from gpt.training import validation
from gpt.training.schedule import Cooldown, Schedule
from gpt.training.state import TrainState


@pytest.fixture
def stopping(tiny_config):
    """Its first evaluation, after three steps, is the only one to bring a best, and two more end it: at nine."""
    return replace(
        tiny_config,
        early_stopping_patience=2,
        cooldown=1.0,
        evaluation=EvaluationConfig(every=3, sample_tokens=0, min_gain=1e9, train_split=True),
        checkpoint=CheckpointConfig(every=0, keep=1),
    )


# ---- what a new best is ----


def jackknife(one, two, documents):
    """The difference of two losses, and its error by leaving out each document in turn, from the plain formula."""
    nats, tokens = np.zeros((2, documents.max() + 1)), np.zeros(documents.max() + 1)
    for row, sums in enumerate((one, two)):
        np.add.at(nats[row], documents, sums[:, 0])
    np.add.at(tokens, documents, one[:, 1])
    losses = nats.sum(axis=1) / tokens.sum()
    own = (nats[1] - nats[0] - (losses[1] - losses[0]) * tokens) / tokens.sum()
    return losses[1] - losses[0], math.sqrt((own**2 / (1 - tokens / tokens.sum()) ** 2).sum())


def test_a_new_best_beats_the_one_before_by_errors_of_the_paired_difference(dataset):
    windows = Windows(dataset.validation, 32, dataset.tokenizer.end_of_text)
    random, verdicts = np.random.default_rng(0), []
    pieces = len(windows.documents)
    documents = np.unique(windows.documents, return_inverse=True)[1]
    tokens = random.integers(1, 40, pieces).astype(float)
    hard = random.gamma(2, 2, pieces) * tokens  # what is hard for one is hard for the other
    for number in range(60):
        before = np.stack([hard, tokens, tokens], axis=1)
        change = random.normal(-0.01 * (number % 4), 0.1, pieces) * tokens
        after = np.stack([hard + change, tokens, tokens], axis=1)
        state = TrainState(step=1)
        for sums in map(torch.from_numpy, (before, after)):
            state.judge(summarize(sums, windows), sums, windows, min_gain=1.5)
            if sums is not after and state.best_validation_loss is None:
                state.mark_saved()
                state.count_step()
        difference, error = jackknife(before, after, documents)
        assert state.is_best == (difference < -1.5 * error)
        assert state.within_error == (-1.5 * error <= difference < 0)
        assert state.evaluations_since_best == (0 if state.is_best else 1)
        verdicts.append((state.is_best, state.within_error))
    assert len(set(verdicts)) == 3


def test_where_there_is_too_little_text_for_an_error_any_lower_loss_is_the_best(dataset):
    windows = Windows(dataset.validation, 32, None, tokens=64)
    state, sums = TrainState(step=1), torch.tensor([[90.0, 32, 32], [90, 32, 32]], dtype=torch.float64)
    for scale in (1.0, 0.999):
        state.mark_saved()
        state.count_step()
        scaled = sums * torch.tensor([scale, 1, 1])
        state.judge(summarize(scaled, windows), scaled, windows, min_gain=3)
        assert state.is_best
    assert state.gain.standard_error is None


@pytest.mark.parametrize(("sick", "min_gain"), [(math.nan, 0), (math.nan, 1), (math.inf, 0)])
def test_a_loss_that_is_no_number_is_never_the_best(make_training, tiny_config, monkeypatch, sick, min_gain):
    losses = {3: sick, 6: 3.0, 9: sick, 12: 2.9}
    config = replace(tiny_config, stop_at=12, evaluation=EvaluationConfig(every=3, sample_tokens=0, min_gain=min_gain))
    training, honest = make_training(config), validation.summarize
    monkeypatch.setattr(validation, "summarize", lambda *s: replace(honest(*s), loss=losses[training.state.step]))
    training.fit()
    assert training.state.best_validation_loss in (2.9, 3.0)
    assert load_best(training.run).state["evaluation"]["loss"] == training.state.best_validation_loss
    assert training.state.best_step == load_best(training.run).state["step"]


def save(run, step, loss, **state):
    checkpoint.save(run, tensors(step), {}, {"step": step, "evaluation": {"loss": loss}} | state)


def test_a_loss_that_is_lower_by_less_than_asked_for_stands_behind_the_best(tmp_path):
    """For whoever samples, evaluates, exports or goes on from the best; and it is the best that is kept."""
    run = tmp_path / "run"
    run.mkdir()
    save(run, 10, 3.0, best_validation_loss=3.0)
    save(run, 20, 2.5, best_validation_loss=2.5)
    save(run, 30, 2.49, best_validation_loss=2.5, within_error=True)
    save(run, 40, 2.48, best_validation_loss=2.5, within_error=True)
    save(run, 50, 2.6, best_validation_loss=2.5)
    assert load_best(run).state["step"] == checkpoint.best_state(run)["step"] == 20
    prune(run, keep=1)
    assert [step_of(path) for path in list_checkpoints(run)] == [20, 50]
    save(run, 60, 2.47, best_validation_loss=2.47)
    assert load_best(run).state["step"] == 60


def test_the_record_tells_a_loss_that_was_within_the_errors(make_training, stopping):
    training = make_training(stopping)
    assert training.fit()
    evaluated = [record for record in read_metrics(training.run) if "val_loss" in record]
    best = next(record for record in evaluated if record["step"] == 3)["val_loss"]
    lower = [record["step"] for record in evaluated if record["val_loss"] < best and record["step"] <= 9]
    assert lower == [record["step"] for record in evaluated if record.get("within_error")]
    assert lower


# ---- the cool-down ----


@pytest.mark.parametrize(("last", "kept"), [(1.9, 15), (2.1, 6)])
def test_a_training_that_stops_goes_back_to_its_best_and_cools_down_and_keeps_what_is_better(
    make_training, tiny_config, monkeypatch, said, capsys, last, kept
):
    """Evaluations at 3, 6, 9 and 12, where patience ends: back to 6, and three steps, half as many, from there."""
    losses = {3: 3.0, 6: 2.0, 9: 2.5, 12: 2.6, 15: last}
    evaluation = EvaluationConfig(every=3, sample_tokens=0)
    config = replace(tiny_config, early_stopping_patience=2, cooldown=0.5, evaluation=evaluation)
    training, honest = make_training(config), validation.summarize
    monkeypatch.setattr(validation, "summarize", lambda *s: replace(honest(*s), loss=losses[training.state.step]))
    before = []

    def noted(do):
        before.append((training.state.step, weights(training)))
        return do()

    training.around_steps(noted)
    assert training.fit()
    assert [step for step, _ in before] == list(range(15))
    require_equal(dict(before)[12], dict(before)[6])
    records = read_metrics(training.run)
    assert [record["step"] for record in records] == list(range(1, 16))
    peak = Schedule.of(config).rate(6)
    assert [record["learning_rate"] for record in records[12:]] == pytest.approx([peak * n / 4 for n in (3, 2, 1)])
    assert len({record["batch_hash"] for record in records}) == 15
    assert "step 12: 2 evaluations in a row without a new best; back to step 6, " in "\n".join(said)
    assert load_best(training.run).state["step"] == training.state.best_step == kept
    training.report()
    assert "stopped early: 2 evaluations in a row" in "\n".join(said)
    words = "better, and kept" if kept == 15 else "no better than step 6, which is kept"
    assert f"3 steps from step 6: {words}" in capsys.readouterr().out
    again = make_training(config, resume=True)  # it is finished, and nothing is done again
    assert again.fit()
    assert again.state.step == 15


def test_a_cool_down_is_never_longer_than_what_the_run_has_left(make_training, stopping):
    for steps, last in ((9, 9), (10, 10), (20, 12)):
        training = make_training(replace(stopping, steps=steps), f"of-{steps}")
        assert training.fit()
        assert training.state.step == last
        assert (training.state.cooldown is None) == (steps == 9)


class Killed(BaseException):
    """Ends a training between two steps, and nothing is saved."""


@pytest.mark.parametrize(("every", "killed"), [(0, 5), (0, 10), (2, 9), (2, 11)])
def test_a_run_killed_anywhere_goes_on_bit_for_bit_its_cool_down_included(
    undisturbed, make_training, stopping, every, killed
):
    config = replace(stopping, checkpoint=replace(stopping.checkpoint, every=every))
    whole = undisturbed(config)
    assert whole.state.cooldown == Cooldown(3, 9, 3, whole.state.cooldown.factor)
    assert whole.state.step == 12
    assert [r["step"] for r in read_metrics(whole.run) if "train_split_loss" in r] == [12]  # the last evaluation
    first = make_training(config)

    def until(do):
        if first.state.step == killed:
            raise Killed
        return do()

    first.around_steps(until)
    with pytest.raises(Killed):
        first.fit()
    torch.manual_seed(99)
    second = make_training(config, resume=True)
    assert second.state.step == (3 if every == 0 else killed - killed % 2)
    assert second.fit()
    one, two = load_newest(whole.run), load_newest(second.run)
    require_equal(one.model, two.model)
    require_equal(one.optimizer, two.optimizer)
    assert without_clock(read_metrics(whole.run)) == without_clock(read_metrics(second.run))
    states = [{k: v for k, v in saved.state.items() if k not in ("elapsed_s", "record")} for saved in (one, two)]
    assert states[0] == states[1]
    assert load_best(second.run).state["step"] == load_best(whole.run).state["step"]


def test_a_cool_down_that_was_stopped_goes_on_from_its_middle(undisturbed, make_training, stopping):
    whole = undisturbed(stopping)
    for stop_at in (9, 11):
        make_training(replace(stopping, stop_at=stop_at), f"at-{stop_at}").fit()
        second = make_training(stopping, f"at-{stop_at}", resume=True)
        assert second.state.step == stop_at
        assert second.fit()
        require_equal(weights(whole), weights(second))


def test_a_best_that_cannot_be_gone_back_to_ends_the_training_as_it_is(make_training, stopping, said, capsys):
    training = make_training(stopping)

    def spoil(do):
        if training.state.step == 8:
            (training.run / "checkpoints" / "step-00000003" / "model.safetensors").write_bytes(b"")
        return do()

    training.around_steps(spoil)
    assert training.fit()
    assert training.state.step == 9
    assert "step 3, the best, cannot be gone back to (" in "\n".join(said)
    training.report()
    assert "none, as step 3 could not be gone back to" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"steps": 60}, {"optimizer": 1e-4}])
def test_another_schedule_is_refused_once_the_rate_has_come_down(
    undisturbed, make_training, stopping, changes, finished
):
    run = finished(stopping)
    if "optimizer" in changes:
        changes = {"optimizer": replace(stopping.optimizer, learning_rate=1e-4)}
    with pytest.raises(InputError, match=f"{run.name}: has stopped early, and its rate has come down.*`init_from`"):
        make_training(replace(stopping, **changes), resume=True)


def test_what_a_cool_down_is_survives_json():
    cooldown = Cooldown(best_step=40, begin=55, steps=4, factor=0.3)
    assert [cooldown.at(step) for step in range(55, 59)] == pytest.approx([0.24, 0.18, 0.12, 0.06])
    state = TrainState(step=57, cooldown=cooldown, first_sums=torch.rand(3, 3, dtype=torch.float64), best_step=40)
    back = TrainState.of(json.loads(json.dumps(state.state_dict())))
    assert back.cooldown == cooldown
    assert torch.equal(back.first_sums, state.first_sums)
    assert (back.best_step, back.within_error) == (40, False)


def test_without_a_share_of_steps_or_a_step_to_go_back_to_it_ends_at_once(tiny_config):
    config = replace(tiny_config, early_stopping_patience=3, cooldown=0.1)
    for best_step, share, steps in itertools.product((None, 0, 5, 100), (0.0, 0.1), (1000,)):
        state = TrainState(step=200, best_step=best_step, evaluations_since_best=3)
        own = replace(config, cooldown=share, steps=steps)
        wanted = math.ceil(share * (best_step or 0))
        assert state.cooldown_steps(own) == wanted
        assert state.is_over(own) == (wanted == 0)
