"""`gpt tokenizer train|show|compare`."""

import json
import os
import shlex
import subprocess
import sys

import pytest
import tiktoken
import tokenizers
from helpers import ROOT, in_process, python_text
from tokenizers import models, pre_tokenizers, trainers

from gpt.__main__ import main
from gpt.corpus import vocabulary
from gpt.corpus.comparison import divided
from gpt.corpus.sample import CorpusSample
from gpt.corpus.sources import TextFiles
from gpt.dataset.dataset import open_dataset
from gpt.interop.huggingface_tokenizer import OUR_TOKENIZER, write_tokenizer
from gpt.log import Progress
from gpt.text.spelling import from_bytes
from gpt.text.tokenizer import GPT2_PATTERN, Tokenizer


def call(home, *arguments, code=0, stdin="", command="tokenizer"):
    """What `gpt tokenizer …` prints, and what it says beside."""
    actual, output, errors = in_process(lambda: main([command, *map(str, arguments)]), home, stdin)
    assert actual == code, output + errors
    return output, errors


def refused(home, *arguments, **options):
    output, errors = call(home, *arguments, code=2, **options)
    assert output == ""
    return errors


@pytest.fixture
def home(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.py").write_text(python_text()[:30_000])
    (tmp_path / "notes" / "b.md").write_text("It's a naïve café, 漢字 🙂.\n" * 40)
    (tmp_path / "lines.jsonl").write_text(
        "".join(json.dumps({"body": f"Line {i} of text."}) + "\n" for i in range(200))
    )
    return tmp_path


# ---- train ----


def test_what_is_trained_is_what_tokenizers_trains(home):
    output, errors = call(home, "train", "--input", "notes", "--vocab-size", "400", "--out", "tok")
    assert output == "tok/tokenizer.json: vocabulary 400, learned from 31,000 of 31,000 characters in 2 documents\n"
    assert errors.endswith("next: gpt prepare files --input notes --name tok --tokenizer tok/tokenizer.json\n")
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=399, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    theirs.train_from_iterator([(home / "notes" / name).read_text() for name in ("a.py", "b.md")], trainer)
    ours = Tokenizer.load(home / "tok" / "tokenizer.json")
    assert {from_bytes(token): rank for rank, token in enumerate(ours.ranks)} == theirs.get_vocab()
    text = python_text()[30_000:40_000] + "naïve 🙂"
    assert ours.encode(text) == theirs.encode(text).ids
    reference = tiktoken.Encoding(
        "reference",
        pat_str=GPT2_PATTERN,
        mergeable_ranks={token: rank for rank, token in enumerate(ours.ranks)},
        special_tokens={},
    )
    assert ours.encode(text) == reference.encode_ordinary(text)


def test_the_file_is_the_same_each_time_and_a_dataset_is_prepared_with_it(home, monkeypatch):
    call(home, "train", "--input", "notes", "--vocab-size", "400", "--out", "one")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    _, errors = call(home, "train", "--input", "notes", "--vocab-size", "400", "--out", "two.json")
    assert "will replace" not in errors
    content = (home / "one" / "tokenizer.json").read_bytes()
    assert (home / "two.json").read_bytes() == content
    _, errors = call(home, "train", "--input", "notes", "--vocab-size", "400", "--out", "one")
    assert "one/tokenizer.json: will replace the tokenizer there" in errors
    assert (home / "one" / "tokenizer.json").read_bytes() == content
    for number, name in enumerate(["two.json", "one", "one/tokenizer.json"]):
        call(home, "files", "--input", "notes", "--name", number, "--tokenizer", name, command="prepare")
        trained = Tokenizer.load(home / "two.json")
        assert open_dataset(home / "data" / str(number)).tokenizer.fingerprint == trained.fingerprint


@pytest.mark.process
def test_the_file_is_the_same_for_any_number_of_threads(home):
    (home / "notes" / "c.py").write_text(python_text())
    options = ("train", "--input", "notes", "--vocab-size", "900", "--out")
    call(home, *options, "here")
    command = [sys.executable, "-m", "gpt", "tokenizer", *options, "there"]
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    subprocess.run(command, cwd=home, env=environment, capture_output=True, check=True)
    assert (home / "here" / "tokenizer.json").read_bytes() == (home / "there" / "tokenizer.json").read_bytes()


def test_of_a_large_corpus_a_sample_is_learned_from(home, monkeypatch):
    monkeypatch.setattr("gpt.commands.tokenizer.TRAINER_CHARACTERS", 12_000)
    output, _ = call(home, "train", "--input", "notes", "--vocab-size", "300", "--out", "tok")
    assert "learned from 10,000 of 31,000 characters" in output


def test_the_field_of_json_lines_is_learned_from(home):
    options = ("--vocab-size", "300", "--out", "t.json")
    output, errors = call(home, "train", "--input", "lines.jsonl", "--field", "body", *options)
    assert "in 200 documents" in output
    assert "--input lines.jsonl --field body --name mine --tokenizer t.json" in errors
    assert b" of" in Tokenizer.load(home / "t.json").ranks
    assert "--field must name the field" in refused(home, "train", "--input", "lines.jsonl", *options)


def test_the_size_is_by_default_what_suits_the_text(home, monkeypatch):
    assert "take bytes (too few for words of their own), which need no training" in refused(
        home, "train", "--input", "notes", "--out", "tok"
    )
    monkeypatch.setattr(vocabulary, "VOCABULARIES", ((10_000, "bytes"), (10**9, "bpe:321")))
    output, errors = call(home, "train", "--input", "notes", "--out", "tok")
    assert "vocabulary 321, " in output
    assert "vocabulary: 321, for 27,900 characters to train on: a vocabulary that so much text fills" in errors


def test_a_vocabulary_that_comes_out_smaller_is_said(home):
    (home / "few.txt").write_text("ab" * 100)
    _, errors = call(home, "train", "--input", "few.txt", "--out", "t.json", "--vocab-size", "4096")
    assert "the text has pairs for a vocabulary of 26" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "tok", "--vocab-size", "256"), "--vocab-size 256: the vocabulary must be at least 257"),
        (("--out", "tok", "--vocab-size", "2000000"), "and at most 1,048,576"),
        (("--out", "notes/tok"), "--out notes/tok: lies in the input"),
        (("--out", "notes"), "--out notes: lies in the input"),
        (("--out", "lines.jsonl"), "lines.jsonl is a file; name a directory, or a file ending in .json"),
        (("--out", "lines.jsonl/t.json"), "lines.jsonl is a file"),
        (("--out", "other.json"), "other.json: exists and is no tokenizer of this program"),
        (("--out", "run"), "--out run: holds config.json"),
        (("--out", "data"), "--out data: holds manifest.json"),
        (("--out", "t", "--input", "none"), "--input none: does not exist"),
        (("--out", "t", "--input", "empty.txt"), "there is no text in the input"),
    ],
)
def test_what_cannot_be_trained_or_written_is_refused(home, arguments, message):
    (home / "other.json").write_text("{}")
    (home / "empty.txt").write_text("")
    for name, file in (("run", "config.json"), ("data", "manifest.json")):
        (home / name).mkdir()
        (home / name / file).write_text("{}")
        (home / name / "tokenizer.json").write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    arguments = (*arguments, *(() if "--input" in arguments else ("--input", "notes")))
    assert message in refused(
        home, "train", *arguments, *(() if "--vocab-size" in arguments else ("--vocab-size", 300))
    )
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


