"""A training on several datasets: what is recorded of each, and that it goes on and is repeated like one on one."""

import copy
import re
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from helpers import CLOCKED, require_equal, weights, without_clock

from gpt import InputError
from gpt.choices import IGNORE_INDEX
from gpt.commands import train
from gpt.config import EvaluationConfig
from gpt.dataset.mixture import mix_datasets
from gpt.evaluation.loss import evaluate
from gpt.model import loss
from gpt.runs.checkpoint import load_best, load_newest
from gpt.tracking.jsonl import read_metrics
from gpt.tracking.plot import draw_losses
from gpt.training.guard import NO_TARGETS
from gpt.training.validation import validation_windows

FIGURES = ("val_loss", "val_loss_se", "val_loss_ci95", "val_bits_per_byte")


@pytest.fixture
def short(mixed_config):
    """Eight steps of six sequences, evaluated in full after the fourth and the last."""
    return replace(mixed_config, steps=8, evaluation=EvaluationConfig(every=4, sample_tokens=0, train_split=True))


def test_the_loss_on_each_source_is_what_it_is_alone_and_that_of_all_the_weighted_mean(make_mixed, short, mixture):
    training = make_mixed(short)
    assert training.fit()
    records = read_metrics(training.run)
    assert [record["step"] for record in records if "val_loss" in record] == [4, 8]
    last = records[-1]
    tokenizer = mixture.tokenizer
    for source in mixture.sources:
        windows = validation_windows(short, source.dataset)
        alone = evaluate(training.model, windows, tokenizer.byte_lengths(), "cpu")
        assert last[f"val_loss/{source.name}"] == pytest.approx(alone.loss, rel=1e-6)
        assert last[f"val_bits_per_byte/{source.name}"] == pytest.approx(alone.bits_per_byte, rel=1e-6)
    parts = (float(source.weight) * last[f"val_loss/{source.name}"] for source in mixture.sources)
    assert last["val_loss"] == pytest.approx(sum(parts), rel=1e-12)
    assert all(f"{figure}/{name}" in last for figure in FIGURES for name in ("python", "more"))
    for source in mixture.sources:  # as many windows of its training split
        windows = validation_windows(short, source.dataset).like(source.dataset.train)
        assert len(windows) == len(validation_windows(short, source.dataset))
        alone = evaluate(training.model, windows, tokenizer.byte_lengths(), "cpu")
        assert last[f"train_split_loss/{source.name}"] == pytest.approx(alone.loss, rel=1e-6)
    parts = (float(source.weight) * last[f"train_split_loss/{source.name}"] for source in mixture.sources)
    assert last["train_split_loss"] == pytest.approx(sum(parts), rel=1e-12)
    best = load_best(training.run).state
    assert best["evaluation"]["loss"] == min(record["val_loss"] for record in records if "val_loss" in record)


def test_the_picture_has_a_line_for_each_source(make_mixed, short, monkeypatch):
    from matplotlib.axes import Axes

    training = make_mixed(short)
    training.fit()
    drawn = {}
    honest = Axes.plot

    def plot(axes, x, y, **how):
        drawn[how["label"]] = [*y]
        return honest(axes, x, y, **how)

    monkeypatch.setattr(Axes, "plot", plot)
    draw_losses(training.run)
    evaluated = [record for record in read_metrics(training.run) if "val_loss" in record]
    assert drawn["training split"] == [evaluated[-1]["train_split_loss"]]
    for name in ("python", "more"):
        assert drawn[f"on {name}"] == [record[f"val_loss/{name}"] for record in evaluated]
        losses = [record[f"train_loss/{name}"] for record in read_metrics(training.run)]
        assert drawn[f"training batch, {name}"] == losses


def test_how_often_each_source_was_read_is_recorded(make_mixed, short, mixture):
    training = make_mixed(short)
    training.fit()
    for record in read_metrics(training.run):
        samples = 6 * record["step"]
        for source, weight in zip(mixture.sources, (0.8, 0.2), strict=True):
            windows = source.dataset.loader(1, 32, 0).windows
            assert record[f"epoch/{source.name}"] * windows == pytest.approx(weight * samples, abs=0.5)


def test_a_resumed_run_repeats_an_undisturbed_one_bit_for_bit(make_mixed, short):
    whole = make_mixed(replace(short, steps=5), "whole")
    assert whole.fit()
    assert not make_mixed(replace(short, steps=5, stop_at=3), "parts").fit()
    torch.manual_seed(99)
    second = make_mixed(replace(short, steps=5), "parts", resume=True)
    assert second.fit()
    require_equal(weights(whole), weights(second))
    require_equal(*(load_newest(training.run).optimizer for training in (whole, second)))
    assert without_clock(read_metrics(whole.run)) == without_clock(read_metrics(second.run))


