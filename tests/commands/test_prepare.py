"""`gpt prepare NAME`, and data/prepare.py, which is the same."""

import json
import re
from unittest import mock

import numpy as np
import pytest
from helpers import ROOT, SHAKESPEARE, refused, run_here
from processes import Script

from gpt.commands.prepare import RECIPES, chosen_tokenizer
from gpt.corpus import vocabulary
from gpt.corpus.ledger import read_ledger
from gpt.corpus.recipes.python import Python
from gpt.dataset.dataset import open_dataset
from gpt.errors import InputError
from gpt.evaluation.statistics import effective_number
from gpt.interop.huggingface_tokenizer import OUR_TOKENIZER, write_tokenizer
from gpt.text.tokenizer import Tokenizer


def recipe(*arguments, **options):
    return run_here("data/prepare.py", *arguments, **options)


@pytest.fixture(scope="module")
def standard_library(tmp_path_factory):
    """What `prepare python` prints and writes, and the documents that it makes. Its vocabulary is of a part of them."""
    home, made, original = tmp_path_factory.mktemp("home"), {}, Python.split

    def split(self):
        def divide_all(corpus):
            divide = original(self)(corpus)
            return lambda document: [made.setdefault(piece.name, piece) for piece in divide(document)]

        return divide_all

    with mock.patch.object(Python, "split", split), mock.patch.object(vocabulary, "TRAINER_CHARACTERS", 300_000):
        output = recipe("python", cwd=home)
    return output, open_dataset(home / "data" / "python"), list(made.values())


@pytest.fixture(scope="module")
def python_documents(standard_library):
    return standard_library[2]


@pytest.mark.process
def test_the_standard_library_is_the_default_corpus(standard_library):
    output, dataset, _ = standard_library
    assert dataset.tokenizer.kind == "bpe"
    assert "train tokens" in output
    assert dataset.train.tokens > 1_000_000
    assert 0.01 < dataset.validation.tokens / dataset.train.tokens < 0.15
    overlap = json.loads((dataset.path / "report.json").read_text())["overlap"]
    assert 0 < overlap["after"] == overlap["before"] < 0.02
    text = dataset.tokenizer.decode(dataset.validation.read(0, 20_000).tolist())
    assert "def " in text
    assert "<|endoftext|>" in text


@pytest.mark.process
def test_the_standard_library_leaves_out_tests_packages_and_code_pages(python_documents):
    names = [document.name for document in python_documents]
    assert len(names) == len(set(names))
    assert {"argparse.py", "json/__init__.py", "pydoc_data/topics/while"} <= set(names)
    assert not [name for name in names if {"test", "tests", "site-packages", "encodings"} & set(name.split("/"))]
    assert all(document.text for document in python_documents)


@pytest.mark.process
def test_the_standard_library_validates_with_what_it_does_not_train_on(python_documents):
    """Of no document stands more than a tenth in training, counted by the passages themselves, of 50 characters.

    Each passage holds all of one of the pieces of 25 that a text is cut into, so few passages need be looked at.
    """
    texts = {split: [d.text for d in python_documents if d.split == split] for split in ("train", "validation")}
    characters = {split: sum(map(len, own)) for split, own in texts.items()}
    assert 0.035 < characters["validation"] / sum(characters.values()) < 0.05
    assert len(texts["validation"]) >= 36
    assert effective_number(np.array([len(text) for text in texts["validation"]])) > 12
    wanted = {text[place : place + 50] for text in texts["validation"] for place in range(len(text) - 49)}
    pieces = {text[place : place + 25] for text in texts["validation"] for place in range(len(text) - 24)}
    trained = set()
    for text in texts["train"]:
        known = [place for place in range(0, len(text), 25) if text[place : place + 25] in pieces]
        around = {start for place in known for start in range(max(0, place - 25), place + 1)}
        trained.update(wanted.intersection(text[place : place + 50] for place in around))
    for text in texts["validation"]:
        passages = [text[place : place + 50] for place in range(len(text) - 49)]
        assert sum(passage in trained for passage in passages) <= 0.1 * len(passages), text[:200]


