"""Evaluations of a training: what they cover, what is compared with what, and what stops them."""

import contextlib
import io
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import fit

from gpt import InputError
from gpt.checkpoint import load_newest
from gpt.evaluation.loss import evaluate
from gpt.training import validation
from gpt.training.metrics import read_metrics
from gpt.training.report import report
from gpt.training.validation import validation_windows


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
    state = load_newest(trainer.run, print).state
    assert state["best_validation_loss"] == min(record["val_loss"] for record in records)
    assert state["complete_evaluation"]["tokens"] == dataset.validation.tokens - 1
    assert state["evaluations"] == 3
    again = make_trainer(budgeted, resume=True)
    assert (again.complete_evaluation, again.evaluations) == (trainer.complete_evaluation, 3)


def test_a_run_that_stops_early_ends_with_the_complete_split(make_trainer, budgeted, quiet, monkeypatch):
    original = validation.summarize
    losses = iter([2.0, 3.0, 1.0])  # the second is worse; the third is that of the complete split
    monkeypatch.setattr(validation, "summarize", lambda *sums: replace(original(*sums), loss=next(losses)))
    trainer = make_trainer(replace(budgeted, early_stop=1))
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


def test_a_signal_in_the_last_and_complete_evaluation_leaves_it_out(make_trainer, budgeted, quiet, monkeypatch):
    original, said = validation.window_sums, []
    quiet.say = said.append

    def interrupted(model, windows, *arguments, **options):
        if windows.is_complete:
            signal.raise_signal(signal.SIGUSR1)
        return original(model, windows, *arguments, **options)

    monkeypatch.setattr(validation, "window_sums", interrupted)
    trainer = make_trainer(budgeted)
    fit(trainer, quiet)
    assert trainer.complete_evaluation is None
    assert trainer.saved_step == 30
    assert any("stopped before that was done" in message for message in said)


def test_the_best_loss_is_never_compared_with_one_of_other_windows(make_trainer, budgeted, quiet):
    fit(make_trainer(replace(budgeted, stop_at=20)), quiet)
    other = replace(budgeted, evaluation=replace(budgeted.evaluation, tokens=640))
    with pytest.raises(InputError, match=r"--evaluation.tokens 640: the losses of .* are of another part"):
        make_trainer(other, resume=True)
    assert make_trainer(budgeted, resume=True).step == 20


@pytest.mark.parametrize("micro_batch", [1, 3, 100])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_loss_is_the_same_to_the_last_digit_however_it_is_divided(make_trainer, budgeted, micro_batch, processes):
    """Windows cross the borders of documents, and those of one document may lie on several processes."""
    trainer = make_trainer(budgeted)
    windows = validation_windows(budgeted, trainer.dataset, complete=True)

    def sums(batch, parts):
        arguments = (trainer.model, windows, trainer.dataset.tokenizer.byte_lengths(), "cpu", torch.float32, batch)
        return sum(validation.window_sums(*arguments, part=(number, parts)) for number in range(parts))

    whole = sums(8, 1)
    divided = sums(micro_batch, processes)
    assert torch.equal(divided[:, 1:], whole[:, 1:])
    assert divided[:, 0].sum().item() == pytest.approx(whole[:, 0].sum().item(), rel=1e-6)
    assert np.array_equal(divided.numpy(), sums(micro_batch, 1).numpy())


def test_a_kill_in_the_last_and_complete_evaluation_costs_no_step(make_trainer, budgeted, quiet, monkeypatch):
    trainer = make_trainer(replace(budgeted, checkpoint=replace(budgeted.checkpoint, every=0)))
    honest = validation.window_sums

    def window_sums(model, windows, *more, **options):
        if windows.is_complete:
            raise KeyboardInterrupt
        return honest(model, windows, *more, **options)

    monkeypatch.setattr(validation, "window_sums", window_sums)
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, quiet)
    assert load_newest(trainer.run, print).state["step"] == budgeted.steps
