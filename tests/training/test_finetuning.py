"""The plan of a fine-tuning: what is chosen where nothing is named, what small texts get, and what is said of it."""

import dataclasses
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, Training, python_text, run_here, write_dataset

from gpt import GPT, InputError
from gpt.commands.train import settle
from gpt.commands.train_options import parse_train
from gpt.config import OptimizerConfig
from gpt.dataset.dataset import SHORTEST_CONTEXT
from gpt.distributed.world import World
from gpt.model.lora import LoRAConfig
from gpt.presets import MUON, preset
from gpt.runs.checkpoint import load_best
from gpt.runs.directory import open_run, read_config, write_config
from gpt.suits import rate_for
from gpt.tracking.jsonl import read_metrics
from gpt.training import budget, finetuning
from gpt.training.budget import Asked
from gpt.training.checkpointing import begin
from gpt.training.forecast import Timings
from gpt.training.outcome import outcome
from gpt.training.state import TrainState


@pytest.fixture(autouse=True)
def no_trial(monkeypatch):
    """How long it takes is for one test."""
    monkeypatch.setattr(finetuning.Forecast, "seconds", lambda *_: (90.0, 9.0))


@pytest.fixture
def planned(trained_run):
    """Gives the settings of a fine-tuning from a run of 32 tokens of context."""

    def plan(dataset, *arguments, world=None):
        given = ["finetune", "--init-from", trained_run, "--data", dataset.path, "--device", "cpu", *arguments]
        return settle(parse_train([*map(str, given)]), dataset, world or World("cpu"))

    return plan


def of_size(dataset, train, validation):
    """A dataset as it would be with so many tokens."""
    splits = (SimpleNamespace(name="split", tokens=int(n), is_masked=False) for n in (train, validation))
    return dataclasses.replace(dataset, **dict(zip(("train", "validation"), splits, strict=True)))


# ---- what is chosen ----


