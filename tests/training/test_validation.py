"""Evaluations of a training: what they cover, what is compared with what, and what stops them."""

import contextlib
import io
import math
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import fit

from gpt import InputError
from gpt.evaluation.loss import evaluate
from gpt.runs import checkpoint
from gpt.runs.checkpoint import list_checkpoints, load_best, load_newest
from gpt.tracking.jsonl import read_metrics
from gpt.training import validation
from gpt.training.summary import report
from gpt.training.windows import validation_windows


@pytest.fixture
def budgeted(tiny_config):
    """Evaluates ten windows of some 125."""
    return replace(tiny_config, evaluation=replace(tiny_config.evaluation, tokens=320))


def of_windows(trainer, windows):
    return evaluate(trainer.model, windows, trainer.dataset.tokenizer.byte_lengths(), "cpu", batch=4)


def test_evaluations_read_the_budget_and_the_last_one_the_complete_split_too(make_trainer, budgeted, dataset, quiet):
    trainer = make_trainer(budgeted)
    assert fit(trainer, quiet)
    records = [record for record in read_metrics(trainer.run) if "val_loss" in record]
    few, whole = validation_windows(budgeted, dataset), validation_windows(budgeted, dataset, complete=True)
    assert (len(few), few.is_complete, whole.is_complete) == (10, False, True)
    assert records[-1]["val_loss"] == of_windows(trainer, few).loss
    assert records[-1]["complete_val_loss"] == of_windows(trainer, whole).loss != records[-1]["val_loss"]
    assert [("complete_val_loss" in record) for record in records] == [False, False, True]
    state = load_newest(trainer.run).state
    assert state["best_validation_loss"] == min(record["val_loss"] for record in records)
    assert state["complete_evaluation"]["tokens"] == dataset.validation.tokens - 1
    assert state["evaluations"] == 3
    again = make_trainer(budgeted, resume=True)
    assert (again.complete_evaluation, again.evaluations) == (trainer.complete_evaluation, 3)


def test_a_run_that_stops_early_ends_with_the_complete_split(make_trainer, budgeted, quiet, monkeypatch):
    original = validation.summarize
    losses = iter([2.0, 3.0, 1.0])  # the second is worse; the third is that of the complete split
    monkeypatch.setattr(validation, "summarize", lambda *sums: replace(original(*sums), loss=next(losses)))
    trainer = make_trainer(replace(budgeted, early_stopping_patience=1))
    assert fit(trainer, quiet)
    assert trainer.step == 20
    assert trainer.complete_evaluation.loss == 1.0
    assert trainer.best_loss == 2.0  # never compared with the other


def test_the_last_best_evaluation_is_compared_with_the_best_before_pairwise(make_trainer, tiny_config, quiet):
    trainer = make_trainer(tiny_config)
    assert fit(trainer, quiet)
    losses = [record["val_loss"] for record in read_metrics(trainer.run) if "val_loss" in record]
    best = sorted(losses)[:2]
    assert losses[-1] == best[0]  # as this run goes
    assert trainer.gain.value == pytest.approx(best[0] - best[1])
    assert trainer.gain.standard_error < trainer.evaluation.loss_se
    assert "change" in (table := printed_table(trainer))
    assert "the best of 3 evaluations" in table


def printed_table(trainer):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        report(trainer)
    return output.getvalue()


def test_the_table_keeps_the_complete_figure_apart_from_the_best(make_trainer, budgeted, quiet):
    trainer = make_trainer(budgeted)
    assert fit(trainer, quiet)
    table = printed_table(trainer)
    best, whole = (re.search(rf"{name} +(\d+\.\d{{4}})", table)[1] for name in ("validation loss", "complete split"))
    assert best == f"{trainer.best_loss:.4f}"
    assert whole == f"{trainer.complete_evaluation.loss:.4f}" != best
    assert "spread evenly" in table
    assert "after step 30" in table


def test_a_budget_above_the_split_evaluates_it_once(make_trainer, tiny_config, quiet):
    trainer = make_trainer(tiny_config)
    assert fit(trainer, quiet)
    assert trainer.windows.is_complete
    assert trainer.complete_evaluation is None
    assert not [record for record in read_metrics(trainer.run) if "complete_val_loss" in record]


@pytest.fixture
def interrupted(monkeypatch):
    """What is put into it comes, as a signal or an exception, in the next evaluation on the complete split."""
    honest, ways = validation.loss_per_window, []

    def loss_per_window(model, windows, *arguments, **options):
        if windows.is_complete and ways:
            way = ways.pop()
            if not isinstance(way, signal.Signals):
                raise way
            signal.raise_signal(way)
        return honest(model, windows, *arguments, **options)

    monkeypatch.setattr(validation, "loss_per_window", loss_per_window)
    return ways