# ---- show ----


@pytest.mark.parametrize("source", ["argument", "file", "standard input"])
def test_a_text_is_shown_from_everywhere(home, source):
    (home / "t.txt").write_text("é!\n")
    arguments = {"argument": ["é!\n"], "file": ["--file", "t.txt"]}.get(source, [])
    output, errors = call(home, "show", *arguments, "--tokenizer", "bytes", stdin="é!\n")
    assert output == "195\tb'\\xc3'\t''\n169\tb'\\xa9'\t'é'\n33\tb'!'\t'!'\n10\tb'\\n'\t'\\n'\n"
    named = "t.txt" if source == "file" else "FILES"
    assert errors == f"4 tokens, 4 bytes, 1.00 bytes per token\nnext: gpt tokenizer compare --input {named}\n"
    output, _ = call(home, "show", *arguments, "--tokenizer", "bytes", "--json", stdin="é!\n")
    assert json.loads(output)["count"] == 4


def test_on_a_terminal_tokens_are_colored(home, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output, _ = call(home, "show", "ab", "--tokenizer", "bytes")
    assert output == "\x1b[30;102ma\x1b[0m\x1b[30;103mb\x1b[0m\n2 tokens, 2 bytes, 1.00 bytes per token\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert call(home, "show", "ab", "--tokenizer", "bytes")[0].startswith("97\tb'a'")


def test_every_tokenizer_that_is_at_hand_can_be_named(home, bpe, gpt2_tokenizer, trained_run):
    bpe.save(home / "mine.json")
    (home / "hf").mkdir()
    write_tokenizer(bpe, home / "hf", 64)
    (home / "hf" / OUR_TOKENIZER).unlink()
    for name in ("mine.json", "hf"):
        output, _ = call(home, "show", "return self", "--tokenizer", name)
        assert [int(line.split("\t")[0]) for line in output.splitlines()] == bpe.encode("return self")
    output, _ = call(home, "show", "return self", "--tokenizer", trained_run, "--json")
    run = Tokenizer.load(trained_run / "tokenizer.json")
    assert [token["id"] for token in json.loads(output)["tokens"]] == run.encode("return self")
    output, errors = call(home, "show", "return self")  # there is no run here
    assert output.startswith("7783\tb'return'\t'return'\n")
    assert errors.startswith("tokenizer: gpt2\n")


def test_the_newest_runs_tokenizer_is_the_default(home, trained_run):
    (home / "runs").mkdir()
    (home / "runs" / "mine").symlink_to(trained_run.resolve())
    assert call(home, "show", "x")[1].startswith("tokenizer: runs/mine\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "--tokenizer", "nope"), "--tokenizer nope: choose gpt2, bytes, char, bpe:VOCAB"),
        (("x", "--tokenizer", "cl1k"), "an encoding of tiktoken's (r50k_base, "),
        (("x", "--tokenizer", ""), "--tokenizer : choose gpt2"),
        (("x", "--tokenizer", "char"), "--tokenizer char: is made from a corpus; name a run"),
        (("x", "--tokenizer", "bpe:512"), "make one: gpt tokenizer train"),
        (("x", "--tokenizer", "bpe:5"), "at least 257"),
        (("x", "--tokenizer", "notes"), "--tokenizer notes: is a directory without a tokenizer.json"),
        (("x", "--file", "notes/b.md"), "TEXT and --file: give one of them"),
        (("--file", "none", "--tokenizer", "bytes"), "--file none: does not exist"),
        (("--file", "bad.txt", "--tokenizer", "bytes"), "bad.txt: not UTF-8: invalid continuation byte at byte 3; "),
        (("--file", "bad.txt", "--tokenizer", "bytes"), "give it by --encoding cp1252"),
        (("--file", "lines.jsonl", "--tokenizer", "bytes"), "--file lines.jsonl: --field must name the field"),
        (("x", "--bad-bytes", "skip", "--tokenizer", "bytes"), "--bad-bytes says how to read --file; give that"),
        (("", "--tokenizer", "bytes"), "the text is empty"),
        (("--tokenizer", "bytes"), "the text is empty"),
    ],
)
def test_what_cannot_be_shown_is_refused(home, arguments, message):
    (home / "bad.txt").write_bytes(b"caf\xe9 au lait")
    assert message in refused(home, "show", *arguments)