def test_other_weights_and_other_datasets_are_refused_on_resume(make_mixed, short, mixture, dataset, other_dataset):
    first = make_mixed(replace(short, stop_at=2))
    first.fit()
    reversed_order = [(part.dataset, part.weight) for part in reversed(mixture.sources)]
    assert make_mixed(short, resume=True, data=mix_datasets(reversed_order)).state.step == 2
    even = mix_datasets([(dataset, Fraction(1)), (other_dataset, Fraction(1))])
    for other in (even, dataset, other_dataset):
        with pytest.raises(InputError, match=re.escape(f"{other.path}: is not the dataset that {first.run} was")):
            make_mixed(short, resume=True, data=other)
    assert make_mixed(short, resume=True, data=even, allow_other_data=True).state.step == 2


def test_another_part_of_the_splits_is_refused_with_the_budget_that_is_the_same(make_mixed, short):
    part = replace(short, evaluation=EvaluationConfig(every=4, sample_tokens=0, tokens=1000))
    first = make_mixed(replace(part, stop_at=2))
    first.fit()
    assert len(first.validation.windows) == 2 * (500 // 32)
    with pytest.raises(InputError, match=r"go on with `evaluation.tokens` (\d+), which is the same part") as error:
        make_mixed(short, resume=True)
    same = int(re.search(r"go on with `evaluation.tokens` (\d+)", str(error.value))[1])
    again = make_mixed(replace(short, evaluation=replace(part.evaluation, tokens=same)), resume=True)
    assert len(again.validation.windows) == len(first.validation.windows)


def test_the_complete_splits_are_told_apart_too(make_mixed, short, mixture):
    part = replace(
        short, batch_tokens=2 * short.batch_tokens, evaluation=EvaluationConfig(0, tokens=500, sample_tokens=0)
    )
    training = make_mixed(part)
    training.fit()
    last = read_metrics(training.run)[-1]
    for source in mixture.sources:
        windows = validation_windows(part, source.dataset, complete=True)
        alone = evaluate(training.model, windows, mixture.tokenizer.byte_lengths(), "cpu")
        assert last[f"complete_val_loss/{source.name}"] == pytest.approx(alone.loss, rel=1e-6)
        assert last[f"val_loss/{source.name}"] != last[f"complete_val_loss/{source.name}"]


def test_a_skipped_step_says_whose_samples_it_had(make_mixed, short, said):
    training = make_mixed(replace(short, steps=3))
    honest = training.trainer.gradient

    def gradient(step, *given):
        loss, norm = honest(step, *given)
        return (loss, float("nan")) if step == 1 else (loss, norm)

    training.trainer.gradient = gradient
    training.fit()
    (line,) = (line for line in said if "its samples" in line)
    located = [training.loader.source.locate(sample)[0] for sample in range(6, 12)]
    counts = f"{located.count(0)} of python, {located.count(1)} of more"
    assert line == f"step 2: its samples: {counts}; see them by gpt data show --run {training.run} --step 2"
    (named,) = (line for line in said if "its documents" in line)
    names = re.fullmatch(r"step 2: its documents: (\S+(?:; \S+)*); see them by gpt data show --run .* --step 2", named)[
        1
    ]
    starts = [training.loader.source.spans(sample)[0][0] // 401 for sample in range(6, 12)]
    texts = [[n for n in range(count) if n % period] for count, period in ((100, 10), (30, 6))]  # which train
    expected = [str(texts[source][start]) for source, start in zip(located, starts, strict=True)]
    assert set(expected) <= set(names.split("; "))
    assert len(names.split("; ")) <= 2 * len(set(expected))


def test_in_much_text_a_skipped_step_says_how_to_see_its_documents(make_training, tiny_config, said, monkeypatch):
    monkeypatch.setattr(train, "MOST_SEARCHED", 100)
    training = make_training(replace(tiny_config, steps=1))
    training.trainer.gradient = lambda *given: (1.0, float("nan"))
    training.fit()
    (line,) = (line for line in said if "documents" in line)
    see = f"see them by gpt data show --run {training.run} --step 1"
    assert line == f"step 1: its documents are not looked up while it trains, in so much text; {see}"


def test_the_last_table_has_a_row_for_each_source(make_mixed, short, capsys):
    training = make_mixed(replace(short, steps=2))
    training.fit()
    training.report()
    printed = capsys.readouterr().out
    for name in ("python", "more"):
        words = (
            rf"on {name} +\d\.\d{{4}} ± 0\.\d{{4}} nats per token .*; (\d\.\d{{4}}) in the training batch; read 0\.\d+"
        )
        (loss,) = re.findall(words, printed)
        assert loss == f"{load_best(training.run).state['record'][f'train_loss/{name}']:.4f}"


@pytest.mark.parametrize(
    "changes", [{}, {"recompute": "blocks"}, {"document_mask": True}, {"compile": "on", "micro_batch_size": 3}]
)
def test_a_step_records_the_mean_loss_of_the_targets_of_each_source(make_mixed, short, mixture, dynamo, changes):
    """Beside the formula, with the weights as they were before the step; a row has few targets, another none."""
    config = replace(short, model=replace(short.model, dropout=0.0), **changes)
    training = make_mixed(config)
    for step in range(3):
        before = copy.deepcopy(training.model).double()
        batch = training.loader.batch(step)
        batch.targets[0, 2:] = batch.targets[1] = IGNORE_INDEX
        record = training.trainer.step(training.state, batch)
        losses = before(batch.inputs, targets=batch.targets, reduction="none", documents=batch.documents)
        counted = batch.targets != IGNORE_INDEX
        located = torch.tensor([training.loader.source.locate(sample)[0] for sample in training.loader.samples(step)])
        for number, source in enumerate(mixture.sources):
            own = located == number
            expected = losses[own].sum().item() / counted[own].sum().item() if counted[own].any() else None
            assert record[f"train_loss/{source.name}"] == (expected and pytest.approx(expected, rel=1e-5))
        assert record["train_loss"] == pytest.approx((losses.sum() / counted.sum()).item(), rel=1e-5)
        assert record["compiled"] == (config.compile == "on")


def test_a_source_without_a_target_in_a_step_has_no_loss_there(make_mixed, short):
    training = make_mixed(short)
    batch = training.loader.batch(0)
    batch.targets[batch.sources["more"]] = IGNORE_INDEX
    record = training.trainer.step(training.state, batch)
    assert record["train_loss/more"] is None
    assert record["train_loss/python"] == pytest.approx(record["train_loss"], rel=1e-6)
    batch = training.loader.batch(1)
    batch.targets[:] = IGNORE_INDEX
    assert (
        training.trainer.step(training.state, batch).items()
        >= {
            "train_loss/python": None,
            "train_loss/more": None,
            "skipped": NO_TARGETS,
        }.items()
    )


def test_losses_of_sources_change_no_bit_of_what_is_learned(make_mixed, short, monkeypatch):
    """In chunks, too: three of each micro-batch."""
    monkeypatch.setattr(loss, "chunk_rows", lambda *_: 50)
    told, untold = make_mixed(short), make_mixed(short, "untold")
    untold.trainer.reduction = "sum"
    for _ in range(4):
        one, two = told.step(), untold.step()
        assert one["train_loss/python"] > 0
        assert {name: one[name] for name in two if name not in CLOCKED} == {
            name: value for name, value in two.items() if name not in CLOCKED
        }
    require_equal(weights(told), weights(untold))


def test_one_dataset_alone_has_no_losses_of_sources(make_training, tiny_config):
    training = make_training(tiny_config)
    assert not [name for name in training.step() if "/" in name]
    assert training.trainer.row_losses.eq(0).all()


def test_a_step_done_again_in_smaller_parts_has_the_same_losses_of_sources(make_mixed, short):
    config = replace(short, model=replace(short.model, dropout=0.0))
    whole, halved = make_mixed(config), make_mixed(config, "halved")
    honest, calls = halved.trainer.loss, []

    def loss(*given):
        calls.append(len(given[0]))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(*given)

    halved.trainer.loss = loss
    one, two = whole.step(), halved.step()
    assert calls == [4, 2, 2, 2, 2]
    for name in ("python", "more"):
        assert two[f"train_loss/{name}"] == pytest.approx(one[f"train_loss/{name}"], rel=1e-6)


def test_batches_do_not_depend_on_the_micro_batch(make_mixed, short):
    """The rows and their hashes are the same; only sums are rounded otherwise."""
    hashes = []
    for size in (1, 6):
        training = make_mixed(replace(short, steps=3, micro_batch_size=size), f"run-{size}")
        hashes.append([training.step()["batch_hash"] for _ in range(3)])
    assert hashes[0] == hashes[1]
