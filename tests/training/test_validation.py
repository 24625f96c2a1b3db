"""Evaluations of a training: what they cover, what is compared with what, and what stops them."""

import contextlib
import io
import re
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers import python_text, require_equal, weights, without_clock, write_dataset

from gpt import InputError
from gpt.evaluation.loss import evaluate
from gpt.evaluation.windows import Windows
from gpt.runs import checkpoint
from gpt.runs.checkpoint import list_checkpoints, load_best, load_newest, step_of
from gpt.tracking.jsonl import read_metrics
from gpt.training import validation
from gpt.training.summary import report_stop
from gpt.training.validation import validation_windows


@pytest.fixture
def budgeted(tiny_config):
    """Evaluates ten windows of some 125."""
    return replace(tiny_config, evaluation=replace(tiny_config.evaluation, tokens=320))


def of_windows(training, windows):
    return evaluate(training.model, windows, training.dataset.tokenizer.byte_lengths(), "cpu", batch=4)


def test_evaluations_read_the_budget_and_the_last_one_the_complete_split_too(
    undisturbed, finished, make_training, budgeted, dataset
):
    training = undisturbed(budgeted)
    records = [record for record in read_metrics(training.run) if "val_loss" in record]
    few, whole = validation_windows(budgeted, dataset), validation_windows(budgeted, dataset, complete=True)
    assert (len(few), few.is_complete, whole.is_complete) == (10, False, True)
    assert records[-1]["val_loss"] == of_windows(training, few).loss
    assert records[-1]["complete_val_loss"] == of_windows(training, whole).loss != records[-1]["val_loss"]
    assert [("complete_val_loss" in record) for record in records] == [False, False, True]
    state = load_newest(training.run).state
    assert state["best_validation_loss"] == min(record["val_loss"] for record in records)
    assert state["complete_evaluation"]["tokens"] == dataset.validation.tokens - 1
    assert state["evaluations"] == 3
    finished(budgeted)
    again = make_training(budgeted, resume=True)
    assert (again.state.complete_evaluation, again.state.evaluations) == (training.state.complete_evaluation, 3)


def test_a_run_that_stops_early_ends_with_the_complete_split(make_training, budgeted, monkeypatch):
    original = validation.summarize
    losses = iter([2.0, 3.0, 1.0])  # the second is worse; the third is that of the complete split
    monkeypatch.setattr(validation, "summarize", lambda *sums: replace(original(*sums), loss=next(losses)))
    training = make_training(replace(budgeted, early_stopping_patience=1))
    assert training.fit()
    assert training.state.step == 20
    assert training.state.complete_evaluation.loss == 1.0
    assert training.state.best_validation_loss == 2.0  # never compared with the other


def test_the_last_best_evaluation_is_compared_with_the_best_before_pairwise(
    undisturbed, finished, make_training, tiny_config
):
    training = undisturbed(tiny_config)
    losses = [record["val_loss"] for record in read_metrics(training.run) if "val_loss" in record]
    best = sorted(losses)[:2]
    assert losses[-1] == best[0]  # as this run goes
    assert training.state.gain.value == pytest.approx(best[0] - best[1])
    assert training.state.gain.standard_error < training.state.evaluation.loss_se
    finished(tiny_config)
    assert "change" in (table := printed_table(make_training(tiny_config, resume=True)))
    assert "the best of 3 evaluations" in table


def printed_table(training):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        training.report()
    return output.getvalue()


def test_the_table_keeps_the_complete_figure_apart_from_the_best(undisturbed, finished, make_training, budgeted):
    training = undisturbed(budgeted)
    finished(budgeted)
    table = printed_table(make_training(budgeted, resume=True))
    best, whole = (re.search(rf"{name} +(\d+\.\d{{4}})", table)[1] for name in ("validation loss", "complete split"))
    assert best == f"{training.state.best_validation_loss:.4f}"
    assert whole == f"{training.state.complete_evaluation.loss:.4f}" != best
    assert "spread evenly" in table
    assert "after step 30" in table


