import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers import saved_run

from gpt import Tokenizer
from gpt.dataset.dataset import open_dataset
from gpt.runs import training_text
from gpt.runs.directory import read_config, write_config
from gpt.runs.training_text import training_ids


@pytest.fixture
def run(tmp_path, dataset):
    """A run that was trained on a copy of the dataset, with its tokenizer."""
    data = shutil.copytree(dataset.path, tmp_path / "data")
    run = saved_run(tmp_path, "run", tokenizer=open_dataset(data).tokenizer)
    write_config(run, replace(read_config(run), data=data))
    return run


def test_the_ids_are_those_of_the_training_split(run, monkeypatch):
    dataset = open_dataset(read_config(run).data)
    ids = dataset.train.read(0, dataset.train.tokens)
    assert np.array_equal(training_ids(run, dataset.tokenizer), ids)
    monkeypatch.setattr(training_text, "MOST_TOKENS", 64)
    some = training_ids(run, dataset.tokenizer)
    starts = [i * len(ids) // 16 for i in range(16)]
    assert np.array_equal(some, np.concatenate([ids[start : start + 4] for start in starts]))


def test_without_that_text_there_are_none(run, tmp_path, monkeypatch):
    data, tokenizer = read_config(run).data, open_dataset(read_config(run).data).tokenizer
    assert len(training_ids(tmp_path / "hf", tokenizer)) == 0
    assert len(training_ids(run, Tokenizer.char("abc", True))) == 0
    monkeypatch.setattr(training_text, "LARGEST", 1)
    assert len(training_ids(run, tokenizer)) == 0
    for shard in data.glob("*.bin"):  # as other programs name theirs
        shard.rename(shard.with_suffix(".npy"))
    assert opened_none(run, tokenizer, monkeypatch)
    monkeypatch.undo()
    for shard in data.glob("*.npy"):
        shard.rename(shard.with_suffix(".bin"))
    next(data.glob("*.bin")).write_bytes(b"broken")
    assert len(training_ids(run, tokenizer)) == 0
    shutil.rmtree(data)
    assert len(training_ids(run, tokenizer)) == 0


def opened_none(run, tokenizer, monkeypatch):
    """Whether no dataset was read at all."""
    opened = []
    monkeypatch.setattr(training_text, "open_dataset", opened.append)
    return len(training_ids(run, tokenizer)) == 0 and not opened


def test_without_a_tokenizer_beside_it_none_is_fetched(run, monkeypatch):
    """GPT-2's would be, from the network, with a warning amid what is sampled."""
    data, tokenizer = read_config(run).data, open_dataset(read_config(run).data).tokenizer
    (data / "tokenizer.json").unlink()
    assert opened_none(run, tokenizer, monkeypatch)


def test_while_it_is_prepared_anew_there_are_none(run, monkeypatch):
    def vanished(_):
        raise FileNotFoundError("a shard was replaced")

    tokenizer = open_dataset(read_config(run).data).tokenizer
    monkeypatch.setattr(training_text, "open_dataset", vanished)
    assert len(training_ids(run, tokenizer)) == 0