def plain(run):
    """A run's records without what depends on the clock."""
    clocked = ("elapsed_s", "tokens_per_s", "mfu")
    return [{key: value for key, value in record.items() if key not in clocked} for record in read_metrics(run)]


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("way", [signal.SIGUSR1, KeyboardInterrupt()], ids=["signal", "kill"])
def test_a_last_and_complete_evaluation_that_was_cut_short_is_made_up_for(
    make_trainer, budgeted, quiet, interrupted, way, early, said
):
    """At the last step, or where it stopped early: nothing but the clock tells a difference."""
    if early:  # with such a rate nothing is learned
        optimizer = replace(budgeted.optimizer, learning_rate=1e-15)
        budgeted = replace(budgeted, optimizer=optimizer, early_stopping_patience=1)
    whole = make_trainer(budgeted, "whole")
    assert fit(whole, quiet)
    assert whole.step == (20 if early else 30)
    interrupted.append(way)
    first = make_trainer(budgeted, "parts")
    if way == signal.SIGUSR1:
        assert not fit(first, quiet)
        assert any("stopped before that was done; `resume` begins it again" in message for message in said)
    else:
        with pytest.raises(KeyboardInterrupt):
            fit(first, quiet)
    assert first.complete_evaluation is None
    assert load_newest(first.run).state["step"] == whole.step
    second = make_trainer(budgeted, "parts", resume=True)
    assert fit(second, quiet)
    assert second.complete_evaluation == whole.complete_evaluation
    assert second.complete_evaluation is not None
    states = [load_newest(trainer.run).state for trainer in (whole, second)]
    clocked = ("elapsed_s", "record")
    one, two = ({key: value for key, value in state.items() if key not in clocked} for state in states)
    assert one == two
    assert plain(whole.run) == plain(second.run)
    again = make_trainer(budgeted, "parts", resume=True)  # nothing is left to be done
    assert again.unevaluated is None
    assert fit(again, quiet)
    assert again.complete_evaluation == whole.complete_evaluation
    assert plain(whole.run) == plain(again.run)


def test_more_steps_take_the_place_of_a_complete_evaluation_that_was_cut_short(
    make_trainer, budgeted, quiet, interrupted
):
    interrupted.append(signal.SIGUSR1)
    fit(make_trainer(budgeted), quiet)
    longer = make_trainer(replace(budgeted, steps=35), resume=True, allow_rate_jump=True)
    assert fit(longer, quiet)
    assert longer.complete_evaluation is not None
    records = read_metrics(longer.run)
    assert [record["step"] for record in records] == list(range(1, 36))
    assert ["complete_val_loss" in record for record in records[29:]] == 5 * [False] + [True]


def test_a_run_that_ends_earlier_than_it_was_to_gets_its_complete_evaluation(make_trainer, budgeted, quiet):
    """Its last step was evaluated, but not as the last one."""
    fit(make_trainer(replace(budgeted, stop_at=20)), quiet)
    trainer = make_trainer(replace(budgeted, steps=20), resume=True, allow_rate_jump=True)
    assert fit(trainer, quiet)
    assert trainer.complete_evaluation is not None
    assert "complete_val_loss" in read_metrics(trainer.run)[-1]


def test_the_best_loss_is_never_compared_with_one_of_other_windows(make_trainer, budgeted, quiet):
    fit(make_trainer(replace(budgeted, stop_at=20)), quiet)
    other = replace(budgeted, evaluation=replace(budgeted.evaluation, tokens=640))
    remedy = "go on with `evaluation.tokens` 320, which is the same part, or with `allow_other_data`"
    with pytest.raises(InputError, match=f"`evaluation.tokens` 640: the losses of .* are of another part.*{remedy}"):
        make_trainer(other, resume=True)
    assert make_trainer(budgeted, resume=True).step == 20


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("stopped_at", [20, 25])
def test_other_windows_that_are_allowed_forget_the_best_of_the_old_ones(
    make_trainer, budgeted, quiet, said, old, stopped_at
):
    """In the state, on disk and for early_stopping_patience; also of a run from before there was a budget."""
    before = replace(budgeted.evaluation, tokens=10**9) if old else budgeted.evaluation
    first = make_trainer(replace(budgeted, evaluation=before, stop_at=stopped_at))
    fit(first, quiet)
    saved = [checkpoint.load(path, optimizer=True) for path in list_checkpoints(first.run)]
    for each in saved:
        state = each.state | {"best_validation_loss": 0.01}
        if state["evaluation"]:
            state["evaluation"] |= {"loss": 0.01}
        if old:
            del state["evaluated_windows"]
        checkpoint.save(first.run, each.model, each.optimizer, state)
    other = replace(budgeted, evaluation=replace(budgeted.evaluation, tokens=640, every=2))
    second = make_trainer(replace(other, stop_at=stopped_at + 1), resume=True, allow_other_data=True)
    assert "`evaluation.tokens` 640 and not " in "\n".join(said)
    assert (second.best_loss, second.evaluations, second.evaluations_since_best) == (math.inf, 0, 0)
    fit(second, quiet)
    third = make_trainer(other, resume=True)
    evaluation = load_newest(third.run).state["evaluation"]
    assert third.best_loss == (evaluation["loss"] if evaluation else math.inf)
    fit(third, quiet)
    best = load_best(third.run).state
    assert best["evaluation"]["loss"] == third.best_loss > 1
    assert best["evaluation"]["tokens"] == third.windows.targets


