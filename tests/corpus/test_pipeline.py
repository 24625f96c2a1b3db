import json

import pytest
from helpers import python_text

from gpt.corpus import pipeline as prepare_module
from gpt.corpus.pipeline import Document, prepare, require_plain, split_by_hash
from gpt.dataset.dataset import open_dataset
from gpt.errors import InputError


def documents(count=60):
    text = python_text()
    return [
        Document(f"{i}.py", text[i * 300 : i * 300 + 300], "validation" if i % 6 == 0 else "train")
        for i in range(count)
    ]


def silent(message):
    """Hears what `prepare` says."""


@pytest.mark.parametrize("name", ["bytes", "char", "bpe:400"])
def test_the_text_comes_back_from_the_shards(tmp_path, name):
    dataset = prepare(documents, name, tmp_path / "d", {"name": "test"})
    for split in (dataset.train, dataset.validation):
        expected = [document.text for document in documents() if document.split == split.name]
        text = dataset.tokenizer.decode(split.read(0, split.tokens).tolist())
        assert text == "<|endoftext|>".join(expected)
    assert dataset.recipe == {"name": "test"}


def test_preparing_twice_gives_the_same_dataset(tmp_path):
    one = prepare(documents, "bpe:400", tmp_path / "one", {})
    two = prepare(documents, "bpe:400", tmp_path / "two", {})
    assert one.fingerprint == two.fingerprint


def test_the_manifest_says_what_is_there(tmp_path):
    prepare(documents, "bytes", tmp_path / "d", {})
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    train, validation = manifest["shards"]
    assert (train["split"], validation["split"]) == ("train", "validation")
    assert (train["documents"], validation["documents"]) == (50, 10)
    assert train["text_bytes"] == sum(len(d.text.encode()) for d in documents() if d.split == "train")
    assert train["tokens"] == train["text_bytes"] + 49  # end-of-text between them
    assert manifest["vocab_size"] == 257


def test_a_document_that_repeats_another_is_left_out_and_named(tmp_path, said):
    twice = [*documents(), Document("copy.py", documents()[7].text, "train")]
    prepare(lambda: twice, "bytes", tmp_path / "d", {}, {"x.bin": "binary"})
    assert said == ["skipped x.bin: binary", "skipped copy.py: the same content as 7.py"]
    assert (tmp_path / "d" / "skipped.txt").read_text() == "x.bin: binary\ncopy.py: the same content as 7.py\n"
    single = prepare(documents, "bytes", tmp_path / "single", {})
    assert open_dataset(tmp_path / "d").train.tokens == single.train.tokens


def test_many_skipped_documents_are_counted_and_listed_in_a_file(tmp_path, said):
    prepare(documents, "bytes", tmp_path / "d", {}, {str(i): "empty" for i in range(100)})
    assert said[-1].startswith("skipped 100 in all")
    assert len(said) == 21
    assert len((tmp_path / "d" / "skipped.txt").read_text().splitlines()) == 100


def test_a_character_vocabulary_of_single_documents_has_no_end_of_text(tmp_path):
    two = [Document("a", "ab" * 100, "train"), Document("b", "abc" * 100, "validation")]
    assert prepare(lambda: two, "char", tmp_path / "d", {}).tokenizer.vocab_size == 3


def test_a_bpe_learns_from_all_over_a_text_larger_than_its_share(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "TRAINER_CHARACTERS", 20_000)
    monkeypatch.setattr(prepare_module, "PIECE_CHARACTERS", 1000)
    one = [Document("all", python_text(), "train"), Document("end", python_text()[:500] + "end", "validation")]
    dataset = prepare(lambda: one, "bpe:400", tmp_path / "d", {})
    assert dataset.tokenizer.vocab_size == 400
    share = 20_000 / len(python_text())
    pieces = list(prepare_module._pieces(one[0], share))
    assert 10 <= len(pieces) <= 30
    assert all(piece in python_text() for piece in pieces)


