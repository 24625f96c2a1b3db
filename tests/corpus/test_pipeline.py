import json
import os
import time

import pytest
from helpers import python_text, write_dataset

from gpt.corpus import pipeline, reading
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.documents import Document, Skipped
from gpt.corpus.ledger import read_ledger
from gpt.corpus.pipeline import prepare
from gpt.corpus.reading import Filters, drop_duplicates
from gpt.corpus.recipes.shakespeare import ByEnd
from gpt.corpus.sources import Texts
from gpt.corpus.stages import Stages
from gpt.dataset import dataset as dataset_module
from gpt.dataset.dataset import open_dataset
from gpt.errors import InputError
from gpt.interrupts import Interruptible
from gpt.log import Progress
from gpt.text.tokenizer import Tokenizer


def documents(count=60):
    text = python_text()
    return [("validation" if i % 6 == 0 else "train", text[i * 300 : i * 300 + 300]) for i in range(count)]


class WithSkipped(Texts):
    """Texts, and what was left out beside them."""

    def __init__(self, texts, skipped):
        super().__init__(texts)
        self.skipped = skipped

    def parts(self):
        return [*self.skipped, *super().parts()]


@pytest.mark.parametrize("name", ["bytes", "char", "bpe:400"])
def test_the_text_comes_back_from_the_shards(tmp_path, name):
    dataset = write_dataset(documents(), name, tmp_path / "d")
    for split in (dataset.train, dataset.validation):
        expected = [text for side, text in documents() if side == split.name]
        text = dataset.tokenizer.decode(split.read(0, split.tokens).tolist())
        assert text == "".join(f"{own}<|endoftext|>" for own in expected)


def test_the_recipe_is_recorded_and_auto_as_what_it_chose(tmp_path):
    source = Texts({"a": python_text()})
    recipe = {"name": "test", "tokenizer": "auto"}
    dataset = prepare(source, SplitByContent(0.1), "auto", tmp_path / "d", recipe)
    assert dataset.recipe == {"name": "test", "tokenizer": "bpe:512"}


def test_preparing_twice_gives_the_same_dataset(tmp_path):
    one = write_dataset(documents(), "bpe:400", tmp_path / "one")
    two = write_dataset(documents(), "bpe:400", tmp_path / "two")
    assert one.fingerprint == two.fingerprint


def test_the_manifest_says_what_is_there(tmp_path):
    write_dataset(documents(), "bytes", tmp_path / "d")
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    train, validation = manifest["shards"]
    assert (train["split"], validation["split"]) == ("train", "validation")
    assert (train["documents"], validation["documents"]) == (50, 10)
    assert train["text_bytes"] == sum(len(text.encode()) for split, text in documents() if split == "train")
    assert train["tokens"] == train["text_bytes"] + 50  # end-of-text after each
    assert manifest["vocab_size"] == 257


def test_what_was_just_written_is_not_read_again_and_later_it_is_checked(tmp_path, monkeypatch):
    scans = []
    scan = dataset_module.Shard.scan
    monkeypatch.setattr(dataset_module.Shard, "scan", lambda shard: scans.append(shard) or scan(shard))
    written = write_dataset(documents(), "bytes", tmp_path / "d")
    assert scans == []
    assert open_dataset(tmp_path / "d").fingerprint == written.fingerprint
    assert len(scans) == 2


