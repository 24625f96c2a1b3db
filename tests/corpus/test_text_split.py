"""Texts as a split in memory, held against the tokenizer itself."""

import pytest

from gpt.corpus.sources import TextFiles, Texts
from gpt.corpus.text_split import text_split
from gpt.errors import InputError
from gpt.text.tokenizer import Tokenizer


def test_documents_are_encoded_and_ended_one_after_another(bpe):
    texts = {"a": "def f(x):\n", "b": "naïve 🌍", "c": "def f(x):\n"}
    split = text_split(Texts(texts), bpe)
    ids = [token for text in texts.values() for token in [*bpe.encode(text), bpe.end_of_text]]
    assert split.read(0, split.tokens).tolist() == ids
    assert [token for _, chunk in split.chunks() for token in chunk.tolist()] == ids
    assert [token for _, chunk in split.chunks(7) for token in chunk.tolist()] == ids[:7]
    assert split.read(2, 3).tolist() == ids[2:5]


def test_without_an_end_of_text_they_follow_each_other():
    split = text_split(Texts({"a": "ab", "b": "ba"}), Tokenizer.char("ab", end_of_text=False))
    assert split.read(0, split.tokens).tolist() == [0, 1, 1, 0]


def test_what_is_left_out_is_named_and_how_much_more_there_is(tmp_path, said):
    for number in range(23):
        (tmp_path / f"{number:02}.txt").write_text(" " if number else "text")
    split = text_split(TextFiles([tmp_path]), Tokenizer.utf8_bytes())
    assert split.tokens == 5
    assert next(line for line in said if line.endswith(": empty")) == f"skipped {tmp_path.name}/01.txt: empty"
    assert said[-1] == "skipped 2 more" and len(said) == 21


def test_a_character_that_is_lacking_is_told_with_its_document():
    with pytest.raises(InputError, match=r"^b: the text has 1 character\(s\) that this vocabulary of 1 .* lacks: 'ä'"):
        text_split(Texts({"a": "a", "b": "ä"}), Tokenizer.char("a", end_of_text=False))


@pytest.mark.parametrize("texts", [{}, {"a": "a"}])
def test_nothing_that_can_be_predicted_is_refused(texts):
    with pytest.raises(InputError, match="`text`: has fewer than 2 tokens"):
        text_split(Texts(texts), Tokenizer.char("a", end_of_text=False))
