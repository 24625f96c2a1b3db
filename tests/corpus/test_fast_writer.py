"""Who encodes a corpus: the same files come out, and where gigatoken differs, tiktoken does all of it."""

import hashlib
import json
import random

import pytest
from helpers import run_here

from gpt.corpus import fast_writer, pipeline, slices
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import TextFiles
from gpt.dataset.dataset import open_dataset
from gpt.errors import InputError
from gpt.text.fast import Disagreement, FastEncoder

pytest.importorskip("gigatoken", reason="the extra `fast` is not installed")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "LEAST_BYTES", 1 << 14)
    rng, folder = random.Random(0), tmp_path / "notes"
    folder.mkdir()
    for number in range(40):
        text = " ".join(f"word{rng.randrange(5000)}" for _ in range(rng.randrange(40, 300)))
        (folder / f"{number:02}.txt").write_text(text)
    return folder


@pytest.fixture
def uses(monkeypatch):
    """How many batches gigatoken encoded."""
    fast_writer._encoder.cache_clear()
    count, encode = [], FastEncoder.encode_batch

    def encode_batch(self, texts):
        count.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(FastEncoder, "encode_batch", encode_batch)
    return count


def written(folder, out, encoder, tokenizer="bpe:300"):
    prepare(TextFiles([folder]), SplitByContent(), tokenizer, out, {"name": "files"}, encoder=encoder)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


def test_the_same_files_come_out(folder, tmp_path, uses):
    by_tiktoken = written(folder, tmp_path / "t", "tiktoken")
    assert not uses
    assert written(folder, tmp_path / "g", "gigatoken") == by_tiktoken
    assert len(uses) >= 5


def test_auto_takes_gigatoken_where_it_is_there_and_saves_time(folder, tmp_path, uses, monkeypatch):
    wanted = written(folder, tmp_path / "small", "auto")
    assert not uses
    monkeypatch.setattr(pipeline, "LEAST_FOR_FAST", 0)
    assert written(folder, tmp_path / "large", "auto") == wanted
    assert uses
    uses.clear()
    written(folder, tmp_path / "characters", "auto", "char")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert written(folder, tmp_path / "absent", "auto") == wanted
    assert not uses


def test_where_one_slice_differs_tiktoken_encodes_all_and_that_is_said(folder, tmp_path, uses, monkeypatch, said):
    wanted = written(folder, tmp_path / "t", "tiktoken")
    encode = FastEncoder.encode_batch

    def encode_batch(self, texts):
        if len(uses) == 3:
            raise Disagreement("gigatoken gives other ids than tiktoken for 'word'")
        return [ids[::-1] for ids in encode(self, texts)]  # which nobody finds

    monkeypatch.setattr(FastEncoder, "encode_batch", encode_batch)
    found = written(folder, tmp_path / "g", "gigatoken")
    assert {name for name in wanted if found[name] != wanted[name]} == {"report.json"}
    report = json.loads((tmp_path / "g" / "report.json").read_text())
    assert report["gigatoken_differs"].endswith(".txt: gigatoken gives other ids than tiktoken for 'word'")
    warning = f"{report['gigatoken_differs']}; so tiktoken encodes all of the corpus, which takes longer"
    assert warning in said


def test_an_encoder_that_is_none_or_not_there_is_refused_before_anything_is_read(folder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="`encoder` is gigatokn; it must be auto, tiktoken, gigatoken"):
        written(folder, tmp_path / "d", "gigatokn")
    with pytest.raises(InputError, match="encodes no vocabulary of characters"):
        written(folder, tmp_path / "d", "gigatoken", "char")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'gpt\[fast\]'"):
        written(folder, tmp_path / "d", "gigatoken")
    assert not (tmp_path / "d").exists()


def test_the_command_takes_it_and_does_not_record_it(folder, tmp_path, uses):
    run_here(
        "data/prepare.py", "files", "--input", "notes", "--name", "n", "--encoder", "gigatoken", "--tokenizer", "bytes",
        cwd=tmp_path,
    )  # fmt: skip
    assert uses
    assert "encoder" not in open_dataset(tmp_path / "data" / "n").recipe