@pytest.mark.parametrize(
    ("tokens", "epochs", "batch"),
    [(1_200, 4, 128), (7_000, 4, 864), (25_000, 4, 2048), (250_000, 3, 8192), (2.5e6, 2, 8192)],
)
def test_length_and_batch_follow_the_size_of_the_text(planned, dataset, tokens, epochs, batch):
    text = of_size(dataset, tokens, tokens // 10)
    config = planned(text)
    assert config.batch_tokens == batch
    assert config.steps * batch / tokens == pytest.approx(epochs, rel=0.05)
    assert config.steps >= 8 * epochs
    assert config.evaluation.every == round(config.steps / epochs / 4)
    assert config.evaluation.tokens >= text.validation.tokens
    assert config.optimizer.warmup_steps == max(5, round(0.03 * config.steps))
    assert (config.optimizer.schedule, config.optimizer.min_lr_ratio) == ("linear", 0)
    assert (config.optimizer.beta1, config.optimizer.beta2, config.optimizer.weight_decay) == (0.9, 0.99, 0.01)
    assert (config.model.dropout, config.model.context_length) == (0.1, 32)
    assert (config.early_stopping_patience, config.cooldown, config.evaluation.min_gain) == (3, 0.1, 1)
    assert config.evaluation.at_start and config.evaluation.train_split


def test_rates_are_those_of_the_table_and_between_them_on_a_line_in_logarithms():
    for size, full, lora in ((124e6, 5e-5, 5e-4), (355e6, 3e-5, 3e-4), (774e6, 2e-5, 2e-4), (1558e6, 1.5e-5, 1.5e-4)):
        assert rate_for(round(size), False, 1000) == pytest.approx(full, rel=0.02)
        assert rate_for(round(size), True, 1000) == pytest.approx(lora, rel=0.02)
        assert rate_for(round(size), True, 99) == pytest.approx(1.5 * lora, rel=0.03)
        assert rate_for(round(size), False, 99) == rate_for(round(size), False, 1000)
    assert rate_for(round(math.sqrt(355e6 * 774e6)), False, 1) == pytest.approx(math.sqrt(3e-5 * 2e-5), rel=0.03)
    rates = [rate_for(round(10**power), False, 1) for power in np.linspace(4, 10, 50)]
    assert rates == sorted(rates, reverse=True)
    assert 1e-3 <= rate_for(500_000, False, 1) <= 1e-2


def test_the_rate_is_of_the_weights_without_their_n_gram_tables(planned, dataset):
    config = planned(dataset)
    assert config.optimizer.learning_rate == rate_for(GPT(config.model).parameter_count(), False, 100)
    with_ngrams = dataclasses.replace(config, model=dataclasses.replace(config.model, ngram=3, ngram_buckets=9999))
    asked = Asked(frozenset(), preset=True)
    assert finetuning.plan(with_ngrams, asked, dataset, World("cpu")).optimizer == config.optimizer


@pytest.fixture
def by_muon(trained_run):
    """The run as though Muon had trained it, with n-grams."""
    own = read_config(trained_run)
    optimizer = dataclasses.replace(MUON, learning_rate=0.03, muon_learning_rate=0.01)
    model = dataclasses.replace(own.model, ngram=2, ngram_buckets=99)
    write_config(trained_run, dataclasses.replace(own, optimizer=optimizer, model=model, batch_tokens=640))
    return trained_run


def test_a_run_of_muon_goes_on_with_its_optimizer_rates_and_batch(planned, dataset, by_muon, said):
    config = planned(dataset)
    named = ("muon", 0.03, 0.01, 0.8, 0.95, 0.0)
    optimizer = config.optimizer
    assert named == (
        optimizer.name, optimizer.learning_rate, optimizer.muon_learning_rate, optimizer.beta1, optimizer.beta2,
        optimizer.weight_decay,
    )  # fmt: skip
    assert (optimizer.schedule, optimizer.min_lr_ratio) == ("linear", 0)
    assert (config.batch_tokens, config.model.dropout) == (640, 0.1)
    assert f"rate 0.03, Muon's 0.01, at its peak, as {by_muon} was trained; " in said[-1]
    assert planned(dataset, "--batch-tokens", 160).optimizer.learning_rate == 0.03  # a quarter
    tenth = planned(dataset, "--batch-tokens", 64).optimizer
    assert (tenth.learning_rate, tenth.muon_learning_rate) == (0.012, 0.004)
    assert f"as {by_muon} was trained, × 0.4 for smaller batches; " in said[-1]
    config = planned(dataset, "--optimizer.learning-rate", 0.02, "--optimizer.muon-learning-rate", 0.02)
    assert "rate 0.02, Muon's 0.02, at its peak, as asked for; " in said[-1]
    table = rate_for(GPT(dataclasses.replace(config.model, ngram=1)).parameter_count(), False, 100)
    config = planned(dataset, "--optimizer.name", "adamw")  # another optimizer begins anew, with the table's rate
    assert (config.optimizer.learning_rate, config.optimizer.beta1) == (table, 0.9)
    assert re.search(r"rate [\d.]+ at its peak, for weights of 22,\d+ parameters, and 3,168 of n-grams; ", said[-1])
    config = planned(dataset, "--optimizer.muon-learning-rate", 0.005)
    assert (config.optimizer.learning_rate, config.optimizer.muon_learning_rate) == (0.03, 0.005)
    assert f"rate 0.03, Muon's 0.005 (as asked for), at its peak, as {by_muon} was trained; " in said[-1]
    adapters = planned(dataset, "--lora.rank", 2).optimizer
    assert (adapters.name, adapters.weight_decay) == ("adamw", 0.0)


def test_a_rate_that_is_kept_whole_is_not_rounded(planned, dataset, by_muon):
    own = read_config(by_muon)
    write_config(by_muon, dataclasses.replace(own, optimizer=dataclasses.replace(own.optimizer, learning_rate=0.0314)))
    assert planned(dataset).optimizer.learning_rate == 0.0314


def test_a_rate_that_is_named_is_told_as_such(planned, dataset, said):
    planned(dataset, "--optimizer.learning-rate", 0.001)
    assert "rate 0.001 at its peak, as asked for; " in said[-1]


def test_minutes_are_measured_with_the_optimizer_that_trains(planned, dataset, by_muon, monkeypatch):
    measured = []
    monkeypatch.setattr(
        budget,
        "measure_timings",
        lambda config, *_: measured.append(config.optimizer.name) or Timings(step=0.5, window=1e-9),
    )
    assert planned(dataset, "--minutes", 1).optimizer.name == "muon"
    assert measured == ["muon"]


def test_of_adapters_those_settings_count_by_which_the_weights_below_were_trained(by_muon, tmp_path):
    own = read_config(by_muon)
    lora = dataclasses.replace(own, lora=LoRAConfig(rank=2), optimizer=OptimizerConfig(), init_from=str(by_muon))
    (tmp_path / "adapters").mkdir()
    write_config(tmp_path / "adapters", lora)
    tuned = dataclasses.replace(own, init_from=str(tmp_path / "adapters"))
    assert finetuning._trained_with(tuned, Asked()) == own
    write_config(tmp_path / "adapters", dataclasses.replace(lora, init_from=str(tmp_path / "a-model")))
    assert finetuning._trained_with(tuned, Asked()) is None


def test_flags_win(planned, dataset):
    config = planned(
        dataset, "--optimizer.learning-rate", 1e-3, "--optimizer.warmup-steps", 2, "--batch-tokens", 64,
        "--model.dropout", 0.3, "--evaluation.every", 7, "--evaluation.sample-tokens", 9, "--evaluation.tokens", 320,
        "--early-stopping-patience", 8, "--steps", 40, "--model.context-length", 16, "--cooldown", 0,
    )  # fmt: skip
    assert (config.optimizer.learning_rate, config.optimizer.warmup_steps, config.batch_tokens) == (1e-3, 2, 64)
    assert (config.model.dropout, config.model.context_length, config.steps) == (0.3, 16, 40)
    evaluation = dataclasses.replace(preset("finetune").evaluation, every=7, sample_tokens=9, tokens=320)
    assert config.evaluation == evaluation
    assert (config.early_stopping_patience, config.cooldown) == (8, 0)


@pytest.mark.parametrize("length", [("--epochs", 50), ("--steps", 300), ("--minutes", 5)])
def test_a_length_that_is_named_is_trained_to_its_end(planned, dataset, length, monkeypatch, said):
    monkeypatch.setattr(budget, "measure_timings", lambda *_: Timings(step=0.5, window=1e-9))
    config = planned(dataset, *length)
    assert config.early_stopping_patience is None
    assert config.evaluation.every == round(17.6 / 4)
    assert config.steps == {"--epochs": 881, "--steps": 300, "--minutes": 600}[length[0]]
    assert "as asked for" in said[-1]
    assert "it will learn the text by heart; try `epochs` 4" in said[-1]
    assert "stops after" not in said[-1]


def test_evaluations_in_an_epoch_can_be_named_by_any_run(planned, dataset, trained_run, said):
    assert planned(dataset, "--evaluation.per-epoch", 2).evaluation.every == 9
    for name in ("nano", "gpt2"):
        command = parse_train([name, "--data", str(dataset.path), "--device", "cpu", "--evaluation.per-epoch", "3"])
        config = settle(command, dataset, World("cpu"))
        epoch = dataset.train.tokens / config.batch_tokens
        assert config.evaluation.every == max(1, round(epoch / 3))
    with pytest.raises(InputError, match="`evaluation.per_epoch` and `evaluation.every`: each says how often"):
        planned(dataset, "--evaluation.per-epoch", 2, "--evaluation.every", 4)


def test_several_processes_share_the_batch(planned, dataset):
    world = World("cpu")
    world.size = 3
    config = planned(of_size(dataset, 3_000, 300), "--dry-run", world=world)
    assert config.batch_sequences == 9
    assert planned(of_size(dataset, 300, 300), "--dry-run", world=world).batch_sequences == 3


def test_of_a_huge_validation_split_a_part_is_evaluated_and_said(planned, dataset, said):
    config = planned(of_size(dataset, 30_000, 3e6))
    assert config.evaluation.tokens < 30_000
    assert re.search(r"evaluated before the first step and every 4 steps, on 5,\d+ tokens of the validation", said[-1])


def test_a_preset_for_trained_weights_needs_some(dataset):
    command = parse_train(["finetune", "--data", str(dataset.path), "--device", "cpu"])
    with pytest.raises(
        InputError, match="preset finetune: is for trained weights; name a run or a model by `init_from`"
    ):
        settle(command, dataset, World("cpu"))


def test_what_was_chosen_is_said_with_its_reasons_and_the_time(planned, dataset, said):
    config = planned(dataset)
    lines = said[-1].splitlines()
    steps = config.steps
    assert re.fullmatch(
        rf"36,\d+ tokens to learn from, 1,2\d+ to validate: [34][.\d]* epochs, as suits so much text; {steps} steps of "
        r"2,048 tokens, 64 windows of 32; 17\.6 steps an epoch",
        lines[0],
    )
    assert re.fullmatch(
        rf"rate {config.optimizer.learning_rate:g} at its peak, for weights of 22,\d+ parameters; 5 steps of warm-up, "
        r"then linear to 0; dropout 0\.1, weight decay 0\.01",
        lines[1],
    )
    assert lines[2] == (
        "evaluated before the first step and every 4 steps, on the whole validation split; once an epoch also on as "
        "many windows of the training split"
    )
    assert lines[3].startswith(
        "stops after 3 evaluations without a new best, which must beat the one before by 1 stand"
    )
    assert lines[4] == "time here: about 1:39 if nothing stops it early, of which 0:09 evaluations"
    assert len(lines) == 5


# ---- small texts ----


@pytest.mark.parametrize(
    ("train", "validation", "context", "batch"),
    [
        (4_000, 17, 16, 496),
        (17, 4_000, 16, 16),
        (17, 17, 16, 16),
        (33, 33, 16, 16),
        (130, 40, 16, 16),
        (300, 40, 32, 32),
    ],
)
def test_windows_shrink_to_what_the_splits_hold_down_to_the_least(
    planned, dataset, said, train, validation, context, batch
):
    config = planned(of_size(dataset, train, validation))
    assert (config.model.context_length, config.batch_tokens) == (context, batch)
    words = "windows of 16 tokens, as the text is so short: the run has that context, its weights 32"
    assert (words in said[-1]) == (context < 32)
    assert config.steps >= 10


@pytest.mark.parametrize("splits", [(16, 400), (400, 16), (5, 5)])
def test_less_than_the_least_is_refused_with_its_size(planned, dataset, splits):
    with pytest.raises(InputError, match=r"its split split has \d+ tokens; one window needs 17 "):
        planned(of_size(dataset, *splits))


def test_the_docs_state_the_least_size():
    words = " ".join((ROOT / "docs" / "fine-tuning.md").read_text(encoding="utf-8").split())
    assert f"needs at least {SHORTEST_CONTEXT + 1} tokens, {SHORTEST_CONTEXT} to read and one more to predict" in words
    assert f"with bytes, {10 * (SHORTEST_CONTEXT + 1)}." in words  # a tenth validates


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("A sentence that is all there is.", "And another."),
        ("abc " * 30, "The last one of all is this"),
    ],
)
@pytest.mark.process
def test_one_sentence_is_tuned_on(trained_run, tmp_path, train, validation):
    validation = validation if len(validation) > 16 else validation + " " * (17 - len(validation))
    dataset = write_dataset([("train", train), ("validation", validation)], "bytes", tmp_path / "data")
    given = ("--init-from", trained_run, "--data", dataset.path, "--device", "cpu")
    output = run_here("train.py", "finetune", *given, cwd=tmp_path)
    assert "windows of 16 tokens, as the text is so short" in output
    assert re.search(r"learned by step \d+, of validation: 3\.|nothing was learned: no step was better", output)