# ---- compare ----


def test_tokenizers_are_compared_on_text_that_was_held_out(home, gpt2_tokenizer):
    Tokenizer.train_bpe(["abab"], 300).save(home / "mine.json")
    names = ("gpt2", "bpe:300", "bytes", "--tokenizer", "char", "mine.json", "auto", "gpt2")
    output, errors = call(home, "compare", "--input", "notes", "--tokenizer", *names, "--json")
    found = json.loads(output)
    train, held_out = divided(CorpusSample(TextFiles([home / "notes"]), 10**9, Progress()))
    texts = [(home / "notes" / name).read_text() for name in ("a.py", "b.md")]
    assert all(sum(part in text for text in texts) == 1 for part in (*train, *held_out))
    assert sum(map(len, train)) + sum(map(len, held_out)) == sum(map(len, texts))
    assert 0.05 < sum(map(len, held_out)) / sum(map(len, texts)) < 0.2
    rows = {row["name"]: row for row in found["tokenizers"]}
    assert list(rows) == ["gpt2", "bpe:300", "bytes", "char", "mine.json"]  # auto is bytes
    size = sum(len(text.encode()) for text in held_out)
    assert (found["held_out_bytes"], found["documents"], found["characters"]) == (size, 2, 31_000)
    reference = tiktoken.get_encoding("gpt2")
    assert rows["gpt2"]["tokens"] == sum(len(reference.encode_ordinary(text)) for text in held_out)
    assert rows["bytes"]["tokens"] == size
    assert rows["char"]["tokens"] == sum(map(len, held_out))
    assert rows["bpe:300"]["bytes_per_token"] > 1.2
    assert all(row["mb_per_second"] > 0 and row["fault"] is None for row in rows.values())
    assert found["suitable"]["tokenizer"] == "bytes"
    assert found["suitable"]["characters"] == 27_900
    assert errors.endswith("next: gpt prepare files --input notes --name mine --tokenizer bytes\n")


