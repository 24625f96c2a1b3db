import pytest
from helpers import python_text

from gpt.corpus import vocabulary
from gpt.corpus.split import Piece
from gpt.corpus.vocabulary import SplitSizes, make_tokenizer, parse_tokenizer, sampled, suitable_tokenizer
from gpt.errors import InputError


@pytest.mark.parametrize(
    ("name", "parsed"), [("gpt2", ("gpt2", None)), ("bytes", ("bytes", None)), ("bpe:512", ("bpe", 512))]
)
def test_names_are_parsed(name, parsed):
    assert parse_tokenizer(name) == parsed


def test_a_path_names_a_saved_tokenizer(tmp_path):
    assert parse_tokenizer(str(tmp_path)) == ("file", None)


@pytest.mark.parametrize("name", ["bpe", "bpe:", "bpe:x", "bpe:" + "9" * 5000, "bpe:²", "gpt3", "char:5", ""])
def test_unknown_names_are_refused(name):
    with pytest.raises(InputError, match="choose gpt2, bytes, char, bpe:VOCAB"):
        parse_tokenizer(name)


def made(name, *pieces):
    pieces = [Piece(str(number), split, text) for number, (split, text) in enumerate(pieces)]
    return make_tokenizer(name, lambda: pieces, SplitSizes.of(pieces))


def test_a_character_vocabulary_of_single_documents_has_no_end_of_text():
    one, other = ("train", "ab"), ("validation", "abc")
    assert made("char", one, other).vocab_size == 3
    assert made("char", one, one, other).vocab_size == 4


def test_a_bpe_learns_from_what_trains_and_not_from_what_validates():
    train, other = ("train", "abab" * 50), ("validation", "cdcd" * 50)
    learned = made("bpe:300", train, other).ranks[256:]
    assert b"ab" in learned
    assert b"cd" not in learned


def test_a_bpe_learns_from_all_over_a_text_larger_than_its_share(monkeypatch):
    monkeypatch.setattr(vocabulary, "TRAINER_CHARACTERS", 20_000)
    monkeypatch.setattr(vocabulary, "SAMPLE_CHARACTERS", 1000)
    text = python_text()
    assert made("bpe:400", ("train", text)).vocab_size == 400
    pieces = list(sampled(Piece("all", "train", text), 20_000 / len(text)))
    assert 10 <= len(pieces) <= 30
    assert all(piece in text for piece in pieces)


def test_a_vocabulary_that_comes_out_smaller_is_said(said):
    assert made("bpe:4096", ("train", "ab" * 100)).vocab_size < 4096
    assert "only, not 4,096" in said[0]


def test_the_vocabulary_grows_with_the_text(said):
    names = [suitable_tokenizer(characters) for characters in (99_999, 100_000, 5_000_000, 10**9)]
    assert names == ["bytes", "bpe:512", "bpe:2048", "bpe:4096"]
    assert "for 99,999 characters: too few for words of their own" in said[0]
