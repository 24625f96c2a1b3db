"""`gpt data`, as a person calls it."""

import gzip
import json
import os
import random
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers import in_process

from gpt.__main__ import main as gpt_main
from gpt.config import EvaluationConfig
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.ledger import LEDGER, read_ledger
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import TextFiles
from gpt.dataset.documents import Documents
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
    assert re.fullmatch(r"validation +[\d,]+ tokens  10 documents  1 shards  1,200 bytes of text", lines[1])
    assert [line.split(":")[0] for line in lines[2:]] == [f"train {number}" for number in range(5)]
    assert "these are the first 5 of 90 documents of train; a whole one, by its number: gpt data show " in errors
    assert "--split train --document 89\n" in errors
    assert f"corpus fingerprint: {dataset.corpus_fingerprint}\n" in errors


def test_a_document_is_printed_as_it_is(dataset, tmp_path):
    """As long as all others of its split: 120 characters."""
    output, errors = data("show", dataset.path, "--document", 3, "--split", "validation", cwd=tmp_path)
    assert len(output) == 120
    assert "document 3 of validation, 120 tokens from token 363" in errors
    ids = dataset.validation.read(363, 120)
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


@pytest.fixture
def corpus(tmp_path):
    """A dataset of a folder of which some is left out: a repetition, what is no text; and some kept with a loss."""
    folder, words = tmp_path / "notes", [f"word{number}" for number in range(9000)]
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.txt").write_text(" ".join(words[600 * number : 600 * number + 600]))
    (folder / "20.txt").write_bytes((folder / "07.txt").read_bytes())
    (folder / "30.bin").write_bytes(bytes(range(256)))
    (folder / ".hidden").write_text("not meant")
    (folder / "40.txt").write_bytes(b"caf\xc3\xa9 " * 1000 + b"bad \xff byte")
    return prepare(TextFiles([folder]), SplitByContent(), "bytes", tmp_path / "d", {"name": "files"})


def test_what_was_left_out_is_listed(corpus, tmp_path):
    output, errors = data("show", corpus.path, "--dropped", cwd=tmp_path)
    size = (tmp_path / "notes" / "20.txt").stat().st_size
    assert [line.split("  ", 1)[0] for line in output.splitlines()] == ["left out"] * 3 + ["kept"]
    assert re.search(rf"^left out +{size:,} bytes  notes/20\.txt: the same content as notes/07\.txt$", output, re.M)
    assert re.search(r"^left out +unread  notes/\.hidden: hidden", output, re.M)
    assert re.search(r"^left out +256 bytes  notes/30\.bin: binary: ", output, re.M)
    assert re.search(r"^kept +\S+ bytes  notes/40\.txt: 1 bad byte, which is no UTF-8: replaced", output, re.M)
    assert errors == f"{corpus.path}: 3 left out, 1 kept\n"


@pytest.mark.parametrize(
    ("words", "names"),
    [(["duplicate"], ["20.txt"]), (["BINARY"], ["30.bin"]), (["no", "UTF-8"], ["40.txt"]), (["07"], ["20.txt"])],
)
def test_what_was_left_out_is_chosen_by_its_reason(corpus, tmp_path, words, names):
    output, errors = data("show", corpus.path, "--dropped", *words, cwd=tmp_path)
    assert re.findall(r"bytes  notes/(.*?): ", output) == names
    assert errors.endswith(f", for reasons with '{' '.join(words)}'\n")


def test_nothing_that_was_left_out_is_told_by_the_exit_code(corpus, dataset, tmp_path):
    output, errors = data("show", corpus.path, "--dropped", "no such reason", cwd=tmp_path, code=1)
    assert (output, errors[: errors.index(",")]) == ("", f"{corpus.path}: nothing that was left out")
    assert data("show", dataset.path, "--dropped", cwd=tmp_path, code=1)[0] == ""


def test_what_trains_only_in_part_is_listed_as_that(tmp_path):
    """The end of a file, with what validates in it, is dropped from its training."""
    rng = random.Random(0)
    texts = {f"{n}.txt": " ".join(f"word{rng.randrange(5000)}" for _ in range(3000)) for n in range(20)}
    held = tmp_path / "held.txt"
    held.write_text(texts["3.txt"][:9000])
    (tmp_path / "in").mkdir()
    for name, text in texts.items():
        (tmp_path / "in" / name).write_text(text)
    source = TextFiles([tmp_path / "in"], validation=[held])
    prepare(source, SplitByContent(overlap="drop"), "bytes", tmp_path / "d", {"name": "files"})
    output, _ = data("show", tmp_path / "d", "--dropped", "13-grams", cwd=tmp_path)
    entries = [entry for entry in read_ledger(tmp_path / "d") if "dropped_characters" in entry]
    (line,) = output.splitlines()
    (entry,) = entries
    lost = f"{entry['dropped_characters']:,}"
    assert re.fullmatch(rf"in part +\S+ bytes  in/3\.txt: shares its 13-grams .*: {lost} characters", line)


