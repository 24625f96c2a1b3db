"""Data that is lost while it is trained on: the steps done are saved, and the run says which file, and how to go on."""

import os
import shutil
import threading
from dataclasses import replace

import pytest
import torch
from helpers import Training, heard, same

from gpt import InputError
from gpt.dataset.dataset import open_dataset
from gpt.dataset.shards import Shard
from gpt.errors import Reported
from gpt.runs.checkpoint import list_checkpoints, load_newest, step_of
from gpt.runs.directory import go_on, open_run

TRAIN, VALIDATION = "train-00000.bin", "validation-00000.bin"


@pytest.fixture
def config(tiny_config, dataset, tmp_path):
    """Six steps on a dataset of the test's own."""
    shutil.copytree(dataset.path, tmp_path / "data")
    off = replace(tiny_config.evaluation, every=0)
    return replace(tiny_config, data=tmp_path / "data", steps=6, evaluation=off, run_dir=tmp_path / "run")


def begun(config, resume=False):
    torch.manual_seed(config.seed)
    dataset = open_dataset(config.data)
    with open_run(config, dataset.tokenizer, resume) as run:
        return Training(config, dataset, run, resumes=resume)


def lost_at(training, step, lose):
    def around(do):
        if training.state.step == step:
            lose()
        return do()

    training.around_steps(around)


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("lose", [cut, os.remove])
def test_a_shard_that_is_lost_ends_the_run_in_order_and_it_goes_on(config, lose, tmp_path):
    file, threads = config.data / TRAIN, threading.active_count()
    config = replace(config, steps=5)  # ten in all
    content, whole = file.read_bytes(), replace(config, run_dir=tmp_path / "whole")
    training = begun(config)
    lost_at(training, 1, lambda: lose(file))
    with pytest.raises(InputError) as failed:
        training.fit()
    assert str(file) in str(failed.value)
    assert str(failed.value).endswith(f"; then go on with: {go_on(training.run)}")
    saved = step_of(list_checkpoints(training.run)[-1])
    assert saved == training.state.step >= 2  # the second, of which the batch was read before, was done
    assert threading.active_count() == threads
    file.write_bytes(content)
    resumed, undisturbed = begun(config, resume=True), begun(whole)
    assert resumed.fit() and undisturbed.fit()
    assert same(load_newest(resumed.run).model, load_newest(undisturbed.run).model)


def test_before_the_first_step_there_is_nothing_to_save(config):
    training = begun(config)
    os.truncate(config.data / TRAIN, 1024)
    with pytest.raises(InputError, match=rf"{TRAIN}: has changed.*--resume"):
        training.fit()
    assert list_checkpoints(training.run) == []


def test_a_lost_validation_shard_ends_it_too_and_the_evaluation_is_made_up_for(config):
    config = replace(config, evaluation=replace(config.evaluation, every=2))
    training, file = begun(config), config.data / VALIDATION
    content = file.read_bytes()
    lost_at(training, 3, lambda: cut(file))
    with pytest.raises(InputError, match=rf"{VALIDATION}: has changed.*--resume"):
        training.fit()
    assert step_of(list_checkpoints(training.run)[-1]) == training.state.step == 4
    file.write_bytes(content)
    resumed = begun(config, resume=True)
    assert resumed.state.unevaluated
    assert resumed.fit()
    assert resumed.state.evaluations == 3


def test_of_several_processes_all_end_and_the_first_speaks(config, monkeypatch):
    """A fault of another rank, of which this one hears between two steps."""
    training = begun(config)
    world = training.trainer.world
    monkeypatch.setattr(world, "any", lambda flag: flag or training.state.step == 2)
    monkeypatch.setattr(world, "first", lambda text: text or "other.bin: was removed")
    with pytest.raises(InputError, match=r"other\.bin: was removed; then go on with"):
        training.fit()
    assert step_of(list_checkpoints(training.run)[-1]) == 2
    world.rank = 1
    resumed = begun(config, resume=True)
    resumed.trainer.world.rank = 1
    monkeypatch.setattr(resumed.trainer.world, "any", lambda flag: True)
    monkeypatch.setattr(resumed.trainer.world, "first", lambda text: "other.bin: was removed")
    with heard(), pytest.raises(Reported):
        resumed.fit()


def test_a_disk_that_fails_is_named(config, monkeypatch):
    training = begun(config)

    def fail(*_):
        raise OSError(5, "Input/output error")

    lost_at(training, 1, lambda: monkeypatch.setattr(os, "pread", fail))
    with pytest.raises(InputError, match=rf"{TRAIN}: cannot be read \(Input/output error\)"):
        training.fit()
    assert list_checkpoints(training.run)
    assert isinstance(training.dataset.train.shards[0], Shard)