@pytest.mark.parametrize("share", ["0", "-0.1", "0.9"])
@pytest.mark.parametrize("name", ["python", "files"])
def test_a_share_that_leaves_nothing_on_one_side_is_refused(tmp_path, name, share):
    inputs = ("--input", ".", "--name", "x") if name == "files" else ()
    complaint = refused("data/prepare.py", name, *inputs, f"--validation-share={share}", cwd=tmp_path)
    assert "must be above 0 and at most 0.5" in complaint


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="tinyshakespeare.txt is not at hand")
def test_shakespeare_by_characters_is_nanogpts_split(tmp_path):
    """65 symbols and its token counts, from nanoGPT's data/shakespeare_char/prepare.py."""
    recipe("shakespeare", "--input", SHAKESPEARE, "--tokenizer", "char", "--out", tmp_path / "d", cwd=tmp_path)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.tokenizer.vocab_size == 65
    assert (dataset.train.tokens, dataset.validation.tokens) == (1_003_854, 111_540)
    text = SHAKESPEARE.read_text(encoding="utf-8")
    assert dataset.tokenizer.decode(dataset.train.read(0, 1000).tolist()) == text[:1000]
    assert dataset.tokenizer.decode(dataset.validation.read(111_040, 500).tolist()) == text[-500:]


def test_another_text_is_not_taken_for_shakespeare(tmp_path):
    (tmp_path / "other.txt").write_text("not Shakespeare")
    complaint = refused("data/prepare.py", "shakespeare", "--input", "other.txt", cwd=tmp_path)
    assert "is not the usual tinyshakespeare" in complaint
    assert "No such file" in refused("data/prepare.py", "shakespeare", "--input", "none.txt", cwd=tmp_path)


def test_this_projects_own_source_is_a_corpus(tmp_path):
    output = recipe("files", "--input", ROOT, "--name", "own", "--tokenizer", "bytes", cwd=tmp_path)
    dataset = open_dataset(tmp_path / "data" / "own")
    assert f"skipped {ROOT.name}/.gitignore: hidden" in output
    text = dataset.tokenizer.decode(dataset.train.read(0, dataset.train.tokens).tolist())
    assert "class CausalSelfAttention(nn.Module)" in text


