"""`gpt data`, as a person calls it."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers import in_process

from gpt.__main__ import main as gpt_main
from gpt.config import EvaluationConfig
from gpt.dataset.loader import Loader
from gpt.runs.directory import read_config, write_config


def data(*arguments, cwd, code=0):
    actual, output, errors = in_process(lambda: gpt_main(["data", *map(str, arguments)]), cwd)
    assert actual == code, output + errors
    return output, errors


@pytest.fixture
def copy(dataset, tmp_path):
    shutil.copytree(dataset.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_sound_dataset_is_verified_shard_by_shard(copy, tmp_path):
    output, errors = data("verify", copy, cwd=tmp_path)
    assert re.fullmatch(
        r"train-00000\.bin +train +[\d,]+ tokens  largest id +256  ok\n"
        r"validation-00000\.bin +validation +[\d,]+ tokens  largest id +256  ok\n",
        output,
    )
    assert re.search(r"copy: 2 shards, [\d,]+ tokens: all is well \(as manifest\.json says\)\n$", errors)


def test_each_bad_shard_is_named_with_its_first_fault_and_the_remedy(copy, tmp_path):
    os.truncate(copy / "train-00000.bin", 3000)
    content = bytearray((copy / "validation-00000.bin").read_bytes())
    content[-2:] = b"\7\7"
    (copy / "validation-00000.bin").write_bytes(content)
    output, errors = data("verify", copy, cwd=tmp_path, code=1)
    assert [line.split()[-1] for line in output.splitlines()] == ["damaged", "damaged"]
    assert re.search(r"error: .*train-00000\.bin: has 3,000 bytes where .*; prepare the dataset again", errors)
    assert re.search(r"error: .*validation-00000\.bin: holds the id 1,799, outside .*; prepare the dataset", errors)
    assert errors.endswith("copy: 2 of 2 shards cannot be used\n")


def test_of_others_what_can_be_checked_is(copy, tmp_path):
    (copy / "manifest.json").unlink()
    (copy / "validation-00000.bin").unlink()
    np.arange(400, dtype="<u2").tofile(copy / "train.bin")
    output, errors = data("verify", copy, cwd=tmp_path, code=1)
    assert re.search(r"train-00000\.bin .* ok\ntrain\.bin .* damaged\n", output)
    assert "train.bin: holds the id 399, outside the tokenizer's vocabulary of 257" in errors
    assert "has no validation shard" in errors
    (copy / "train.bin").unlink()
    assert "no manifest.json, so no hashes" in data("verify", copy, cwd=tmp_path)[1]


def test_the_overview_has_sizes_and_first_documents(dataset, tmp_path):
    output, errors = data("show", dataset.path, cwd=tmp_path)
    lines = output.splitlines()
    assert re.fullmatch(r"train +[\d,]+ tokens  90 documents  1 shards  [\d,]+ bytes of text", lines[0])
    assert re.fullmatch(r"validation +[\d,]+ tokens  10 documents  1 shards  4,000 bytes of text", lines[1])
    assert [line.split(":")[0] for line in lines[2:]] == [f"train {number}" for number in range(5)]
    assert "--document 0" in errors


def test_a_document_is_printed_as_it_is(dataset, tmp_path):
    """As long as all others here: 400 characters."""
    output, errors = data("show", dataset.path, "--document", 3, "--split", "validation", cwd=tmp_path)
    assert len(output) == 400
    assert "document 3 of validation, 400 tokens from token 1,203" in errors
    ids = dataset.validation.read(1203, 400)
    assert dataset.tokenizer.decode(ids.tolist()) == output


def test_a_sentence_is_found_in_its_document(dataset, tmp_path):
    text = data("show", dataset.path, "--document", 7, cwd=tmp_path)[0]
    wanted = text[200:240]
    output, errors = data("show", dataset.path, "--text", wanted, cwd=tmp_path)
    assert f"train document 7, line {text[:200].count(chr(10)) + 1}, byte 200, token {7 * 401 + 200}: " in output
    assert "in train and validation" in errors
    output, errors = data("show", dataset.path, "--text", "no such text", "--split", "train", cwd=tmp_path, code=1)
    assert (output, errors) == ("", f"{dataset.path}: nowhere in train\n")


@pytest.fixture
def run(trained_run, copy):
    """A run on a dataset of the test's own."""
    write_config(trained_run, replace(read_config(trained_run), data=copy))
    return trained_run