def test_an_encoding_that_is_not_at_hand_is_named(home, monkeypatch):
    def fail(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    output, errors = call(home, "compare", "--input", "notes", "--tokenizer", "o200k_base", "bytes", "gpt2")
    lines = output.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["tokenizer", "o200k_base", "bytes", "gpt2"]
    assert lines[1].split()[1:] == ["-"] * 6
    assert lines[-1] == "for 27,900 characters to train on, bytes suits: too few for words of their own"
    assert "o200k_base is left out: tiktoken could not get the vocabulary o200k_base (ConnectionError)" in errors
    assert "gpt2 is left out: tiktoken could not get GPT-2's vocabulary" in errors
    assert "o200k_base: tiktoken could not get" in refused(
        home, "compare", "--input", "notes", "--tokenizer", "o200k_base"
    )


def test_without_names_the_usual_ones_are_compared(home, gpt2_tokenizer):
    output, _ = call(home, "compare", "--input", "notes")
    names = [line.split()[0] for line in output.splitlines()[1:7]]
    assert names == ["bytes", "bpe:512", "bpe:2048", "bpe:4096", "char", "gpt2"]


def test_the_next_command_stands_for_many_files(home):
    files = [f"{number}.txt" for number in range(5)]
    for number, name in enumerate(files):
        (home / name).write_text(f"{number} and more text. " * 50)
    _, errors = call(home, "compare", "--input", *files, "--tokenizer", "bytes")
    assert "next: gpt prepare files --input FILES --name mine" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tokenizer", "nope"), "--tokenizer nope: choose gpt2"),
        (("--tokenizer", "bytes", "bpe:7"), "bpe:7: the vocabulary must be at least 257"),
        (("--tokenizer", "notes"), "--tokenizer notes: is a directory without a tokenizer.json"),
        (("--input", "none"), "--input none: does not exist"),
        (("--input", "small.txt"), "give at least 1,000 characters"),
    ],
)
def test_what_cannot_be_compared_is_refused(home, arguments, message):
    (home / "small.txt").write_text("Too short.")
    arguments += () if "--input" in arguments else ("--input", "notes")
    assert message in refused(home, "compare", *arguments)


# ---- names of subcommands ----


def test_a_mistyped_subcommand_is_told(home):
    assert refused(home, "sho", "x") == "error: there is no gpt tokenizer 'sho'; did you mean 'show'?\n"


# ---- how files are read ----


@pytest.fixture
def odd(home):
    """Files that are read well by the right options alone."""
    (home / "latin.txt").write_bytes("".join(f"Ein Müller hörte es {i} mal. ###" for i in range(200)).encode("latin-1"))
    (home / "bad.txt").write_bytes("".join(f"Müller hörte es {i} mal. " for i in range(200)).encode() + b"\xff.")
    return home


READ_ALIKE = {
    "another encoding": ("latin.txt", "--separator", "###", "--encoding", "cp1252"),
    "a field": ("lines.jsonl", "--field", "body"),
    "bad bytes": ("bad.txt",),
}


@pytest.mark.parametrize("options", READ_ALIKE.values(), ids=READ_ALIKE)
def test_all_commands_read_a_text_as_prepare_does(odd, options):
    """What is shown is what prepare encodes, and as many documents and characters are learned from, and compared."""
    name, *rest = options
    output, _ = call(odd, "files", "--input", *options, "--name", "own", "--tokenizer", "bytes", command="prepare")
    dataset = open_dataset(odd / "data" / "own")
    report = json.loads((odd / "data" / "own" / "report.json").read_text())
    shown = json.loads(call(odd, "show", "--file", name, *rest, "--tokenizer", "bytes", "--json")[0])
    ends = dataset.tokenizer.end_of_text
    prepared = [i for split in (dataset.train, dataset.validation) for i in split.read(0, split.tokens) if i != ends]
    assert sorted(token["id"] for token in shown["tokens"]) == sorted(prepared)
    compared = json.loads(call(odd, "compare", "--input", *options, "--tokenizer", "bytes", "--json")[0])
    counts = compared["documents"], compared["characters"]
    assert counts == (report["documents"]["read"], report["characters"]["read"])
    output, errors = call(odd, "train", "--input", *options, "--vocab-size", "280", "--out", "tok")
    assert f"of {counts[1]:,} characters in {counts[0]:,} documents" in output
    assert f"next: gpt prepare files --input {shlex.join(options)} --name tok" in errors


def test_what_is_bad_is_treated_as_asked_for(odd):
    for arguments in (("show", "--file"), ("compare", "--input"), ("train", "--out", "tok", "--input")):
        tokenizer = () if arguments[0] == "train" else ("--tokenizer", "bytes")
        errors = refused(odd, *arguments, "bad.txt", "--bad-bytes", "error", *tokenizer)
        assert "bad.txt: 1 bad byte that is no UTF-8, the first at byte 5290; give --bad-bytes" in errors
    assert "kept bad.txt: 1 bad byte" in call(odd, "show", "--file", "bad.txt", "--tokenizer", "bytes")[1]


@pytest.mark.parametrize("name", ["train", "show", "compare"])
def test_each_has_help(home, name):
    assert call(home, name, "--help")[0].startswith(f"usage: gpt tokenizer {name} ")
    assert name in call(home, "--help")[0]
