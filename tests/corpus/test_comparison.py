"""Tokenizers compared: by figures that tiktoken and tokenizers give as well."""

import itertools

import pytest
import tiktoken
from helpers import python_text

from gpt.corpus import comparison
from gpt.corpus.comparison import compare, comparison_lines, divided, made_from, suitable
from gpt.corpus.sample import CorpusSample
from gpt.corpus.sources import Texts
from gpt.corpus.vocabulary import suitable_tokenizer
from gpt.errors import InputError
from gpt.log import Progress
from gpt.text.tokenizer import Tokenizer


def sampled(texts):
    return CorpusSample(Texts(texts), 10**9, Progress())


def test_a_tenth_is_held_out_as_prepare_does_it():
    text = python_text()
    train, held_out = divided(sampled({"a": text}))
    assert all(part in text for part in (*train, *held_out))
    assert sum(map(len, train)) + sum(map(len, held_out)) == len(text)
    assert 0.05 < sum(map(len, held_out)) / len(text) < 0.16
    texts = {str(number): text[number * 300 : number * 300 + 300] for number in range(300)}
    train, held_out = divided(sampled(texts))
    assert sorted([*train, *held_out]) == sorted(texts.values())
    assert 15 < len(held_out) < 45


@pytest.mark.parametrize("texts", [{"a": "x"}, {"a": "word " * 190}])
def test_too_little_text_is_refused(texts):
    with pytest.raises(InputError, match="too little to try tokenizers on: give at least 1,000 characters"):
        divided(sampled(texts))


def test_bpes_of_all_sizes_are_those_that_are_trained_alone(said):
    text = python_text()[:50_000]
    made = made_from(["bpe:300", "char", "bpe:700", "bpe:257", "bytes"], sampled({"a": text}), [text])
    for size in (257, 300, 700):
        assert made[f"bpe:{size}"].fingerprint == Tokenizer.train_bpe([text], size).fingerprint
    assert made["char"].fingerprint == Tokenizer.char(text, end_of_text=False).fingerprint
    assert list(made) == ["bpe:300", "char", "bpe:700", "bpe:257", "bytes"]
    assert said == []
    made_from(["bpe:5000"], sampled({"a": "abab"}), ["abab"])
    assert "bpe:5000: the text has pairs for a vocabulary of" in said[0]


def test_figures_are_those_of_tiktoken(gpt2_tokenizer):
    texts = [python_text()[:20_000], "naïve 🙂 — 漢字\n" * 50, ""]
    [found] = compare({"mine": gpt2_tokenizer}, texts, Progress())
    reference = tiktoken.get_encoding("gpt2")
    tokens = [token for text in texts for token in reference.encode_ordinary(text)]
    single = [token for token in tokens if len(reference.decode_single_token_bytes(token)) == 1]
    assert (found.name, found.kind, found.vocab_size, found.fault) == ("mine", "gpt2", 50257, None)
    assert found.embedding_parameters == 38_597_376  # wte of GPT-2 124M
    assert found.tokens == len(tokens)
    assert found.bytes_per_token == sum(len(text.encode()) for text in texts) / len(tokens)
    assert found.single_byte_share == len(single) / len(tokens)
    assert found.mb_per_second > 0


def test_speed_is_the_median_of_turns_to_and_fro(monkeypatch):
    """On a clock that gives the seconds of each encoding."""
    seconds = {"a": iter([5.0, 1.0, 2.0, 3.0, 4.0]), "b": iter([9.0, 0.5, 0.5, 0.5, 9.0])}
    now, turns = [0.0], []

    class Encoder:
        def __init__(self, name):
            self.name = name

        def encode_batch(self, texts, threads):
            turns.append(self.name)
            now[0] += next(seconds[self.name])
            assert sum(map(len, texts)) == comparison.MOST_TIMED

    monkeypatch.setattr(comparison.time, "perf_counter", lambda: now[0])
    found = comparison._speeds({name: Encoder(name) for name in "ab"}, ["x" * 3_000_000], Progress())
    assert found == {"a": 1e6 / 3.0 / 1e6, "b": 1e6 / 0.5 / 1e6}
    assert "".join(turns) == "ab" + "ba" + "ab" + "ba" + "ab"


def test_a_short_text_is_timed_several_times():
    texts = ["abc", "defg"]
    timed = comparison._timed(texts)
    assert comparison.FEWEST_TIMED <= sum(map(len, timed)) < comparison.FEWEST_TIMED + 7
    assert timed[:4] == list(itertools.islice(itertools.cycle(texts), 4))


def test_one_that_cannot_be_tried_is_no_error_for_the_others():
    without = Tokenizer.char("abc", end_of_text=False)
    encoders = {"none": InputError("not there"), "bytes": Tokenizer.utf8_bytes(), "few": without}
    found = {figures.name: figures for figures in compare(encoders, ["some text" * 5000], Progress())}
    assert found["none"].fault == "not there"
    assert "lacks" in found["few"].fault
    assert (found["bytes"].tokens, found["bytes"].bytes_per_token, found["bytes"].fault) == (45_000, 1.0, None)
    heading, first, second, third = comparison_lines(list(found.values()))
    assert heading.split()[:2] == ["tokenizer", "vocabulary"]
    assert first.split() == ["none", *["-"] * 6]
    assert second.split()[:5] == ["bytes", "257", "45,000", "1.000", "100.0%"]
    assert len({len(line) for line in (heading, first, second, third)}) == 1
    with pytest.raises(InputError, match="none: not there; few: the text has"):
        compare({"none": encoders["none"], "few": without}, ["some text"], Progress())


@pytest.mark.parametrize("characters", [10, 111_000, 112_000, 5_000_000, 10**9, 10**12])
def test_what_suits_is_what_auto_takes(characters, said):
    found = suitable(characters)
    assert suitable_tokenizer(found.characters) == found.tokenizer
    assert said == [f"tokenizer: {found.tokenizer}, for {found.characters:,} characters: {found.reason}"]
    assert found.characters >= 0.9 * characters