def test_a_budget_above_the_split_evaluates_it_once(undisturbed, tiny_config):
    training = undisturbed(tiny_config)
    assert training.validation.windows.is_complete
    assert training.state.complete_evaluation is None
    assert not [record for record in read_metrics(training.run) if "complete_val_loss" in record]


@pytest.fixture
def interrupted(monkeypatch):
    """What is put into it comes, as a signal or an exception, in the next evaluation on the complete split."""
    honest, ways = validation.sums_per_piece, []

    def sums_per_piece(model, windows, *arguments, **options):
        if windows.is_complete and ways:
            way = ways.pop()
            if not isinstance(way, signal.Signals):
                raise way
            signal.raise_signal(way)
        return honest(model, windows, *arguments, **options)

    monkeypatch.setattr(validation, "sums_per_piece", sums_per_piece)
    return ways


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("way", [signal.SIGUSR1, KeyboardInterrupt()], ids=["signal", "kill"])
def test_a_last_and_complete_evaluation_that_was_cut_short_is_made_up_for(
    undisturbed, make_training, budgeted, interrupted, way, early, said
):
    """At the last step, or where it stopped early: nothing but the clock tells a difference."""
    evaluation = replace(budgeted.evaluation, every=4)
    budgeted = replace(budgeted, steps=12, evaluation=evaluation)
    if early:  # with such a rate nothing is learned
        optimizer = replace(budgeted.optimizer, learning_rate=1e-15)
        budgeted = replace(budgeted, optimizer=optimizer, early_stopping_patience=1)
    whole = undisturbed(budgeted)
    assert whole.state.step == (8 if early else 12)
    interrupted.append(way)
    first = make_training(budgeted, "parts")
    if way == signal.SIGUSR1:
        assert not first.fit()
        assert any("stopped before that was done; `resume` begins it again" in message for message in said)
    else:
        with pytest.raises(KeyboardInterrupt):
            first.fit()
    assert first.state.complete_evaluation is None
    assert load_newest(first.run).state["step"] == whole.state.step
    second = make_training(budgeted, "parts", resume=True)
    assert second.fit()
    assert second.state.complete_evaluation == whole.state.complete_evaluation
    assert second.state.complete_evaluation is not None
    states = [load_newest(training.run).state for training in (whole, second)]
    clocked = ("elapsed_s", "record")
    one, two = ({key: value for key, value in state.items() if key not in clocked} for state in states)
    assert one == two
    assert without_clock(read_metrics(whole.run)) == without_clock(read_metrics(second.run))
    again = make_training(budgeted, "parts", resume=True)  # nothing is left to be done
    assert again.state.unevaluated is None
    assert again.fit()
    assert again.state.complete_evaluation == whole.state.complete_evaluation
    assert without_clock(read_metrics(whole.run)) == without_clock(read_metrics(again.run))


def test_more_steps_take_the_place_of_a_complete_evaluation_that_was_cut_short(make_training, budgeted, interrupted):
    budgeted = replace(budgeted, steps=6)
    interrupted.append(signal.SIGUSR1)
    make_training(budgeted).fit()
    longer = make_training(replace(budgeted, steps=8), resume=True, allow_rate_jump=True)
    assert longer.fit()
    assert longer.state.complete_evaluation is not None
    records = read_metrics(longer.run)
    assert [record["step"] for record in records] == list(range(1, 9))
    assert ["complete_val_loss" in record for record in records[5:]] == 2 * [False] + [True]


def test_a_run_that_ends_earlier_than_it_was_to_gets_its_complete_evaluation(make_training, budgeted):
    """Its last step was evaluated, but not as the last one."""
    make_training(replace(budgeted, stop_at=20)).fit()
    training = make_training(replace(budgeted, steps=20), resume=True, allow_rate_jump=True)
    assert training.fit()
    assert training.state.complete_evaluation is not None
    assert "complete_val_loss" in read_metrics(training.run)[-1]