def test_mixed_files_and_json_lines(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.txt").write_text("A good text. " * 200)
    (folder / "empty.md").write_text("")
    (folder / "bad.txt").write_bytes(b"caf\xe9 " * 100)
    (folder / "picture.bin").write_bytes(bytes(range(256)))
    (folder / "lines.jsonl").write_text("\n".join(json.dumps({"body": f"Line {i} of text. " * 5}) for i in range(50)))
    without_field = recipe("files", "--input", folder, "--name", "m", "--tokenizer", "bytes", cwd=tmp_path)
    assert "lines.jsonl: JSON Lines: --field must name the field that holds the text" in without_field
    before = open_dataset(tmp_path / "data" / "m").train.tokens
    options = ("--field", "body", "--tokenizer", "bytes", "--replace")
    output = recipe("files", "--input", folder, "--name", "m", *options, cwd=tmp_path)
    for name, reason in [("empty.md", "empty"), ("bad.txt", "not UTF-8"), ("picture.bin", "binary")]:
        assert f"{name}: {reason}" in output
    assert open_dataset(tmp_path / "data" / "m").train.tokens > before + 3000


def test_the_settings_of_reading_are_used_and_recorded(tmp_path):
    """And what was lost or divided is said, with settings as flags."""
    (tmp_path / "a.txt").write_bytes("Ein Müller. ".encode("cp1252") * 100 + b"###" + b"Plain text. " * 100)
    (tmp_path / "b.txt").write_bytes("Ein Müller. ".encode() * 100 + b"\xff")
    settings = ("--encoding", "cp1252", "--separator", "###", "--tokenizer", "bytes")
    output = recipe("files", "--input", "*.txt", "--name", "m", *settings, cwd=tmp_path)
    assert "a.txt: 2 documents, divided at '###'; --separator none keeps it as one" in output
    assert "kept b.txt: 1 bad byte, which is no UTF-8: replaced by U+FFFD" in output
    noted = {entry["document"]: entry["note"] for entry in read_ledger(tmp_path / "data" / "m") if "note" in entry}
    assert noted == {"b.txt": "1 bad byte, which is no UTF-8: replaced by U+FFFD"}
    dataset = open_dataset(tmp_path / "data" / "m")
    splits = (dataset.train, dataset.validation)
    text = "".join(dataset.tokenizer.decode(split.read(0, split.tokens).tolist()) for split in splits)
    assert "###" not in text
    assert "Ein Müller. " in text
    assert "text. Plain" in text
    recorded = {"encoding": "cp1252", "separator": "###", "field": None, "bad_bytes": "replace", "html": "drop"}
    recorded |= {"max_unpacked": 100, "zstd_window": 27}
    assert {name: dataset.recipe[name] for name in recorded} == recorded
    others = ("--bad-bytes", "error", "--replace")
    complaint = refused("data/prepare.py", "files", "--input", "*.txt", "--name", "m", *others, cwd=tmp_path)
    assert "b.txt: 1 bad byte that is no UTF-8, the first at byte 1300; give --bad-bytes replace or skip" in complaint


def test_too_small_a_text_is_refused_with_the_size_it_needs(tmp_path):
    (tmp_path / "small.txt").write_text("Too short.")
    options = ("--input", "small.txt", "--name", "s", "--tokenizer", "bytes")
    complaint = refused("data/prepare.py", "files", *options, cwd=tmp_path)
    assert "the smallest window needs 17" in complaint
    assert not (tmp_path / "data" / "s").exists()
    wanted = int(re.search(r"give about ([\d,]+) characters in all, which are 10 now", complaint)[1].replace(",", ""))
    (tmp_path / "small.txt").write_text(" ".join(map(str, range(1000, 1000 + wanted // 4))))
    recipe("files", *options, cwd=tmp_path)


def test_what_validates_by_itself_and_is_too_small_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("Long enough. " * 50)
    (tmp_path / "held.txt").write_text("Too short.")
    options = ("--input", "a.txt", "--validation", "held.txt", "--name", "s", "--tokenizer", "bytes")
    complaint = refused("data/prepare.py", "files", *options, cwd=tmp_path)
    assert "the validation split has 11 tokens (10 characters), and the smallest window needs 17" in complaint
    assert "give more text by --validation. Nothing was written" in complaint
    complaint = refused("data/prepare.py", "files", *options, "--validation-share", "0.2", cwd=tmp_path)
    assert "--validation-share has no effect beside --validation, all of which validates: give one" in complaint


def test_another_dataset_takes_the_place_of_one_only_if_it_is_asked_for(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"A good text of {name}. " * 200)
    options = ("--name", "mine", "--tokenizer", "bytes")
    recipe("files", "--input", "a.txt", *options, cwd=tmp_path)
    first = open_dataset(tmp_path / "data" / "mine").fingerprint
    for dry in ((), ("--dry-run",)):
        complaint = refused("data/prepare.py", "files", "--input", "b.txt", *options, *dry, cwd=tmp_path)
        assert "data/mine: was prepared otherwise: --input had a.txt too, which is not given now" in complaint
        assert "choose another --name, or replace it by --replace. Nothing was changed" in complaint
    complaint = refused("data/prepare.py", "files", "--input", "a.txt", *options, "--normalize", "nfc", cwd=tmp_path)
    assert "--normalize was none, and is nfc now" in complaint
    assert open_dataset(tmp_path / "data" / "mine").fingerprint == first
    recipe("files", "--input", "a.txt", "b.txt", *options, cwd=tmp_path)  # added text
    both = open_dataset(tmp_path / "data" / "mine")
    assert both.fingerprint != first
    complaint = refused("data/prepare.py", "python", "--out", "data/mine", cwd=tmp_path)
    assert "choose another place, or replace it by --replace" in complaint
    recipe("files", "--input", "b.txt", *options, "--replace", cwd=tmp_path)
    assert open_dataset(tmp_path / "data" / "mine").recipe["input"] == ["b.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "none.txt", "--name", "x"), "--input none.txt: does not exist"),
        (("--input", ".", "--name", "x", "--tokenizer", "bpe"), "choose gpt2, bytes, char, bpe:VOCAB"),
        (("--input", ".", "--name", "x", "--tokenizer", "bpe:10"), "at least 257"),
        (("--input", ".", "--name", "x", "--out", "."), "exists and is no dataset"),
        (("--input", ".", "--name", "a.txt"), "data/a.txt: exists and is no dataset; choose another name"),
        (("--input", ".", "--name", "x", "--out", "a.txt/x"), "a.txt/x: cannot be written, since a.txt is a file"),
        (("--input", ".", "--name", "../up"), "--name ../up: is no plain name"),
        (("--input", ".", "--name", ".."), "--name ..: is no plain name"),
        (("--input", ".", "--name", ""), "--name : is no plain name"),
        (("--input", "a.txt", "--validation", "b.txt", "c.txt", "--name", "x"), "--validation b.txt: does not exist"),
        (("--input", ".", "--name", "/tmp/x"), "--name /tmp/x: is no plain name"),
        (("--input", "a.txt", "--name", "x", "--field", "text"), "--field text: there is no JSON Lines file"),
    ],
)
def test_bad_options_are_refused(tmp_path, arguments, message):
    (tmp_path / "a.txt").write_text("some text " * 100)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("")
    assert message in refused("data/prepare.py", "files", *arguments, cwd=tmp_path)


def test_the_door_ends_with_the_next_command(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("A good text. " * 200)
    (tmp_path / "notes" / "paper.pdf").write_bytes(b"%PDF-1.7")
    output = recipe("files", "--input", "notes", "--name", "mine", cwd=tmp_path)
    assert "skipped notes/paper.pdf: a PDF: convert it to text first" in output
    assert "read 1 of 2 files: 2,600 characters" in output
    assert output.rstrip().endswith("next: python train.py --data data/mine")


def test_with_the_tokenizer_of_a_run_the_next_command_tunes_that_run(trained_run, tmp_path):
    (tmp_path / "a.txt").write_text("A good text. " * 200)
    output = recipe("files", "--input", "a.txt", "--name", "mine", "--tokenizer", trained_run, cwd=tmp_path)
    assert output.rstrip().endswith(f"next: python train.py finetune --init-from {trained_run} --data data/mine")
    output = recipe("files", "--input", "a.txt", "--name", "two", "--tokenizer", "data/mine", cwd=tmp_path)
    assert output.rstrip().endswith("next: python train.py --data data/two")


@pytest.mark.process
def test_results_are_printed_and_the_rest_is_said(tmp_path):
    for name, words in {"a": range(400), "b": range(400), "c": range(1000, 1100)}.items():
        (tmp_path / f"{name}.txt").write_text(" ".join(map(str, words)))
    command = ("gpt/__main__.py", "prepare", "files", "--input", "a.txt", "b.txt", "c.txt", "--name", "mine")
    program = Script(*command, "--tokenizer", "bytes", cwd=tmp_path, errors=tmp_path / "errors.log")
    assert program.end() == 0
    report = json.loads((tmp_path / "data" / "mine" / "report.json").read_text())
    assert re.fullmatch(r"(data/mine: .*\n){7}", program.said())
    assert program.said().splitlines()[2:] == [
        "data/mine: tokenizer bytes, vocabulary 257",
        "data/mine: 1,988 bytes of text, 1.00 per token",
        "data/mine: 2 of 3 documents; left out: duplicate 1",
        "data/mine: longest b.txt, 1,489 bytes; largest a.txt 74.9%, c.txt 25.1%",
        f"data/mine: corpus fingerprint {report['corpus_fingerprint']}",
    ]
    assert (tmp_path / "errors.log").read_text().splitlines()[-1] == "next: gpt train --data data/mine"


def test_help_lists_the_corpora_and_their_options(tmp_path):
    overview = run_here("data/prepare.py", "--help", cwd=tmp_path)
    for name in RECIPES:
        assert f"• {name} " in overview
        options = run_here("data/prepare.py", name, "--help", cwd=tmp_path)
        assert "--tokenizer" in options
        assert "--out" in options


def test_the_fields_of_json_lines_are_named_where_the_one_asked_for_is_not_there(tmp_path):
    (tmp_path / "chat.jsonl").write_text(json.dumps({"text": "hello", "n": 1}) + "\n")
    options = ("--input", "chat.jsonl", "--name", "x", "--field", "txt")
    complaint = refused("data/prepare.py", "files", *options, cwd=tmp_path)
    assert "no line has a field 'txt'; its fields are: text, n" in complaint
    assert "skipped" not in complaint
    assert not (tmp_path / "data" / "x").exists()


def test_an_unknown_corpus_is_answered_with_the_nearest_one(tmp_path):
    assert "error: there is no corpus 'file'; did you mean 'files'?" in refused("data/prepare.py", "file", cwd=tmp_path)


def test_what_has_no_effect_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 100)
    options = ("--input", "a.jsonl", "--name", "x", "--tokenizer", "bytes", "--encoder", "gigatoken")
    complaint = refused("data/prepare.py", "instruct", *options, cwd=tmp_path)
    assert "--encoder is gigatoken; it must be auto or tiktoken for prompts and answers" in complaint


def test_nothing_to_read_is_refused(tmp_path):
    options = ("--name", "x", "--input")
    assert "--input: name at least one file or directory" in refused("data/prepare.py", "files", *options, cwd=tmp_path)


@pytest.fixture
def theirs(tmp_path, bpe):
    """A tokenizer in Hugging Face's files."""
    (tmp_path / "hf").mkdir()
    write_tokenizer(bpe, tmp_path / "hf", 64)
    (tmp_path / "hf" / OUR_TOKENIZER).unlink()
    (tmp_path / "a.txt").write_text("def good(text): return text\n" * 200)
    return tmp_path / "hf"


@pytest.mark.parametrize("name", ["hf", "hf/tokenizer.json", "~/hf"])
def test_the_tokenizer_of_a_hugging_face_directory_is_used(theirs, bpe, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe("files", "--input", "a.txt", "--name", "x", "--tokenizer", name, cwd=tmp_path)
    assert open_dataset(tmp_path / "data" / "x").tokenizer.fingerprint == bpe.fingerprint


def test_the_tokenizer_of_an_older_hugging_face_directory_is_used(theirs, bpe, tmp_path):
    model = json.loads((theirs / "tokenizer.json").read_text())["model"]
    vocabulary = model["vocab"] | {"<|endoftext|>": len(model["vocab"])}
    (theirs / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "\n".join(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    (theirs / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    (theirs / "tokenizer.json").unlink()
    assert chosen_tokenizer(str(theirs)).fingerprint == bpe.fingerprint


def test_an_exported_tokenizer_keeps_its_kind(theirs, tmp_path):
    characters = Tokenizer.char("def go(tx):run\n", end_of_text=True)
    write_tokenizer(characters, theirs, 64)
    assert chosen_tokenizer(str(theirs)).fingerprint == characters.fingerprint


def test_a_tokenizer_of_another_kind_is_refused_before_anything_is_read(theirs, tmp_path):
    content = json.loads((theirs / "tokenizer.json").read_text())
    (theirs / "tokenizer.json").write_text(json.dumps(content | {"normalizer": {"type": "NFC"}}))
    with pytest.raises(InputError, match="is not a byte-level BPE with GPT-2's pattern"):
        chosen_tokenizer(str(theirs))


def test_a_name_is_no_directory_though_one_is_called_like_it(theirs, tmp_path, monkeypatch):
    theirs.rename(tmp_path / "bytes")
    monkeypatch.chdir(tmp_path)
    assert chosen_tokenizer("bytes") == "bytes"
    assert chosen_tokenizer("bpe:300") == "bpe:300"


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("files", "a.txt"), "files --input a.txt --name a"),
        (("a.txt", "b c.md"), "files --input a.txt 'b c.md' --name a"),
        (("files", "--name", "x", "a.txt", "--field=text"), "files --input a.txt --name x --field=text"),
        (("files", "--name=x", "a.txt", "--input", "b.txt"), "files --input a.txt b.txt --name=x"),
        (("files", "--input=b.txt", "a.txt"), "files --input a.txt b.txt --name a"),
        (("files", "--replace", "a.txt", "--json"), "files --input a.txt --name a --replace --json"),
    ],
)
def test_files_without_their_option_are_answered_with_the_whole_command(tmp_path, arguments, advice):
    (tmp_path / "a.txt").write_text("some text " * 100)
    complaint = refused("data/prepare.py", *arguments, cwd=tmp_path)
    assert complaint == f"error: a.txt: files are given by --input: gpt prepare {advice}\n"


@pytest.mark.parametrize("place", [("--name", "python"), ("--name", "x", "--out", "data/python")])
def test_no_text_of_ones_own_takes_the_place_of_the_default_corpus(tmp_path, place):
    (tmp_path / "a.txt").write_text("some text " * 100)
    complaint = refused("data/prepare.py", "files", "--input", "a.txt", *place, cwd=tmp_path)
    assert "data/python: is the place of the standard library of Python, which training reads" in complaint
    assert not (tmp_path / "data").exists()


def test_a_recipe_does_not_replace_what_another_one_wrote(tmp_path):
    (tmp_path / "a.txt").write_text("some text " * 200)
    for _ in range(2):
        recipe("files", "--input", "a.txt", "--name", "mine", cwd=tmp_path)
    complaint = refused("data/prepare.py", "python", "--out", "data/mine", cwd=tmp_path)
    assert "data/mine: was written by the recipe 'files', and this is 'python'; choose another place" in complaint


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "distilgpt2", "openai-community/gpt2-xl", "gpt2@main"])
def test_the_family_of_gpt2_has_its_tokenizer(name):
    assert chosen_tokenizer(name) == "gpt2"


def test_a_tokenizer_that_is_not_there_is_answered_with_what_is(dataset, trained_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    trained_run.rename(tmp_path / "runs" / "mine")
    assert chosen_tokenizer("mine").fingerprint == chosen_tokenizer("runs/mine").fingerprint
    (tmp_path / "notes").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "tokenizer.json").write_text('{"format": "gpt-tokenizer", "version": 1}')
    for name, message in (
        ("runs", "`tokenizer` runs: is a directory without a tokenizer.json; did you mean runs/mine?"),
        ("notes", "`tokenizer` notes: is a directory without a tokenizer.json; give a run, a dataset, or"),
        ("runs/mnie", "`tokenizer` runs/mnie: is not there; choose gpt2, .*; did you mean runs/mine?"),
        ("elsewhere/x", "`tokenizer` elsewhere/x: is not there; choose gpt2, "),
        ("mine2", "choose gpt2, .*; did you mean runs/mine?"),
        ("damaged", r"damaged.tokenizer.json: is damaged .*; `tokenizer` also takes gpt2, bytes, char, bpe:4096, and"),
    ):
        with pytest.raises(InputError, match=message):
            chosen_tokenizer(name)
