"""Words and their hashes, held against words found by a regular expression."""

import random
import time
import unicodedata

import numpy as np
import pytest
from helpers import random_text
from word_grams import words_of

from gpt.corpus.grams import folded, rolling, word_hashes


def hashed(texts):
    hashes, counts = word_hashes([folded(text.encode("utf-8", "surrogatepass")) for text in texts])
    assert sum(counts.tolist()) == len(hashes)
    return [part.tolist() for part in np.split(hashes, np.cumsum(counts)[:-1])]


ODD = [
    "the cat sat on the mat " * 5,
    "The  CAT, sat: on the mat" * 3,
    "",
    " \n",
    "one",
    "\u4e00\u4e8c" * 20,
    "x" * 5000,
    "Ünï ΣΑΣ İstanbul K 日本語のテキスト a日b ก\u0e48 “quoted” text’s 😀",
    "e\u0301te\u0301 \u1112\u1161\u11ab 한글",
    "\ud800 half a pair",
    "12345678 123456789 12345678" + "9" * 9,
    "zero\0byte",
]


@pytest.mark.parametrize("together", [True, False])
def test_equal_words_have_equal_hashes_and_others_have_others(together):
    rng = random.Random(together)
    texts = [random_text(rng, rng.randrange(400)) for _ in range(60)] + ODD
    number_of, numbers = {}, {}
    for text, found in zip(texts, hashed(texts) if together else [hashed([text])[0] for text in texts], strict=True):
        wanted = words_of(text)
        assert len(found) == len(wanted), text
        for word, number in zip(wanted, found, strict=True):
            assert number_of.setdefault(word, number) == number
            assert numbers.setdefault(number, word) == word
    assert len(numbers) > 1500


def test_words_of_any_length_count_with_all_their_letters():
    words = ["a" * length + last for length in range(40) for last in "bcd"]
    [found] = hashed([" ".join(words)])
    assert len(set(found)) == len(words)


def test_what_is_between_words_case_and_unicodes_forms_make_no_difference():
    text = "Über den Wolken, da muß die Freiheit wohl grenzenlos sein; alle Ängste, alle Sorgen, sagt man."
    others = [
        text.upper().replace("SS", "ß"),
        unicodedata.normalize("NFD", text),
        text.replace(" ", "\r\n  "),
        text + "!",
    ]
    first, *rest = hashed([text, *others])
    assert first
    assert rest == [first] * len(rest)


def test_folding_is_composing_and_lower_case_but_for_letters_of_ascii(rng):
    lower = bytes(range(256)).lower()
    texts = [random_text(rng, rng.randrange(200)) for _ in range(100)] + ODD
    texts += [unicodedata.normalize("NFD", text) for text in texts]
    for text in texts:
        wanted = unicodedata.normalize("NFC", text).lower().encode("utf-8", "surrogatepass")
        assert folded(text.encode("utf-8", "surrogatepass")).translate(lower) == wanted, text


def test_hashes_fill_their_bits():
    words = np.array(hashed([" ".join(str(number) for number in range(3000))])[0], dtype=np.uint64)
    for found, bits in ((words, 32), (rolling(words, 13), 64)):
        ones = [(found >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(bits)]
        assert 0.45 < min(ones) <= max(ones) < 0.55


def test_long_words_have_the_same_hashes_however_many_there_are(monkeypatch):
    words = [b"x" * size + bytes([98 + size % 20]) for size in (1, 8, 511, 512, 513, 519, 520, 521, 5000, 40_001)]
    texts = [b" ".join(words), words[-1], b" ".join(words[::-1])]
    alone, counts = word_hashes(texts)
    monkeypatch.setattr("gpt.corpus.grams.MANY", 0)
    together, same = word_hashes(texts)
    assert alone.tolist() == together.tolist()
    assert counts.tolist() == same.tolist() == [10, 1, 10]
    assert len(set(alone.tolist())) == 10


def test_a_word_of_a_million_letters_takes_little_more_than_others():
    """Such as base64, or a line of one letter: a second for a megabyte was an hour for a large file."""
    text = bytes(random.Random(0).choices(range(97, 123), k=1 << 20))
    start = time.process_time()
    word_hashes([text])
    assert time.process_time() - start < 0.7