def test_the_best_loss_is_never_compared_with_one_of_other_windows(make_training, budgeted):
    make_training(replace(budgeted, stop_at=20)).fit()
    other = replace(budgeted, evaluation=replace(budgeted.evaluation, tokens=640))
    remedy = "go on with `evaluation.tokens` 320, which is the same part, or with `allow_other_data`"
    with pytest.raises(InputError, match=f"`evaluation.tokens` 640: the losses of .* are of another part.*{remedy}"):
        make_training(other, resume=True)
    assert make_training(budgeted, resume=True).state.step == 20


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("stopped_at", [4, 6])
def test_other_windows_that_are_allowed_forget_the_best_of_the_old_ones(make_training, budgeted, said, old, stopped_at):
    """In the state, on disk and for early_stopping_patience; also of a run from before there was a budget."""
    evaluation = replace(budgeted.evaluation, every=4)
    budgeted = replace(budgeted, steps=10, evaluation=evaluation, checkpoint=replace(budgeted.checkpoint, every=4))
    before = replace(budgeted.evaluation, tokens=10**9) if old else budgeted.evaluation
    first = make_training(replace(budgeted, evaluation=before, stop_at=stopped_at))
    first.fit()
    saved = [checkpoint.load(path, optimizer=True) for path in list_checkpoints(first.run)]
    for each in saved:
        state = each.state | {"best_validation_loss": 0.01}
        if state["evaluation"]:
            state["evaluation"] |= {"loss": 0.01}
        if old:
            del state["evaluated_windows"], state["epochs_measured"]
        checkpoint.save(first.run, each.model, each.optimizer, state)
    other = replace(budgeted, evaluation=replace(budgeted.evaluation, tokens=640, every=2))
    second = make_training(replace(other, stop_at=stopped_at + 1), resume=True, allow_other_data=True)
    assert "`evaluation.tokens` 640 and not " in "\n".join(said)
    assert (second.state.best_validation_loss, second.state.evaluations, second.state.evaluations_since_best) == (
        None,
        0,
        0,
    )
    second.fit()
    third = make_training(other, resume=True)
    evaluation = load_newest(third.run).state["evaluation"]
    assert third.state.best_validation_loss == (evaluation["loss"] if evaluation else None)
    third.fit()
    best = load_best(third.run).state
    assert best["evaluation"]["loss"] == third.state.best_validation_loss > 1
    assert best["evaluation"]["tokens"] == third.validation.windows.targets


def test_a_last_evaluation_of_other_windows_is_made_again(finished, make_training, budgeted):
    finished(budgeted)
    other = replace(budgeted, evaluation=replace(budgeted.evaluation, tokens=10**9))
    training = make_training(other, resume=True, allow_other_data=True)
    assert training.fit()
    newest = load_newest(training.run).state
    assert newest["evaluation"]["tokens"] == training.validation.windows.targets
    assert read_metrics(training.run)[-1]["val_loss"] == newest["evaluation"]["loss"]


@pytest.mark.parametrize("micro_batch_size", [1, 3, 100])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_loss_is_the_same_to_the_last_digit_however_it_is_divided(
    make_training, budgeted, micro_batch_size, processes
):
    """Windows cross the borders of documents, and those of one document may lie on several processes."""
    training = make_training(budgeted)
    windows = validation_windows(budgeted, training.dataset, complete=True)

    def sums(batch, parts):
        arguments = (training.model, windows, training.dataset.tokenizer.byte_lengths(), "cpu", torch.float32, batch)
        return sum(validation.sums_per_piece(*arguments, part=(number, parts)) for number in range(parts))

    whole = sums(8, 1)
    divided = sums(micro_batch_size, processes)
    assert torch.equal(divided[:, 1:], whole[:, 1:])
    assert divided[:, 0].sum().item() == pytest.approx(whole[:, 0].sum().item(), rel=1e-6)
    assert np.array_equal(divided.numpy(), sums(micro_batch_size, 1).numpy())