def test_a_last_evaluation_of_other_windows_is_made_again(make_trainer, budgeted, quiet):
    fit(make_trainer(budgeted), quiet)
    other = replace(budgeted, evaluation=replace(budgeted.evaluation, tokens=10**9))
    trainer = make_trainer(other, resume=True, allow_other_data=True)
    assert fit(trainer, quiet)
    newest = load_newest(trainer.run).state
    assert newest["evaluation"]["tokens"] == trainer.windows.targets
    assert read_metrics(trainer.run)[-1]["val_loss"] == newest["evaluation"]["loss"]


def test_the_remedy_for_a_run_from_before_there_was_a_budget_is_one(make_trainer, budgeted, quiet):
    first = make_trainer(replace(budgeted, evaluation=replace(budgeted.evaluation, tokens=10**9), stop_at=20))
    fit(first, quiet)
    saved = load_newest(first.run)
    del saved.state["evaluated_windows"]
    checkpoint.save(first.run, saved.model, saved.optimizer, saved.state)
    with pytest.raises(InputError, match="`allow_other_data`") as refused:
        make_trainer(budgeted, resume=True)
    tokens = int(re.search(r"go on with `evaluation.tokens` (\d+)", str(refused.value))[1])
    again = make_trainer(replace(budgeted, evaluation=replace(budgeted.evaluation, tokens=tokens)), resume=True)
    assert again.best_loss == saved.state["best_validation_loss"]


@pytest.mark.parametrize("micro_batch", [1, 3, 100])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_loss_is_the_same_to_the_last_digit_however_it_is_divided(make_trainer, budgeted, micro_batch, processes):
    """Windows cross the borders of documents, and those of one document may lie on several processes."""
    trainer = make_trainer(budgeted)
    windows = validation_windows(budgeted, trainer.dataset, complete=True)

    def sums(batch, parts):
        arguments = (trainer.model, windows, trainer.dataset.tokenizer.byte_lengths(), "cpu", torch.float32, batch)
        return sum(validation.loss_per_window(*arguments, part=(number, parts)) for number in range(parts))

    whole = sums(8, 1)
    divided = sums(micro_batch, processes)
    assert torch.equal(divided[:, 1:], whole[:, 1:])
    assert divided[:, 0].sum().item() == pytest.approx(whole[:, 0].sum().item(), rel=1e-6)
    assert np.array_equal(divided.numpy(), sums(micro_batch, 1).numpy())


def test_the_change_from_the_best_before_is_known_after_a_resume_between_the_two(make_trainer, budgeted, quiet):
    whole = make_trainer(budgeted, "whole")
    fit(whole, quiet)
    fit(make_trainer(replace(budgeted, stop_at=25), "parts"), quiet)
    parts = make_trainer(budgeted, "parts", resume=True)
    fit(parts, quiet)
    assert whole.gain is not None
    assert whole.gain == parts.gain
    assert make_trainer(budgeted, "parts", resume=True).gain == whole.gain  # for the table of a finished run


def test_a_run_that_stops_so_early_that_the_complete_split_would_take_longer_leaves_it_out(
    make_trainer, budgeted, quiet, monkeypatch
):
    original = validation.summarize
    losses = iter([2.0, 3.0])
    monkeypatch.setattr(validation, "summarize", lambda *sums: replace(original(*sums), loss=next(losses)))
    config = replace(budgeted, early_stopping_patience=1, steps=3000, evaluation=replace(budgeted.evaluation, every=1))
    trainer = make_trainer(config)
    assert fit(trainer, quiet)
    assert trainer.step == 2
    assert trainer.complete_evaluation is None
