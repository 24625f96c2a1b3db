"""The recipes in data/, as whole processes."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from helpers import refused, run_here

from gpt.dataset.dataset import open_dataset
from gpt.evaluation.statistics import effective_number

ROOT = Path(__file__).parents[2]
SHAKESPEARE = ROOT.parent / "shared" / "corpora" / "tinyshakespeare.txt"


def recipe(name, *arguments, **options):
    return run_here(f"data/{name}.py", *arguments, **options)


@pytest.fixture(scope="module")
def python_documents():
    recipe = runpy.run_path(str(ROOT / "data" / "python.py"))
    return recipe["documents"]()


def test_the_standard_library_is_the_default_corpus(tmp_path):
    output = recipe("python", cwd=tmp_path)
    dataset = open_dataset(tmp_path / "data" / "python")
    assert dataset.tokenizer.kind == "bpe"
    assert "train tokens" in output
    assert dataset.train.tokens > 1_000_000
    assert 0.01 < dataset.validation.tokens / dataset.train.tokens < 0.15
    text = dataset.tokenizer.decode(dataset.validation.read(0, 20_000).tolist())
    assert "def " in text
    assert "<|endoftext|>" in text


def test_the_standard_library_leaves_out_tests_packages_and_code_pages(python_documents):
    names = [document.name for document in python_documents]
    assert len(names) == len(set(names))
    assert {"argparse.py", "json/__init__.py", "pydoc_data/topics/while"} <= set(names)
    assert not [name for name in names if {"test", "tests", "site-packages", "encodings"} & set(name.split("/"))]
    assert all(document.text for document in python_documents)


def test_the_standard_library_validates_with_what_it_does_not_train_on(python_documents):
    """Of no document stands more than a tenth in training, counted by the passages themselves."""
    texts = {split: [d.text for d in python_documents if d.split == split] for split in ("train", "validation")}
    characters = {split: sum(map(len, own)) for split, own in texts.items()}
    assert 0.035 < characters["validation"] / sum(characters.values()) < 0.05
    assert len(texts["validation"]) >= 36
    assert effective_number(np.array([len(text) for text in texts["validation"]])) > 12
    wanted = {text[place : place + 50] for text in texts["validation"] for place in range(len(text) - 49)}
    trained = set()
    for text in texts["train"]:
        trained.update(wanted.intersection(text[place : place + 50] for place in range(len(text) - 49)))
    for text in texts["validation"]:
        passages = [text[place : place + 50] for place in range(len(text) - 49)]
        assert sum(passage in trained for passage in passages) <= 0.1 * len(passages), text[:200]


@pytest.mark.parametrize("share", ["0", "-0.1", "0.9"])
@pytest.mark.parametrize("name", ["python", "textfiles"])
def test_a_share_that_leaves_nothing_on_one_side_is_refused(tmp_path, name, share):
    inputs = ("--input", ".", "--name", "x") if name == "textfiles" else ()
    complaint = refused(f"data/{name}.py", *inputs, f"--validation-share={share}", cwd=tmp_path)
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
    complaint = refused("data/shakespeare.py", "--input", "other.txt", cwd=tmp_path)
    assert "is not the usual tinyshakespeare" in complaint
    assert "No such file" in refused("data/shakespeare.py", "--input", "none.txt", cwd=tmp_path)


def test_this_projects_own_source_is_a_corpus(tmp_path):
    output = recipe("textfiles", "--input", ROOT, "--name", "own", "--tokenizer", "bpe:512", cwd=tmp_path)
    dataset = open_dataset(tmp_path / "data" / "own")
    assert f"skipped {ROOT / '.git'}: hidden" in output or not (ROOT / ".git").is_dir()
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
    without_field = recipe("textfiles", "--input", folder, "--name", "m", "--tokenizer", "bytes", cwd=tmp_path)
    assert "lines.jsonl: JSON Lines: name the field that holds the text by --field" in without_field
    before = open_dataset(tmp_path / "data" / "m").train.tokens
    output = recipe(
        "textfiles", "--input", folder, "--name", "m", "--field", "body", "--tokenizer", "bytes", cwd=tmp_path
    )
    for name, reason in [("empty.md", "empty"), ("bad.txt", "not UTF-8"), ("picture.bin", "binary")]:
        assert f"{name}: {reason}" in output
    assert open_dataset(tmp_path / "data" / "m").train.tokens > before + 3000


def test_too_small_a_text_is_refused_with_the_size_it_needs(tmp_path):
    (tmp_path / "small.txt").write_text("Too short.")
    options = ("--input", "small.txt", "--name", "s", "--tokenizer", "bytes")
    assert "the smallest window needs 65" in refused("data/textfiles.py", *options, cwd=tmp_path)
    assert not (tmp_path / "data" / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "none.txt", "--name", "x"), "--input none.txt: does not exist"),
        (("--input", ".", "--name", "x", "--tokenizer", "bpe"), "choose gpt2, bytes, char, bpe:VOCAB"),
        (("--input", ".", "--name", "x", "--tokenizer", "bpe:10"), "at least 257"),
        (("--input", ".", "--name", "x", "--out", "."), "exists and is no dataset"),
    ],
)
def test_bad_options_are_refused(tmp_path, arguments, message):
    (tmp_path / "a.txt").write_text("some text " * 100)
    assert message in refused("data/textfiles.py", *arguments, cwd=tmp_path)