def test_the_change_from_the_best_before_is_known_after_a_resume_between_the_two(undisturbed, make_training, budgeted):
    budgeted = replace(budgeted, steps=12, evaluation=replace(budgeted.evaluation, every=4))
    whole = undisturbed(budgeted)
    make_training(replace(budgeted, stop_at=10), "parts").fit()
    parts = make_training(budgeted, "parts", resume=True)
    parts.fit()
    assert whole.state.gain is not None
    assert whole.state.gain == parts.state.gain
    assert (
        make_training(budgeted, "parts", resume=True).state.gain == whole.state.gain
    )  # for the table of a finished run


def test_a_run_that_stops_so_early_that_the_complete_split_would_take_longer_leaves_it_out(
    make_training, budgeted, monkeypatch
):
    original = validation.summarize
    losses = iter([2.0, 3.0])
    monkeypatch.setattr(validation, "summarize", lambda *sums: replace(original(*sums), loss=next(losses)))
    config = replace(budgeted, early_stopping_patience=1, steps=3000, evaluation=replace(budgeted.evaluation, every=1))
    training = make_training(config)
    assert training.fit()
    assert training.state.step == 2
    assert training.state.complete_evaluation is None


def test_early_stopping_ends_a_run_that_no_longer_improves(make_training, tiny_config, monkeypatch, said):
    """Evaluations at 3, 6, …: the best is the second, so the run ends with the fifth; a resumed run counts on."""
    losses = {3: 3.0, 6: 2.0, 9: 2.5, 12: 2.0, 15: 2.1, 18: 1.0}
    config = replace(tiny_config, early_stopping_patience=3, evaluation=replace(tiny_config.evaluation, every=3))
    config = replace(config, checkpoint=replace(config.checkpoint, every=0, keep=1))
    original = validation.summarize
    training = make_training(replace(config, stop_at=10))
    monkeypatch.setattr(
        validation, "summarize", lambda *sums: replace(original(*sums), loss=losses[training.state.step])
    )
    assert not training.fit()
    training = make_training(config, resume=True)
    assert training.fit()
    assert training.state.step == 15
    assert load_best(training.run).state["step"] == 6
    assert [step_of(path) for path in list_checkpoints(training.run)] == [6, 15]
    training.report()
    assert "stopped early: 3 evaluations in a row without a new best validation loss" in said
    finished = make_training(config, resume=True)
    assert finished.fit()
    assert finished.state.step == 15


