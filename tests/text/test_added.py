"""Special tokens that are added to a vocabulary."""

import pytest

from gpt import InputError, Tokenizer
from gpt.text.added import Marked, extends, in_parts, with_added

TOKENS = ("<|a|>", "<|b|>")


@pytest.mark.parametrize("kind", ["gpt2_tokenizer", "bpe"])
def test_they_come_behind_end_of_text_and_out_of_no_text(kind, request, tmp_path):
    plain = request.getfixturevalue(kind)
    tokenizer = with_added(plain, [*TOKENS, "<|a|>"])
    tokenizer.save(tmp_path / "t.json")
    for each in (tokenizer, Tokenizer.load(tmp_path / "t.json")):
        assert each.vocab_size == plain.vocab_size + 2
        assert each.special_tokens == {"<|endoftext|>": plain.end_of_text} | dict(
            zip(TOKENS, range(plain.vocab_size, each.vocab_size), strict=True)
        )
        text = "x<|a|>y<|b|><|endoftext|>"
        assert each.encode(text) == plain.encode(text) == each.encode_batch([text], 1)[0].tolist()
        ids = Marked(text, ((1, 6),)).ids(each)
        assert ids == [*plain.encode("x"), plain.vocab_size, *plain.encode("y<|b|><|endoftext|>")]
        assert each.decode(ids) == text
        assert "".join(each.stream_decode(ids)) == text
        assert each.byte_lengths()[-3:].tolist() == [0, 0, 0]
        assert each.fingerprint == tokenizer.fingerprint != plain.fingerprint
        with pytest.raises(InputError, match="outside this vocabulary"):
            each.token_bytes(each.vocab_size)


def test_a_tokenizer_extends_what_it_was_made_of(bpe):
    once, twice = with_added(bpe, TOKENS[:1]), with_added(bpe, TOKENS)
    assert with_added(once, TOKENS[1:]).fingerprint == twice.fingerprint
    assert with_added(twice, TOKENS) is twice
    assert extends(twice, once) and extends(once, bpe) and extends(bpe, bpe)
    assert not extends(once, twice)
    assert not extends(with_added(bpe, TOKENS[1:]), once)
    assert not extends(twice, Tokenizer.utf8_bytes())


def test_without_end_of_text_there_is_no_place_for_them():
    with pytest.raises(InputError, match="no end-of-text here, behind which <|a|> would come"):
        with_added(Tokenizer.char("ab", end_of_text=False), TOKENS[:1])


def test_a_mark_of_another_vocabulary_is_refused(bpe):
    with pytest.raises(InputError, match=r"no special token <\|a\|>; its own are: <\|endoftext\|>"):
        Marked("<|a|>", ((0, 5),)).ids(bpe)


def test_parts_are_without_gaps():
    assert [*in_parts(6, ((0, 2), (3, 7)))] == [(0, 2, True), (2, 3, False), (3, 6, True)]
    assert [*in_parts(0, ())] == []