@pytest.mark.parametrize(("least", "workers", "threads"), [(10_000, "3", {1}), (1 << 20, "1", {5})])
def test_whether_processes_are_worth_beginning_is_asked_again_once_the_text_is_known(
    tmp_path, monkeypatch, least, workers, threads
):
    """Of a pipe nobody knows before how much it brings, nor of what is packed."""

    class Pipes(Texts):
        def identity(self, part):
            return super().identity(part)._replace(bytes=0)

    monkeypatch.setattr(pipeline, "LEAST_FOR_WORKERS", least)
    monkeypatch.setattr(pipeline, "cores", lambda: 5)
    monkeypatch.setattr(reading, "MOST_DOCUMENTS", 2)
    source = Pipes({str(number): f"{number} words " * 999 for number in range(3)})
    with Stages(tmp_path, Progress(), "3") as stages:
        corpus = pipeline._read(source, stages, None, Filters(), Interruptible(tmp_path, ""))
        assert stages.workers == workers
        drop_duplicates(corpus, stages.own)
        assert len(corpus.slices) == 2
        tasks = pipeline._encoding_tasks(corpus, ByEnd(0.1), Tokenizer.utf8_bytes(), None)
        assert {task.arguments[-1] for task in tasks} == threads
        del corpus.slices[1:]  # one keeps all processors busy by itself
        (task,) = pipeline._encoding_tasks(corpus, ByEnd(0.1), Tokenizer.utf8_bytes(), None)
        assert task.arguments[-1] == 5


def test_a_document_that_repeats_another_is_left_out_and_named(tmp_path, said):
    texts = {f"{i}.py": text for i, (_, text) in enumerate(documents())}
    source = WithSkipped(texts | {"copy\n.py": texts["7.py"]}, [Skipped("x.bin", "binary")])
    dataset = prepare(source, SplitByContent(0.1), "bytes", tmp_path / "d", {})
    assert said[:3] == [
        "skipped x.bin: binary",
        "skipped copy\u240a.py: the same content as 7.py",
        f"read 61 of 61 files: {61 * 300:,} characters",
    ]
    left = [entry for entry in read_ledger(tmp_path / "d") if "reason" in entry]
    assert left == [
        {"document": "x.bin", "bytes": 0, "reason": "binary"},
        {"document": "copy\n.py", "bytes": 300, "reason": "the same content as 7.py"},
    ]
    single = prepare(Texts(texts), SplitByContent(0.1), "bytes", tmp_path / "single", {})
    assert dataset.train.tokens == single.train.tokens


def test_many_skipped_documents_are_counted_and_listed_in_a_file(tmp_path, said):
    source = WithSkipped({"a": python_text()}, [Skipped(str(i), "empty") for i in range(100)])
    prepare(source, SplitByContent(0.1), "bytes", tmp_path / "d", {})
    assert said[19:21] == ["skipped 19: empty", "skipped 80 more"]
    assert said[-1] == f"gpt data show {tmp_path / 'd'} --dropped names all that was left out"
    left = [entry["document"] for entry in read_ledger(tmp_path / "d") if "reason" in entry]
    assert left == [str(number) for number in range(100)]


def test_what_was_kept_with_bad_bytes_is_said_and_listed(tmp_path, said):
    class Damaged(Texts):
        def read(self, part):
            for document in super().read(part):
                yield Document(document.name, document.text, "" if part == "0" else "1 bad byte")

    texts = {str(number): text for number, (_, text) in enumerate(documents(30))}
    prepare(Damaged(texts), SplitByContent(0.1), "bytes", tmp_path / "d", {})
    assert said[0] == "kept 1: 1 bad byte"
    assert said[20] == "kept 9 more with bad bytes"
    assert said[-1].startswith(f"gpt data show {tmp_path / 'd'} --dropped names all")
    noted = [entry for entry in read_ledger(tmp_path / "d") if "note" in entry]
    assert len(noted) == 29
    assert noted[0]["note"] == "1 bad byte"


def test_no_text_at_all_is_refused_and_sends_nobody_to_a_file_that_is_not_there(tmp_path, said):
    source = WithSkipped({}, [Skipped(str(i), "empty") for i in range(50)])
    with pytest.raises(InputError, match="no text in the input: nothing was written"):
        prepare(source, SplitByContent(0.1), "bytes", tmp_path / "d", {})
    assert len(said) == 21
    assert not [line for line in said if "--dropped" in line]
    assert list(tmp_path.iterdir()) == []


