"""`gpt memorized`, as a person calls it: of runs that have memorized, or learned, and of a base that knew the text."""

import io
import json
import logging
import math
import re
import shutil
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import ROOT, Training, python_text, run_gpt, saved_run, transformers, write_dataset

from gpt.commands import memorized
from gpt.config import CheckpointConfig, EvaluationConfig, TrainConfig
from gpt.dataset.dataset import open_dataset
from gpt.errors import OutOfMemory
from gpt.log import log
from gpt.model.config import ModelConfig
from gpt.presets import MUON, modern
from gpt.runs.checkpoint import list_checkpoints, step_of
from gpt.runs.directory import open_run, read_config, write_config
from gpt.tracking.jsonl import read_metrics
from gpt.training.start import initial_weights

pytestmark = pytest.mark.process  # it trains

OTHER = ROOT / "gpt" / "evaluation" / "other_text.txt"
SHAPE = modern(ModelConfig(n_layer=1, n_head=2, n_embd=64, context_length=64, vocab_size=257), 3, 4096)


def documents(text, size):
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    return [("validation" if i % 3 == 2 else "train", piece) for i, piece in enumerate(pieces)]


def trained(home, name, dataset, init_from, steps, every, rate=0.02, sequences=8, train_split=False):
    """Train a run to its end; its directory."""
    config = TrainConfig(
        data=dataset.path,
        run_dir=home / name,
        init_from=str(init_from),
        steps=steps,
        batch_tokens=sequences * SHAPE.context_length,
        model=SHAPE,
        optimizer=replace(MUON, learning_rate=rate, muon_learning_rate=rate, warmup_steps=2),
        evaluation=EvaluationConfig(every=every, sample_tokens=0, train_split=train_split),
        checkpoint=CheckpointConfig(every=every),
    )
    torch.manual_seed(config.seed)
    with (
        mock.patch.multiple(log, logger=logging.getLogger("unheard"), _said=set()),
        redirect_stderr(io.StringIO()),
        open_run(config, dataset.tokenizer, resume=False) as run,
    ):
        training = Training(config, dataset, run)
        if init_from != "scratch":
            training.model.load_state_dict(initial_weights(config)[0])
        assert training.fit()
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base of English; of it a run that has learned Python, and one that has memorized 2 KB of it, which goes on."""
    home = tmp_path_factory.mktemp("home")
    text = python_text()
    english = write_dataset(documents(OTHER.read_text(encoding="utf-8"), 400), "bytes", home / "english")
    large = write_dataset(documents(text[:16_000], 400), "bytes", home / "large")
    small = write_dataset(documents(text[60_000:62_400], 150), "bytes", home / "small")
    base = trained(home, "base", english, "scratch", 30, every=30)
    learned = trained(home, "learned", large, base, 20, every=10)
    memorized = trained(home, "memorized", small, base, 48, every=6)
    # `init_from` takes the best checkpoint of a run: this one has the last alone.
    knows = Path(shutil.copytree(memorized, home / "knows"))
    for path in list_checkpoints(knows)[:-1]:
        shutil.rmtree(path)
    again = trained(home, "again", small, knows, 2, every=2, rate=1e-4, train_split=True)
    return {"home": home, "base": base, "learned": learned, "memorized": memorized, "again": again, "small": small}


def told(runs, name, *arguments):
    """What is found, as JSON; no samples are drawn."""
    run = runs[name]
    more = ("--json", "--samples", 0, "--passages", 40)
    return json.loads(run_gpt(runs["home"], "memorized", "--run", run, *more, *arguments))


@pytest.fixture(scope="module")
def memorized_last(runs):
    return told(runs, "memorized", "--checkpoint", "last")


def test_a_memorizing_run_is_called_so_and_its_kept_best_is_not(runs, memorized_last):
    last = memorized_last
    assert (last["verdict"], last["step"]) == ("memorized", 48)
    train = last["train"]
    assert train["model"]["verbatim"] > 0.5 * train["model"]["passages"]
    assert train["base"]["verbatim"] == last["validation"]["model"]["verbatim"] == 0
    assert train["model"]["drawn_probability"] > 0.1
    assert train["model"]["draws_for_90_percent"] < 5
    best = told(runs, "memorized")
    assert best["verdict"] == "learned"
    assert best["step"] == last["rise"]["best_step"] == best["rise"]["best_step"] < 30
    assert best["rise"] == last["rise"]
    assert best["rise"]["later_step"] == 48
    assert best["rise"]["value"] > 2 * best["rise"]["se"] > 0
    assert "After it the run was overfitted: by step 48 " in best["sentence"]
    assert f"Overfitted: the validation loss is {best['rise']['value']:.3f}" in last["sentence"]


@pytest.mark.slow
def test_fifty_epochs_of_20_kb_are_called_memorized_and_their_kept_best_is_not(runs, tmp_path):
    small = write_dataset(documents(python_text()[60_000:80_000], 500), "bytes", tmp_path / "small")
    steps = 50 * small.train.tokens // (16 * SHAPE.context_length)
    run = trained(tmp_path, "run", small, runs["base"], steps, every=steps // 50, sequences=16)
    assert read_metrics(run)[-1]["epoch"] == pytest.approx(50, abs=0.5)
    last, best = (looked_at(tmp_path, run, "--samples", 0, "--checkpoint", name) for name in ("last", "best"))
    assert (last["verdict"], best["verdict"]) == ("memorized", "learned")
    assert last["train"]["model"]["verbatim"] > 0.5 * last["train"]["model"]["passages"]
    assert best["step"] < last["step"] / 10


def test_the_course_is_measured_where_there_are_checkpoints_and_recorded_where_not(runs, memorized_last, tmp_path):
    found = memorized_last
    assert (found["course_source"], found["course_windows"]) == ("passages", 0)
    steps = [step_of(path) for path in list_checkpoints(runs["memorized"])]
    assert [point["step"] for point in found["course"]] == [0, *steps]
    losses = (found["train"]["base"]["loss"], found["validation"]["base"]["loss"])
    assert (found["course"][0]["train_loss"], found["course"][0]["validation_loss"]) == losses
    last = found["course"][-1]
    assert last["train_loss"] == found["train"]["model"]["loss"]
    assert last["validation_loss"] == found["validation"]["model"]["loss"]
    assert last["epoch"] == pytest.approx(read_metrics(runs["memorized"])[-1]["epoch"])
    other = told(runs, "memorized", "--base", runs["learned"])  # with which it did not begin
    assert [point["step"] for point in other["course"]] == steps
    few = Path(shutil.copytree(runs["learned"], tmp_path / "few"))
    for path in list_checkpoints(few)[:-2]:
        shutil.rmtree(path)
    found = told(runs | {"few": few}, "few")  # two, as a sound run keeps
    assert found["course_source"] == "passages"
    assert [point["step"] for point in found["course"]] == [0, 10, 20]
    shutil.rmtree(list_checkpoints(few)[0])
    found = told(runs | {"few": few}, "few")
    records = [record for record in read_metrics(runs["learned"]) if record.get("val_loss")]
    assert found["course_source"] == "records"
    assert [point["validation_loss"] for point in found["course"]] == [record["val_loss"] for record in records]
    assert [point["step"] for point in found["course"]] == [10, 20]


def test_the_course_is_that_of_training_where_it_measured_both_splits_alike(runs):
    found = told(runs, "again", "--checkpoint", "last")
    last = read_metrics(runs["again"])[-1]
    losses = {"train_loss": last["train_split_loss"], "validation_loss": last["val_loss"]}
    assert found["course"] == [{"step": 2, "epoch": last["epoch"], **losses}]
    windows = -(-(open_dataset(runs["small"].path).validation.tokens - 1) // SHAPE.context_length)
    assert (found["course_source"], found["course_windows"]) == ("training", windows)


def test_a_sound_run_is_not_called_so(runs):
    for checkpoint in ("best", "last"):
        assert told(runs, "learned", "--checkpoint", checkpoint)["verdict"] == "learned"


def test_a_base_that_knew_the_text_is_not_blamed(runs):
    found = told(runs, "again", "--checkpoint", "last")
    assert found["train"]["model"]["verbatim"] > 0.5 * found["train"]["model"]["passages"]
    assert abs(found["train"]["base"]["verbatim"] - found["train"]["model"]["verbatim"]) <= 2
    assert found["verdict"] == "nothing learned"
    assert told(runs, "again", "--base", runs["base"], "--checkpoint", "last")["verdict"] == "memorized"


def test_a_run_from_scratch_is_compared_with_guessing(runs):
    found = told(runs, "base")
    assert found["base"] == "a model that finds all tokens equally likely"
    assert found["train"]["base"]["loss"] == pytest.approx(math.log(257))
    assert found["verdict"] == "learned"


def test_figures_are_those_of_gpt_eval(runs):
    """On the whole validation split in windows of the same length."""
    found = told(runs, "learned", "--passages", 1000)
    length = found["prompt_tokens"] + found["suffix_tokens"]
    assert length == SHAPE.context_length + 1
    arguments = ("--run", runs["base"], "--against", runs["learned"], "--data", runs["home"] / "large", "--json")
    one, two = json.loads(run_gpt(runs["home"], "eval", *arguments))["runs"]
    validation = found["validation"]
    assert validation["base"]["loss"] == pytest.approx(one["evaluation"]["loss"], rel=1e-6)
    assert validation["model"]["loss"] == pytest.approx(two["evaluation"]["loss"], rel=1e-6)
    assert validation["gain"]["value"] == pytest.approx(-two["minus_the_first"]["loss"]["value"], rel=1e-5)
    assert validation["gain"]["se"] == pytest.approx(two["minus_the_first"]["loss"]["se"], rel=1e-5)


def test_what_samples_share_with_the_training_text_is_shown_with_its_place(runs):
    arguments = ("--run", runs["memorized"], "--checkpoint", "last", "--samples", 3, "--passages", 20)
    output = run_gpt(runs["home"], "memorized", *arguments)
    assert re.search(
        r"^Memorized: \d+% of its training passages come out word for word \(0% before, ", output, re.MULTILINE
    )
    found = json.loads(run_gpt(runs["home"], "memorized", *arguments, "--json"))
    samples, text = found["samples"], python_text()
    assert (samples["count"], found["validation_text"]["count"]) == (3, 3)
    assert samples["longest_characters"] > found["validation_text"]["longest_characters"]
    assert samples["longest"][0]["characters"] == samples["longest_characters"] == len(samples["longest"][0]["text"])
    pieces = dict(enumerate(piece for split, piece in documents(text[60_000:62_400], 150) if split == "train"))
    for number, placed in enumerate(samples["longest"]):
        piece = pieces[placed["document"]]
        lines = [1 + piece.count("\n", 0, at) for at in range(len(piece)) if piece.startswith(placed["text"], at)]
        assert placed["line"] in lines
        where = f"{placed['file']}: document {placed['document']}, line {placed['line']}: "
        assert f"{placed['characters']} characters of {where}" in output
        assert len(found["samples"]["longest"]) > number
    assert found["sentence"] in output  # seeds are fixed, and both show the same samples


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--samples", "-1"), "--samples is -1; it must be at least 0"),
        (("--passages", "0"), "--passages is 0; it must be at least 1"),
        (("--run", "english"), "is a dataset"),
        (("--base", "nowhere"), "(name what the run began with by --base)"),
        (("--data", "chars"), "is written with another tokenizer than "),
        (("--checkpoint", "7"), "--checkpoint 7: "),
    ],
)
def test_what_makes_no_sense_is_refused(runs, tmp_path, arguments, said):
    home = tmp_path
    (home / "english").symlink_to(runs["home"] / "english")
    write_dataset([("train", "abcd efgh " * 9), ("validation", "hgfe dcba " * 9)], "char", home / "chars")
    run = () if "--run" in arguments else ("--run", runs["learned"])
    assert said in run_gpt(home, "memorized", *run, *arguments, code=2)


def test_the_other_spelling_and_a_base_that_is_gone(runs, tmp_path):
    moved = Path(shutil.copytree(runs["learned"], tmp_path / "moved"))
    config = read_config(moved)
    write_config(moved, replace(config, init_from=str(tmp_path / "gone")))
    assert "(name what the run began with by --base)" in run_gpt(tmp_path, "memorised", "--run", moved, code=2)
    found = run_gpt(tmp_path, "memorised", "--run", moved, "--base", runs["base"], "--samples", 0, "--passages", 40)
    assert "\nLearned: " in found


def untrained(home, name, data, **settings):
    run = saved_run(home, name)
    write_config(run, replace(read_config(run), data=data, **settings))
    return run


def looked_at(home, run, *arguments):
    return json.loads(run_gpt(home, "memorized", "--run", run, "--json", *arguments))


def test_a_text_of_some_words_is_too_little_to_tell(tmp_path):
    text = python_text()
    dataset = write_dataset([("train", text[:200]), ("validation", text[1000:1070])], "bytes", tmp_path / "tiny")
    run = untrained(tmp_path, "run", dataset.path)
    found = looked_at(tmp_path, run, "--samples", 0)
    assert found["verdict"] == "too little text"
    assert (found["prompt_tokens"], found["suffix_tokens"]) == (10, 10)
    output = run_gpt(tmp_path, "memorized", "--run", run, "--samples", 2)
    assert "of 10 + 10 tokens, spread evenly; shorter than usual" in output
    assert "stretches that stand in the training text: " in output


def test_of_several_datasets_a_stretch_is_placed_in_its_own(tmp_path):
    text, paths = python_text(), []
    for number, name in enumerate(("one", "two")):
        own = text[20_000 * number : 20_000 * number + 5000]
        documents = [("train", own[:2000]), ("train", own[2000:3000]), ("validation", own[4000:])]
        paths.append(write_dataset(documents, "bytes", tmp_path / name).path)
    run = untrained(tmp_path, "run", (f"{paths[0]}=0.5", f"{paths[1]}=0.5"))
    stretch = text[22_500:22_600]  # of the second document of `two`
    ids = [np.frombuffer(stretch.encode(), dtype=np.uint8).astype(np.int64)] * 2  # what two samples share is shown once
    with mock.patch.object(memorized, "_sampled", lambda *_: ids):
        [placed] = looked_at(tmp_path, run, "--samples", 1)["samples"]["longest"]
    assert (placed["text"], placed["dataset"], placed["document"]) == (stretch, str(paths[1]), 1)
    assert placed["line"] == 1 + text[22_000:22_500].count("\n")


def test_a_base_without_a_tokenizer_is_compared_by_its_size(tmp_path, said):
    text = python_text()
    dataset = write_dataset([("train", text[:4000]), ("validation", text[5000:6000])], "bytes", tmp_path / "data")
    run = untrained(tmp_path, "run", dataset.path)
    for ids in (257, 100):
        shape = transformers.GPT2Config(vocab_size=ids, n_positions=32, n_embd=8, n_layer=1, n_head=2)
        saved = transformers.GPT2LMHeadModel(shape)
        saved.save_pretrained(tmp_path / f"hf{ids}")
    found = looked_at(tmp_path, run, "--base", tmp_path / "hf257", "--samples", 0)
    assert found["prompt_tokens"] + found["suffix_tokens"] == 33  # the base's context
    assert any("cannot be compared with that of" in line for line in said)
    refused = run_gpt(tmp_path, "memorized", "--run", run, "--base", tmp_path / "hf100", code=2)
    assert "hf100: has 100 ids, and" in refused


def test_what_is_no_run_has_no_training_text(tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    assert "is no run of this program" in run_gpt(tmp_path, "memorized", "--run", "hf", code=2)


def test_too_many_samples_for_the_memory_are_told(tmp_path):
    dataset = write_dataset([("train", "abcd " * 90), ("validation", "efgh " * 90)], "bytes", tmp_path / "data")
    run = untrained(tmp_path, "run", dataset.path)
    with mock.patch("gpt.generation.engine.Engine.step", side_effect=OutOfMemory("no")):
        said = run_gpt(tmp_path, "memorized", "--run", run, "--samples", 7, code=2)
    assert "out of memory with 7 samples at once: give fewer --samples" in said
