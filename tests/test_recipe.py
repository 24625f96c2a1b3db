"""benchmarks/recipe.py: which recipe learns most."""

import argparse
import json
import sys
from concurrent.futures import Executor, Future
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch

from benchmarks import recipe
from benchmarks.recipe import PLAIN, Training


class AtOnce(Executor):
    """Does what it is given at once, in this process."""

    def __init__(self, *_):
        pass

    def submit(self, call, /, *given, **named):
        future = Future()
        future.set_result(call(*given, **named))
        return future


@pytest.fixture
def recipes(tiny_config, tmp_path, dataset, monkeypatch, capsys):
    """Run it as its command line says, on a tiny preset; returns (what it compared, what it has trained)."""
    tiny = replace(tiny_config, model=replace(tiny_config.model, vocab_size=dataset.tokenizer.vocab_size))
    monkeypatch.setattr(recipe, "preset", lambda name: tiny)
    monkeypatch.setattr(recipe, "ProcessPoolExecutor", AtOnce)
    monkeypatch.setattr(recipe, "limit_threads", lambda threads: None)
    begun, pace = [], {"": 2.0}

    def trained(training, work, data):
        """Lose less with a larger rate; the seed adds something, and each piece."""
        begun.append(training)
        windows = recipe.windows_of(dataset, tiny.model.context_length)
        sums = np.ones((len(windows.starts), 3))
        noise = np.random.default_rng(training.seed).normal(size=len(sums))
        sums[:, 0] = 3.0 + 0.1 * noise - (0.5 + 0.01 * training.seed) * bool(training.flags)
        np.save(work / training.name, sums)
        seconds = training.steps * pace.get(training.flags, 1.0)
        line = {"steps": training.steps, "seconds": seconds, "tokens": 1}
        return training, {"training": vars(training), **line, "bits_per_byte": fmean(sums[:, 0]) / np.log(2)}

    monkeypatch.setattr(recipe, "trained", trained)

    def run(*arguments):
        begun.clear()
        monkeypatch.setattr(sys, "argv", ["recipe.py", str(tmp_path / "work"), "--data", str(dataset.path), *arguments])
        recipe.main()
        return json.loads(capsys.readouterr().out)["variants"], [*begun]

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


def test_variants_are_compared_seed_by_seed_on_the_same_pieces(recipes):
    found, begun = recipes("--seeds", "1", "2", "3", "--variant", "fast=--optimizer.learning-rate 1")
    assert [(t.flags, t.seed, t.steps) for t in begun[:2]] == [("", 1, 30), ("--optimizer.learning-rate 1", 1, 30)]
    assert len(begun) == 6
    bits = -0.52 / np.log(2)
    assert found["fast"]["difference"] == pytest.approx(bits, rel=1e-4)
    assert found["fast"]["each_seed"] == pytest.approx([bits * part / 0.52 for part in (0.51, 0.52, 0.53)], rel=1e-4)
    assert found["fast"]["over_seeds"] == pytest.approx(0.01 / np.log(2) / 3**0.5, rel=1e-3)
    assert found["fast"]["over_text"] < 1e-6  # what is hard is hard for both
    assert found["fast"]["relative"] == pytest.approx(bits / found[PLAIN]["bits_per_byte"], rel=1e-4)
    assert found[PLAIN]["difference"] == 0


def test_stopped_it_goes_on_with_what_is_missing(recipes):
    _, first = recipes("--seeds", "1", "--variant", "fast=--optimizer.learning-rate 1")
    found, second = recipes(
        "--seeds", "1", "2", "--variant", "fast=--optimizer.learning-rate 1", "--variant", "new=--seed 9"
    )
    assert len(first) == 2
    assert {(t.flags, t.seed) for t in second} == {
        *(("", 2), ("--optimizer.learning-rate 1", 2), ("--seed 9", 1), ("--seed 9", 2))
    }
    assert set(found) == {PLAIN, "fast", "new"}


def test_in_equal_time_a_variant_has_as_many_steps_as_take_the_presets(recipes):
    """A variant's steps take half of the preset's here; as measured side by side, by a fifth of the steps."""
    found, begun = recipes("--seeds", "4", "--equal", "time", "--variant", "fast=--optimizer.learning-rate 1")
    pair, rest = begun[:2], begun[2:]
    assert {(t.flags, t.beside, t.steps) for t in pair} == {
        ("", "--optimizer.learning-rate 1", 6),
        ("--optimizer.learning-rate 1", "", 6),
    }
    assert [(t.flags, t.steps) for t in rest] == [("", 30), ("--optimizer.learning-rate 1", 60)]
    assert found["fast"]["seconds"] == found[PLAIN]["seconds"]


def test_a_share_of_the_steps_becomes_a_number_of_them():
    training = Training("nano", "abc", "--checkpoint.every 50% --optimizer.warmup-steps 3%", 1, 300)
    assert training.arguments == ["--checkpoint.every", "150", "--optimizer.warmup-steps", "9"]
    assert len({training.name, replace(training, seed=2).name, replace(training, beside="").name}) == 3


@pytest.mark.parametrize("text", ["--flag 1", "plain=--flag 1", "name=", "=--flag"])
def test_what_is_no_variant_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="write NAME=FLAGS"):
        recipe.variant(text)


def test_a_training_is_that_of_train_py_and_evaluated_to_its_end(dataset, tmp_path, monkeypatch):
    flags = "--model.n-layer 1 --model.n-embd 16 --model.n-head 2 --model.ngram 1"
    monkeypatch.setattr(recipe.log.logger, "level", recipe.log.logger.level)
    training, line = recipe.trained(
        Training("nano", dataset.fingerprint, f"{flags} --optimizer.head-lr-scale 2", 1, 3), tmp_path, dataset.path
    )
    sums = np.load(tmp_path / f"{training.name}.npy")
    windows = recipe.windows_of(dataset, 128)
    assert sums[:, 1].sum() == dataset.validation.tokens - 1
    assert len(sums) == len(windows.starts)
    assert (line["steps"], line["tokens"]) == (3, 4096 * 3)
    assert line["bits_per_byte"] == pytest.approx(sums[:, 0].sum() / sums[:, 2].sum() / np.log(2))
    with pytest.raises(SystemExit, match="must keep the preset's context"):
        recipe.trained(Training("nano", "", f"{flags} --model.context-length 64", 1, 3), tmp_path, dataset.path)