def test_the_tokenizer_of_another_dataset_or_run_is_used_as_it_is(tmp_path):
    first = write_dataset(documents(), "bpe:400", tmp_path / "first")
    for name in (str(tmp_path / "first"), str(tmp_path / "first" / "tokenizer.json"), first.tokenizer):
        second = write_dataset(documents(30), name, tmp_path / "second")
        assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    with pytest.raises(InputError, match=r"tokenizer.json: cannot be read"):
        write_dataset(documents(), str(tmp_path), tmp_path / "third")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"train": "a" * 500, "validation": "b" * 15},
            r"the validation split has 16 tokens \(15 characters\).*needs 17",
        ),
        ({"train": "a" * 15, "validation": "b" * 500}, "the train split has 16 tokens"),
        ({"train": "a" * 500}, r"the validation split has 0 tokens \(0 characters\)"),
    ],
)
def test_too_small_a_corpus_is_refused_with_the_size_it_needs(tmp_path, texts, message):
    with pytest.raises(InputError, match=message):
        write_dataset(list(texts.items()), "bytes", tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_is_replaced_and_nothing_else_is(tmp_path):
    first = write_dataset(documents(), "bytes", tmp_path / "d")
    second = write_dataset(documents(), "char", tmp_path / "d")
    assert first.fingerprint != second.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="exists and is no dataset"):
        write_dataset(documents(), "bytes", tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_which_dataset_will_be_replaced_is_said_before_and_that_it_was_another_one_after(tmp_path, said):
    """Runs were trained on it, perhaps; the same one again is no other."""
    out = tmp_path / "d"
    tokens = write_dataset(documents(), "bytes", out).train.tokens
    moment = time.mktime((2026, 11, 5, 14, 3, 0, 0, 0, -1))
    os.utime(out / "manifest.json", (moment, moment))
    said.clear()
    for name in ("bytes", "char"):
        write_dataset(documents(), name, out)
    assert said[0] == f"{out}: will replace the dataset there: {tokens:,} train tokens, prepared 2026-11-05 14:03"
    assert said[1].startswith("read 60 of 60 files")
    assert [line for line in said if "replaces" in line] == [
        f"{out}: replaces another dataset; runs that were trained on that one cannot go on with this one"
    ]


def test_a_dataset_whose_manifest_is_damaged_is_replaced(tmp_path):
    write_dataset(documents(), "bytes", tmp_path / "d")
    (tmp_path / "d" / "manifest.json").write_text('{"version": 1, "shards": [{}]}')
    assert write_dataset(documents(), "bytes", tmp_path / "d").train.tokens == 50 * 300 + 50


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="file/x/y: cannot be written, since .*file is a file"):
        write_dataset(documents(), "bytes", tmp_path / "file" / "x" / "y")


def test_a_failure_midway_leaves_the_old_dataset(tmp_path):
    before = write_dataset(documents(), "bytes", tmp_path / "d").fingerprint

    class Failing(Texts):
        def read(self, part):
            yield from super().read(part)
            if part == "7":
                raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        prepare(Failing({str(i): str(i) for i in range(60)}), SplitByContent(0.1), "bytes", tmp_path / "d", {})
    assert open_dataset(tmp_path / "d").fingerprint == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_an_unknown_tokenizer_is_refused_before_anything_is_read(tmp_path):
    class Never(Texts):
        def parts(self):
            raise AssertionError("read")

    with pytest.raises(InputError, match="`tokenizer` gpt5"):
        prepare(Never({}), SplitByContent(0.1), "gpt5", tmp_path / "d", {})


def test_a_tokenizer_that_is_given_is_used(tmp_path):
    given = Tokenizer.utf8_bytes()
    assert write_dataset(documents(), given, tmp_path / "d").tokenizer.fingerprint == given.fingerprint


def test_a_dataset_of_another_recipe_is_not_replaced(tmp_path):
    source, split = Texts({"a": python_text()}), SplitByContent(0.1)
    for _ in range(2):
        before = prepare(source, split, "bytes", tmp_path / "d", {"name": "one"})
    with pytest.raises(InputError, match="d: was written by the recipe 'one', and this is 'two'; choose another"):
        prepare(source, split, "bytes", tmp_path / "d", {"name": "two"})
    assert open_dataset(tmp_path / "d").fingerprint == before.fingerprint