def test_a_step_is_shown_as_it_was_read(run, dataset, tmp_path):
    output, errors = data("show", "--run", run, "--step", 21, cwd=tmp_path)
    config = read_config(run)
    loader = Loader(dataset.train, config.batch_sequences, config.model.context_length, config.seed)
    batch, heads = loader.batch(20), re.findall(r"^step 21, sample (\d+), .*:$", output, re.MULTILINE)
    assert [int(number) for number in heads] == [*loader.samples(20)]
    for row in batch.inputs:
        assert dataset.tokenizer.decode(row[:20].tolist()) in output
    assert errors == f"{run}: this is what step 21 has read as the hash of step 21 says\n"
    for tokens, numbers in re.findall(r"train tokens (\d+) to \d+, documents? (\d+)", output):
        assert int(numbers) == int(tokens) // 401


def test_a_step_of_a_mixture_is_shown_with_the_dataset_of_each_document(make_mixed, mixed_config, mixture, tmp_path):
    training = make_mixed(replace(mixed_config, steps=3, evaluation=EvaluationConfig(every=0, sample_tokens=0)))
    training.fit()
    output, errors = data("show", "--run", training.run, "--step", 3, cwd=tmp_path)
    assert errors == f"{training.run}: this is what step 3 has read as the hash of step 3 says\n"
    heads = re.findall(r"^step 3, sample (\d+), epoch 0, train tokens (\d+) .*?(\d+) of (.*):$", output, re.MULTILINE)
    assert {int(head[0]) for head in heads} == {*range(12, 18)}
    for number, start, document, path in heads:
        source, own = training.loader.source.locate(int(number))
        assert path == str(mixture.sources[source].dataset.path)
        alone = mixture.sources[source].dataset.loader(1, 32, mixed_config.seed)
        assert int(start) in [first for first, _ in alone.spans(own)]
        assert abs(int(document) - int(start) // 401) <= 1  # the last one of a span that may have two
    for row in training.loader.batch(2).inputs:
        assert mixture.tokenizer.decode(row[:15].tolist()) in output


def test_a_step_without_a_record_is_told_by_its_neighbor(run, tmp_path):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[::10]))
    errors = data("show", "--run", run, "--step", 13, cwd=tmp_path)[1]
    assert "step 13 has read as the hash of step 11, the nearest that is recorded, says" in errors
    errors = data("show", "--run", run, "--step", 1000, cwd=tmp_path)[1]
    assert "step 1,000 will read, which it has not come to, as the hash of step 21" in errors
    (run / "metrics.jsonl").unlink()
    assert "has recorded no step yet" in data("show", "--run", run, "--step", 1, cwd=tmp_path)[1]


def test_data_that_has_changed_since_is_said(run, copy, tmp_path, dataset):
    manifest = json.loads((copy / "manifest.json").read_text())
    for info in manifest["shards"]:
        info["split"] = "validation" if info["split"] == "train" else "train"  # sound, and other data
    (copy / "manifest.json").write_text(json.dumps(manifest))
    errors = data("show", "--run", run, "--step", 2, cwd=tmp_path, code=1)[1]
    assert "has read something else than this" in errors and str(copy) in errors
    assert data("show", dataset.path, "--run", run, "--step", 2, cwd=tmp_path)[1].startswith(f"{run}: this is what")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show",), "name a dataset, as data/python, or a run with --run"),
        (("show", "none"), "none: there is no dataset here"),
        (
            ("show", "DATA", "--document", "90"),
            "--document 90: the train split has 90 documents, of the",
        ),
        (("show", "DATA", "--text", ""), "--text: give some text"),
        (("show", "DATA", "--text", "a", "--document", "0"), "give one of them"),
        (("show", "DATA", "--step", "1"), "--run and --step: give both"),
        (("show", "--run", "none", "--step", "1"), "none/config.json: cannot be read as a run's config"),
        (("show", "--run", "none", "--step", "0"), "--step is 0; it must be at least 1"),
        (("verify", "none"), "none: there is no dataset here"),
        (("verfy", "none"), "there is no gpt data 'verfy'; did you mean 'verify'?"),
        (("show", "DATA", "--split", "test"), "test"),
    ],
)
def test_what_is_wrong_is_told(dataset, tmp_path, arguments, said):
    named = [str(dataset.path) if argument == "DATA" else argument for argument in arguments]
    errors = data(*named, cwd=tmp_path, code=2)[1]
    assert said in " ".join(errors.replace("│", " ").split())


def test_no_step_reads_the_validation_split(run, tmp_path):
    errors = data("show", "--run", run, "--step", 1, "--split", "validation", cwd=tmp_path, code=2)[1]
    assert "--split validation: no step reads that" in errors