def test_the_tokenizer_of_another_dataset_or_run_is_used_as_it_is(tmp_path):
    first = prepare(documents, "bpe:400", tmp_path / "first", {})
    for name in (tmp_path / "first", tmp_path / "first" / "tokenizer.json"):
        second = prepare(lambda: documents()[:30], str(name), tmp_path / "second", {})
        assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    with pytest.raises(InputError, match="tokenizer.json: cannot be read"):
        prepare(documents, str(tmp_path), tmp_path / "third", {})


def test_a_vocabulary_that_comes_out_smaller_is_said(tmp_path, said):
    two = [Document("a", "ab" * 100, "train"), Document("b", "ab" * 90, "validation")]
    with pytest.raises(InputError, match="too|needs"):
        prepare(lambda: two, "bpe:4096", tmp_path / "d", {})
    assert "only, not 4,096" in said[0]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"train": "a" * 500, "validation": "b" * 30},
            r"the validation split has 30 tokens \(30 characters\).*needs 65",
        ),
        ({"train": "a" * 30, "validation": "b" * 500}, "the train split has 30 tokens"),
        ({"train": "a" * 500}, r"the validation split has 0 tokens \(0 characters\)"),
    ],
)
def test_too_small_a_corpus_is_refused_with_the_size_it_needs(tmp_path, texts, message):
    with pytest.raises(InputError, match=message):
        prepare(lambda: [Document(s, t, s) for s, t in texts.items()], "bytes", tmp_path / "d", {})
    assert list(tmp_path.iterdir()) == []


def test_no_text_at_all_is_refused(tmp_path):
    with pytest.raises(InputError, match="no text in the input"):
        prepare(list, "bytes", tmp_path / "d", {})


def test_a_dataset_is_replaced_and_nothing_else_is(tmp_path):
    first = prepare(documents, "bytes", tmp_path / "d", {})
    second = prepare(documents, "char", tmp_path / "d", {})
    assert first.fingerprint != second.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="exists and is no dataset"):
        prepare(documents, "bytes", tmp_path / "mine", {})
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_a_failure_midway_leaves_the_old_dataset(tmp_path):
    prepare(documents, "bytes", tmp_path / "d", {})
    before = open_dataset(tmp_path / "d").fingerprint
    calls = []

    def failing():
        calls.append(1)
        yield from documents()
        if len(calls) > 1:
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        prepare(failing, "bytes", tmp_path / "d", {})
    assert open_dataset(tmp_path / "d").fingerprint == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_an_unknown_tokenizer_is_refused_before_anything_is_read(tmp_path):
    def never():
        raise AssertionError("read")

    with pytest.raises(InputError, match="`tokenizer` gpt5"):
        prepare(never, "gpt5", tmp_path / "d", {})


def test_the_split_by_hash_has_its_share_and_never_changes():
    names = [f"dir/{i}.py" for i in range(10_000)]
    share = sum(split_by_hash(name, 0.1) == "validation" for name in names) / 10_000
    assert abs(share - 0.1) < 0.012  # four standard deviations
    # sha256sum gives io.py 4f…, in the lower half of all digests, and argparse.py c9… and os.py d9… in the upper.
    splits = [split_by_hash(name, 0.5) for name in ("io.py", "argparse.py", "os.py")]
    assert splits == ["validation", "train", "train"]


def test_the_replacement_of_another_dataset_is_said(tmp_path, said):
    """Runs were trained on it, perhaps; the same one again is no other."""
    for name in ("bytes", "bytes", "char"):
        prepare(documents, name, tmp_path / "d", {})
    assert [line for line in said if "replaces" in line] == [
        f"{tmp_path / 'd'}: replaces another dataset; runs that were trained on that one cannot go on with this one"
    ]


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ".", "/tmp/x"])
def test_a_name_leads_nowhere_else(name):
    with pytest.raises(InputError, match="is no plain name"):
        require_plain(name)
