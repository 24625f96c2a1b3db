"""Which document is where, and where a text stands, beside a split that is decoded whole."""

import numpy as np
import pytest

from gpt import InputError
from gpt.dataset import documents as documents_module
from gpt.dataset import shards as shards_module
from gpt.dataset.documents import Documents
from gpt.dataset.shards import Shard, Split, write_shard
from gpt.text.tokenizer import Tokenizer

TEXTS = ["ab\nabc", "", "c\nnaïve 🌍 naïve\n", "abab", "a", "x" * 40 + "\n" + "y" * 300 + "needle" + "z" * 300]


@pytest.fixture(params=[1, 2, 7, 1 << 20])
def chunk(request, monkeypatch):
    """How many ids are looked at at once."""
    for module in (documents_module, shards_module):
        monkeypatch.setattr(module, "CHUNK_TOKENS", request.param)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train_bpe(["naïve ab abc 🌍 needle abab"] * 5, 290)


def split_of(tokenizer, texts, tmp_path, shard_tokens=11, before=False, after=False):
    """The texts as a split: end-of-text between them, and if asked before the first and after the last."""
    end, ids = tokenizer.end_of_text, []
    for number, text in enumerate(texts):
        ids += ([end] if number or before else []) + tokenizer.encode(text)
    ids += [end] if after else []
    parts = [np.array(ids[i : i + shard_tokens], dtype="<u2") for i in range(0, len(ids), shard_tokens)]
    for number, part in enumerate(parts):
        write_shard(tmp_path / f"{number}.bin", [part])
    return Split("train", [Shard(tmp_path / f"{number}.bin") for number in range(len(parts))])


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_documents_are_what_was_written(tokenizer, tmp_path, chunk, before, after):
    documents = Documents(split_of(tokenizer, TEXTS, tmp_path, before=before, after=after), tokenizer)
    assert documents.count() == len(TEXTS)
    assert ["".join(documents.text(documents.span(number))) for number in range(len(TEXTS))] == TEXTS
    for number in (-1, len(TEXTS), 1000):
        with pytest.raises(InputError, match=f"`document` {number}: the train split has 6 documents, .* 0 to 5"):
            documents.span(number)
    spans = [documents.span(number) for number in range(len(TEXTS))]
    places = np.array([place for span in reversed(spans) for place in span])
    wanted = [number for number, span in reversed([*enumerate(spans)]) for _ in span]
    assert documents.numbers(places).tolist() == wanted
    assert documents.numbers(np.empty(0, dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("wanted", ["ab", "a", "naïve", "🌍", "\n", "needle", "c\nn", "no such", "abab", "🌍 naïve\n"])
def test_a_text_is_found_where_it_stands(tokenizer, tmp_path, chunk, before, wanted):
    split = split_of(tokenizer, TEXTS, tmp_path, before=before)
    found = [*Documents(split, tokenizer).find(wanted)]
    expected = []
    for number, text in enumerate(TEXTS):
        place = text.find(wanted)
        while place >= 0:
            expected.append((number, text.count("\n", 0, place) + 1, len(text[:place].encode())))
            place = text.find(wanted, place + len(wanted))
    assert [(match.document, match.line, match.byte) for match in found] == expected
    for match in found:
        assert wanted[:1].encode() in tokenizer.token_bytes(int(split.read(match.token, 1)[0])) or len(wanted) == 1
        assert "<|endoftext|>" not in match.excerpt and len(match.excerpt) <= 2 * 60 + len(wanted)


def test_nothing_is_found_across_the_end_of_a_document(tmp_path, chunk):
    tokenizer = Tokenizer.utf8_bytes()
    documents = Documents(split_of(tokenizer, ["one", "two", "<|endoftext|>"], tmp_path), tokenizer)
    assert [*documents.find("onetwo")] == [*documents.find("one<")] == []
    assert [match.document for match in documents.find("<|endoftext|>")] == [2]  # as text
    for text in ("", "\udcff"):
        with pytest.raises(InputError, match="`text`"):
            next(documents.find(text))


def test_a_vocabulary_without_an_end_has_one_document(tmp_path, chunk):
    tokenizer = Tokenizer.char("abcd\n", end_of_text=False)
    write_shard(tmp_path / "0.bin", [np.array(tokenizer.encode("abc\nabd"), dtype="<u2")])
    documents = Documents(Split("train", [Shard(tmp_path / "0.bin")]), tokenizer)
    assert (documents.count(), documents.span(0)) == (1, range(7))
    assert [(match.document, match.line, match.byte) for match in documents.find("ab")] == [(0, 1, 0), (0, 2, 4)]
    with pytest.raises(InputError, match="1 documents"):
        documents.span(1)


@pytest.mark.parametrize("ids", [[], [256], [256, 256]])
def test_splits_of_next_to_nothing(tmp_path, ids):
    if ids:
        write_shard(tmp_path / "0.bin", [np.array(ids, dtype="<u2")])
    documents = Documents(Split("train", [Shard(tmp_path / "0.bin")] if ids else []), Tokenizer.utf8_bytes())
    assert documents.count() == max(0, len(ids) - 1)  # two ends have an empty document between them
    assert [*documents.find("a")] == []
    with pytest.raises(InputError, match="`document` 5"):
        documents.span(5)


def test_numbers_agree_with_the_manifest(dataset):
    for split in (dataset.train, dataset.validation):
        infos = [info for info in dataset.shards if info.split == split.name]
        assert Documents(split, dataset.tokenizer).count() == sum(info.documents for info in infos)


@pytest.mark.parametrize("before", [False, True])
def test_the_line_of_a_place_counts_from_the_beginning_of_its_document(tokenizer, tmp_path, chunk, before):
    texts = [*TEXTS[:-1], "x\n" + "y" * 20 + "\nz"]  # as each place is gone back from
    split = split_of(tokenizer, texts, tmp_path, before=before)
    documents = Documents(split, tokenizer)
    for number in range(len(texts)):
        span = documents.span(number)
        newlines = [tokenizer.token_bytes(id).count(b"\n") for id in split.read(span.start, len(span)).tolist()]
        assert [documents.line(place) for place in span] == [1 + sum(newlines[:i]) for i in range(len(span))]