# ---- what comes of it ----


@pytest.fixture
def tuned(planned, tmp_path):
    """Tunes on a part of Python, of so many characters; the training and what it said."""

    def tune(characters):
        text = (python_text() * (1 + characters // 100_000))[:characters]
        cut = characters * 9 // 10
        pieces = [(name, part[i : i + 500]) for name, part in (("train", text[:cut]), ("validation", text[cut:]))
                  for i in range(0, len(part), 500)]  # fmt: skip
        dataset = write_dataset(pieces, "bytes", tmp_path / f"data-{characters}")
        config = dataclasses.replace(planned(dataset, "--evaluation.sample-tokens", 0), run_dir=tmp_path / "tuned")
        with open_run(config, dataset.tokenizer, resume=False) as run:
            training = Training(config, dataset, run)
        training.state = begin(run, training.trainer, training.validation)
        assert training.fit()
        return training

    return tune


@pytest.mark.process
@pytest.mark.parametrize(
    "characters",
    [5_000, 30_000, *(pytest.param(n, marks=pytest.mark.slow) for n in (100_000, 300_000, 1_000_000))],
)
def test_a_text_of_any_size_lowers_the_validation_loss_and_stops_by_itself(tuned, characters, capsys):
    training = tuned(characters)
    records = [record for record in read_metrics(training.run) if "val_loss" in record]
    assert records[0]["step"] == 0
    best = load_best(training.run)
    assert best.state["evaluation"]["loss"] < records[0]["val_loss"] - 0.02
    state, windows = TrainState.of(best.state), training.validation.windows
    line = outcome(state, windows)
    if characters == 5_000:
        training.report()
        assert capsys.readouterr().out.strip().splitlines()[-1] == line
    numbers = [float(n) for n in re.findall(r"-?\d+\.\d+", line)]
    before, after = records[0], best.state["evaluation"]
    ratio = math.exp(after["loss"] - before["val_loss"])
    wanted = [before["val_loss"], after["loss"], before["val_bits_per_byte"], after["bits_per_byte"]]
    assert [numbers[i] for i in (0, 1, 4, 5)] == pytest.approx(wanted, abs=1e-4)
    assert numbers[2] == pytest.approx(after["loss"] - before["val_loss"], abs=1e-4)
    assert numbers[10] == pytest.approx(ratio, abs=1e-3)
    assert numbers[11] == pytest.approx(ratio * numbers[3], abs=1e-3)
    assert 0 < numbers[3] < after["loss_se"]  # paired


def test_where_no_step_was_better_the_weights_are_kept_as_they_were(make_training, tiny_config, capsys, monkeypatch):
    """A rate far too high: the best is the beginning, which is saved, and it ends without a cool-down."""
    monkeypatch.undo()
    evaluation = dataclasses.replace(tiny_config.evaluation, at_start=True, every=1, min_gain=1e9, sample_tokens=0)
    config = dataclasses.replace(tiny_config, evaluation=evaluation, early_stopping_patience=3, cooldown=0.5)
    training = make_training(config)
    training.state = begin(training.run, training.trainer, training.validation)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    assert training.fit()
    assert (training.state.step, training.state.best_step) == (3, 0)
    best = load_best(training.run)
    assert best.state["step"] == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in best.model.items())
    training.report()
    assert "nothing was learned: no step was better than the weights that it began with" in capsys.readouterr().out
