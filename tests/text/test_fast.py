"""Encoding by gigatoken: the ids of tiktoken, on hostile texts, too; and what is done where they differ."""

import random

import numpy as np
import pytest
import tiktoken

from gpt.errors import InputError
from gpt.text import fast
from gpt.text.fast import Disagreement, FastEncoder
from gpt.text.tokenizer import LONGEST_RUN, Tokenizer, parts_of

pytest.importorskip("gigatoken", reason="the extra `fast` is not installed")

PIECES = ["a", "word", " the", "^", " ", "\n", "\r\n", "\t", " \n ", "'s", "'ll", "'LL", "''", "’s", "1", "²", "٣"]
PIECES += ["é", "e\u0301", "\u0301", "日本", "한", "กำ", "🙂", "👍🏽", "\u200d", "\0", "\x7f", "\x85", "\xa0", "\u2028"]
PIECES += ["\u3000", "\ufeff", "\ufffd", "\ue000", "\U0010ffff", "\u0378", "ſ", "İ", "ǅ", "Ⅷ", "_", "\ud800"]
PIECES += ["<|endoftext|>", "\ud83d\ude00"]


@pytest.fixture(scope="module")
def learned():
    return Tokenizer.train_bpe(["It is the time that was lost; 日本語の文章 and 's 's.\n    \n" * 9, "aaaa" * 40], 400)


def texts():
    rng = random.Random(0)
    yield from ("", " ", "\n", "<|endoftext|>", "a<|endoftext|>b", "x" * LONGEST_RUN + " y")
    for piece in PIECES:
        yield from (piece * count for count in (1, 2, 15, 16, 17, 64, 500))
    for _ in range(400):
        yield "".join(rng.choice(PIECES) * rng.choice((1, 1, 2, 8)) for _ in range(rng.randint(1, 60)))
    for _ in range(400):
        yield " ".join(chr(rng.choice((rng.randrange(0x3000), rng.randrange(0xE000, 0x110000)))) for _ in range(50))


def test_it_gives_the_ids_of_tiktoken(gpt2_tokenizer, learned, monkeypatch):
    monkeypatch.setattr(fast, "MOST_WITHOUT_SPACE", 1 << 20)
    monkeypatch.setattr(fast, "PROVEN", 1)
    for tokenizer in (gpt2_tokenizer, learned, Tokenizer.utf8_bytes()):
        many = list(texts())
        found = FastEncoder(tokenizer).encode_batch(many)
        assert [ids.tolist() for ids in found] == [tokenizer.encode(text) for text in many]


def test_gpt2s_ids_are_those_of_tiktokens_own_encoding(gpt2_tokenizer):
    reference = tiktoken.get_encoding("gpt2")
    many = ["It's <|endoftext|> 3 o'clock.\n\n", "naïve 日本語 text", " " * 40_000 + "x"]
    for text, ids in zip(many, FastEncoder(gpt2_tokenizer).encode_batch(many), strict=True):
        assert ids.tolist() == [id for part in parts_of(text) for id in reference.encode_ordinary(part)]


class Wrong:
    """A gigatoken that goes wrong for texts with a word in them."""

    def __init__(self, backend, fault):
        self.backend, self.fault, self.seen = backend, fault, []

    def encode(self, content):
        self.seen.append(content)
        ids = self.backend.encode(content)
        return self.fault(ids) if b"wrong" in content else ids


class PanicException(BaseException):
    """As pyo3 has it."""


def panic(ids):
    raise PanicException("index out of bounds")


def fail(ids):
    raise ValueError("no such thing")


@pytest.fixture
def broken(monkeypatch):
    """Make an encoder of bytes that goes wrong by a function of ids."""
    load = fast._loaded

    def make(fault, tokenizer=None):
        monkeypatch.setattr(fast, "_loaded", lambda tokenizer: Wrong(load(tokenizer), fault))
        return FastEncoder(tokenizer or Tokenizer.utf8_bytes())

    return make


def test_other_ids_in_the_beginning_of_a_batch_are_found_and_named(broken):
    encoder = broken(lambda ids: np.append(ids[:-1], 7))
    assert len(encoder.encode_batch(["right", "as it is"])) == 2
    with pytest.raises(Disagreement, match=r"other ids than tiktoken for 'g'"):
        encoder.encode_batch(["right", "it is wrong"])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            lambda ids: ids[:-1],
            r"gives ids for 41 bytes of the 42 of texts from 'the beginning is right' to 'it is wrong, at last'",
        ),
        (lambda ids: np.append(ids, 70_000), r"IndexError"),
        (fail, r"gigatoken fails \(ValueError: no such thing\) for 'it is wrong"),
        (panic, r"gigatoken fails \(PanicException: index out of bounds\)"),
    ],
)
def test_lost_text_and_failures_are_found_everywhere(broken, monkeypatch, fault, said):
    monkeypatch.setattr(fast, "PROVEN", 10)
    encoder = broken(fault)
    with pytest.raises(Disagreement, match=said):
        encoder.encode_batch(["the beginning is right", "it is wrong, at last"])


def test_an_interruption_is_no_disagreement(broken):
    def interrupt(ids):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken(interrupt).encode_batch(["wrong"])


def test_a_vocabulary_that_is_understood_otherwise_is_found_at_once(broken):
    with pytest.raises(Disagreement, match="other ids than tiktoken for '!"):
        broken(lambda ids: ids[::-1], Tokenizer.train_bpe(["wrong " * 9], 300))


def test_a_vocabulary_with_a_token_that_no_two_others_make_is_a_disagreement():
    """Tiktoken gives a piece that is a token its id; gigatoken 0.10 panics when it loads this."""
    tokenizer = Tokenizer("bpe", [bytes([byte]) for byte in range(256)] + [b"wrong"], fast.GPT2_PATTERN)
    with pytest.raises(Disagreement):
        FastEncoder(tokenizer)


def test_a_library_that_cannot_be_loaded_is_a_disagreement(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gigatoken.gigatoken_rs", None)
    with pytest.raises(Disagreement, match=r"ModuleNotFoundError: .*for its vocabulary"):
        FastEncoder(Tokenizer.utf8_bytes())


def test_long_parts_without_a_space_are_left_to_tiktoken(broken):
    encoder = broken(fail)
    long = "wrong" * 300
    [ids] = encoder.encode_batch([long])
    assert ids.tolist() == list(long.encode())
    with pytest.raises(Disagreement):
        encoder.encode_batch([f"{long} {long}"])


def test_it_begins_anew_after_much_text(monkeypatch):
    loaded, load = [], fast._loaded
    monkeypatch.setattr(fast, "RENEWED", 1000)
    monkeypatch.setattr(fast, "PROVEN", 1)
    monkeypatch.setattr(fast, "_loaded", lambda tokenizer: loaded.append(tokenizer) or load(tokenizer))
    encoder = FastEncoder(Tokenizer.utf8_bytes())
    many = ["one two three " * 50] * 7  # 700 bytes each
    assert [bytes(ids.tolist()) for ids in encoder.encode_batch(many)] == [text.encode() for text in many]
    assert len(loaded) == 1 + 4  # before the first, since the tokens themselves came before it, and each second


def test_it_is_required_only_where_it_can_be_used(monkeypatch):
    fast.require_fast("gpt2")
    fast.require_fast(Tokenizer.utf8_bytes())
    for characters in ("char", Tokenizer.char("abc", end_of_text=True)):
        with pytest.raises(InputError, match="encodes no vocabulary of characters"):
            fast.require_fast(characters)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"`encoder` gigatoken: is not installed: pip install 'gpt\[fast\]'"):
        fast.require_fast("gpt2")