# ---- the training split, measured as the validation split is ----


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Of which an epoch is six steps and a bit."""
    text = python_text()
    pieces = [text[i : i + 100] for i in range(0, 1500, 100)]
    documents = [("validation" if i % 5 == 4 else "train", piece) for i, piece in enumerate(pieces)]
    return write_dataset(documents, "bytes", tmp_path_factory.mktemp("data") / "small")


@pytest.fixture
def measuring(tiny_config, small):
    """Evaluates before the first step and every second one."""
    evaluation = replace(tiny_config.evaluation, every=2, at_start=True, train_split=True)
    checkpoints = replace(tiny_config.checkpoint, every=2, keep=99)
    return replace(tiny_config, data=small.path, steps=22, evaluation=evaluation, checkpoint=checkpoints)


@pytest.fixture
def make(make_mixed, small):
    return partial(make_mixed, data=small)


def of_state(training):
    """What a checkpoint keeps but for weights, moments and the clock."""
    return {name: v for name, v in load_newest(training.run).state.items() if name not in ("elapsed_s", "record")}


@pytest.mark.process
def test_the_training_split_is_measured_as_the_validation_split_is_once_an_epoch(make, measuring, small):
    training = make(measuring)
    assert training.fit()
    records = read_metrics(training.run)
    measured = {record["step"]: record for record in records if "train_split_loss" in record}
    ends = [next(r["step"] for r in records if r["epoch"] >= n and r["step"] % 2 == 0) for n in (1, 2, 3)]
    assert [*measured] == [0, *ends, 22]
    assert max(ends) < 22
    few = validation_windows(measuring, small)
    windows = Windows(small.train, 32, 256, tokens=32 * len(few))
    assert len(windows) == len(few) < windows.whole
    for step, record in measured.items():
        training.model.load_state_dict(
            checkpoint.load(training.run / "checkpoints" / f"step-{step:08}", optimizer=False).model
        )
        for split, name in ((windows, "train_split"), (few, "val")):
            found = of_windows(training, split)
            assert (record[f"{name}_loss"], record[f"{name}_loss_se"]) == (found.loss, found.loss_se)
    assert measured[22]["train_split_loss"] != records[-1]["train_loss"]
    assert training.state.epochs_measured == 3


@pytest.mark.process
def test_nothing_else_depends_on_it(make, measuring):
    with_it, without = (
        make(measuring),
        make(replace(measuring, evaluation=replace(measuring.evaluation, train_split=False)), "without"),
    )
    assert with_it.fit() and without.fit()
    require_equal(weights(with_it), weights(without))
    records = without_clock(read_metrics(with_it.run))
    for record in records:
        for name in [name for name in record if name.startswith("train_split")]:
            del record[name]
    assert records == without_clock(read_metrics(without.run))


@pytest.fixture
def cut_short(monkeypatch):
    """Has a signal come in the evaluation of the training split that follows so many others."""
    honest, left = validation.sums_per_piece, []

    def sums_per_piece(model, windows, *arguments, **options):
        if windows.split.name == "train" and left and not left.pop():
            signal.raise_signal(signal.SIGUSR1)
        return honest(model, windows, *arguments, **options)

    monkeypatch.setattr(validation, "sums_per_piece", sums_per_piece)
    return left


@pytest.mark.process
@pytest.mark.parametrize(("before", "step"), [(1, 8), (4, 22), (1, 4)], ids=["epoch", "last", "early"])
def test_a_measurement_of_the_training_split_that_was_cut_short_is_made_up_for(
    make, measuring, cut_short, before, step
):
    """After an epoch, at the last step, and where it stopped early, which no later step saves."""
    if step == 4:  # with such a rate nothing is learned
        optimizer = replace(measuring.optimizer, learning_rate=1e-15)
        every = replace(measuring.checkpoint, every=0)
        measuring = replace(measuring, optimizer=optimizer, early_stopping_patience=2, checkpoint=every)
    whole = make(measuring, "whole")
    assert whole.fit()
    cut_short += [False, *[True] * before]
    first = make(measuring)
    assert not first.fit()
    saved = load_newest(first.run).state
    assert (saved["step"], "val_loss" in saved["unevaluated"]) == (step, True)
    assert "train_split_loss" not in saved["unevaluated"]
    second = make(measuring, resume=True)
    assert second.fit()
    assert without_clock(read_metrics(whole.run)) == without_clock(read_metrics(second.run))
    assert of_state(whole) == of_state(second)
    require_equal(weights(whole), weights(second))
    assert make(measuring, resume=True).state.unevaluated is None


@pytest.mark.process
def test_other_windows_that_are_allowed_are_measured_at_once(make, measuring):
    """In the midst of an epoch, as what was measured at its beginning was of others."""
    make(replace(measuring, stop_at=10)).fit()
    few = replace(measuring, stop_at=12, evaluation=replace(measuring.evaluation, tokens=64))
    again = make(few, resume=True, allow_other_data=True)
    again.fit()
    assert [r["step"] for r in read_metrics(again.run) if "train_split_loss" in r] == [0, 8, 12]
    assert len(again.validation.train_windows) == 2


def test_a_first_measurement_that_was_cut_short_leaves_nothing_saved_and_says_so(make, measuring, cut_short, said):
    cut_short.append(False)
    training = make(measuring)
    assert not training.fit()
    report_stop(training.run, training.state)
    assert not list_checkpoints(training.run)
    assert "stopped before the first step: nothing was trained, and nothing is saved; begin again with" in said[-1]


def test_a_training_split_in_whose_windows_nothing_is_learned_is_not_measured_and_said(
    make_training, tiny_config, monkeypatch, said
):
    measuring = replace(tiny_config, evaluation=replace(tiny_config.evaluation, train_split=True))
    monkeypatch.setattr(Windows, "counted", property(lambda windows: windows.split.name != "train"))
    assert make_training(measuring).validation.train_windows is None
    assert "the loss on the training split is not measured: none of the " in said[-1]