@pytest.mark.parametrize("damage", ["cut", "bytes", "json", "number", "empty line"])
def test_a_damaged_ledger_is_an_error_with_its_name(corpus, tmp_path, damage):
    file = corpus.path / LEDGER
    content = file.read_bytes()
    broken = {
        "cut": content[:-20],
        "bytes": content[:40] + bytes(20) + content[60:],
        "json": gzip.compress(b'{"document": '),
        "number": gzip.compress(b'{"document": "a", "bytes": "many"}\n'),
        "empty line": gzip.compress(b"\n"),
    }
    file.unlink()
    file.write_bytes(broken[damage])
    errors = data("show", corpus.path, "--dropped", cwd=tmp_path, code=2)[1]
    assert re.search(r"error: \S+ledger\.jsonl\.gz: is damaged \(.+\); prepare the dataset again", errors)


def test_without_a_ledger_that_is_said(corpus, tmp_path):
    (corpus.path / LEDGER).unlink()
    errors = data("show", corpus.path, "--dropped", cwd=tmp_path, code=2)[1]
    assert "d: has no ledger.jsonl.gz, which says what became of each document: another program" in errors
    output, errors = data("show", corpus.path, "--document", 0, cwd=tmp_path)
    assert output and " of notes" not in errors


def test_documents_are_shown_with_where_they_come_from(corpus, tmp_path):
    output = data("show", corpus.path, cwd=tmp_path)[0]
    assert re.search(r"^train 0: [\d,]+ tokens of notes/\d\d\.txt: word", output, re.M)
    for split in ("train", "validation"):
        text, errors = data("show", corpus.path, "--split", split, "--document", 1, cwd=tmp_path)
        name = re.search(r" of (notes/\d\d\.txt)\n", errors)[1]
        assert text in (tmp_path / name).read_text()
        excerpt = text[100:140]
        output = data("show", corpus.path, "--text", excerpt, cwd=tmp_path)[0]
        assert output.startswith(f"{name}: {split} document 1, line 1, byte 100, token ")


def test_a_step_is_shown_with_where_its_documents_come_from(run, dataset, tmp_path):
    """The texts of this dataset have numbers for names."""
    output = data("show", "--run", run, "--step", 21, cwd=tmp_path)[0]
    train = [number for number in range(100) if number % 10]
    documents = Documents(dataset.train, dataset.tokenizer)
    heads = re.findall(
        r"^step 21, .* tokens (\d+) to \d+, documents? (\d+)(?: to (\d+))?:\n((?:document .*\n)+)", output, re.M
    )
    assert len(heads) == len(re.findall(r"^step 21, ", output, re.M))
    for place, first, last, lines in heads:
        begin = documents.span(int(first)).start
        before = dataset.tokenizer.decode(dataset.train.read(begin, int(place) - begin).tolist()).count("\n")
        expected = f"document {first}, from line {before + 1}, is of {train[int(first)]}\n"
        for number in range(int(first) + 1, int(last or first) + 1):
            expected += f"document {number} is of {train[number]}\n"
        assert lines == expected


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
        (("show", "DATA", "--dropped", "--document", "0"), "give one of them"),
        (("show", "none", "--dropped"), "none: there is no dataset here"),
        (("show", "--dropped", "duplicate", "DATA"), "name a dataset, as data/python, first: gpt data show DIR"),
        (("show", "--run", "none", "--step", "0"), "--step is 0; it must be at least 1"),
        (("verify", "none"), "none: there is no dataset here"),
        (("verfy", "none"), "there is no gpt data 'verfy'; did you mean 'verify'?"),
        (("show", "DATA", "--split", "test"), "test"),
        (
            ("show", "DATA", "--split", "train", "--dropped"),
            "error: --split and --dropped: what was left out is in neither",
        ),
        (("show", "DATA", "more"), "error: unrecognized options: more"),
        (("show", "DATA", "--document", "one"), "error: --document: 'one' is no whole number"),
        (("verify",), "error: missing from gpt data verify:"),
        (("verify", "none"), "error: none: there is no dataset here, nor in data/; make one: gpt prepare"),
    ],
)
def test_what_is_wrong_is_told(dataset, tmp_path, arguments, said):
    named = [str(dataset.path) if argument == "DATA" else argument for argument in arguments]
    errors = data(*named, cwd=tmp_path, code=2)[1]
    assert said in " ".join(errors.split())
    assert "│" not in errors


def test_a_dataset_that_is_not_there_lists_those_that_are(dataset, tmp_path):
    for name in ("novels", "poems"):
        shutil.copytree(dataset.path, tmp_path / "data" / name)
    (tmp_path / "data" / "notes").mkdir()
    for command in ("show", "verify"):
        assert data(command, "xyz", cwd=tmp_path, code=2)[1] == (
            "error: xyz: there is no dataset here; there are: data/novels, data/poems\n"
        )
        near = data(command, "data/poem", cwd=tmp_path, code=2)[1]
        assert near == "error: data/poem: there is no dataset here; did you mean data/poems?\n"
    assert "did you mean data/poems?" in data("show", "poems", cwd=tmp_path, code=2)[1]


def test_help_tells_no_default_that_is_none(tmp_path):
    for command in ("show", "verify"):
        assert "None" not in data(command, "--help", cwd=tmp_path)[0]


def test_no_step_reads_the_validation_split(run, tmp_path):
    errors = data("show", "--run", run, "--step", 1, "--split", "validation", cwd=tmp_path, code=2)[1]
    assert "--split validation: no step reads that" in errors
