"""The 13-grams, held against words found by a regular expression."""

import random
import unicodedata

import numpy as np
import pytest
from helpers import random_text
from word_grams import grams_of

from gpt.corpus import grams as module
from gpt.corpus.grams import grams


def hashed(texts):
    return [found.tolist() for found in grams([(text, "") for text in texts])]


@pytest.mark.parametrize("batch", [1, 500, 1 << 17])
def test_equal_grams_have_equal_hashes_and_others_have_others(monkeypatch, batch):
    monkeypatch.setattr(module, "BATCH_CHARACTERS", batch)
    rng = random.Random(batch)
    texts = [random_text(rng, rng.randrange(400)) for _ in range(60)]
    texts += [
        "the cat sat on the mat " * 5,
        "The  CAT, sat: on the mat" * 3,
        "",
        " \n",
        "one",
        "\u4e00\u4e8c" * 20,
        "x" * 5000,
    ]
    number_of, numbers = {}, {}
    for text, found in zip(texts, hashed(texts), strict=True):
        wanted = grams_of(text)
        assert len(found) == len(wanted), text
        for gram, number in zip(wanted, found, strict=True):
            assert number_of.setdefault(gram, number) == number
            assert numbers.setdefault(number, gram) == gram
    assert len(numbers) > 500


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


def test_hashes_fill_their_64_bits():
    found = np.array(hashed([" ".join(str(number) for number in range(3000))])[0], dtype=np.uint64)
    ones = [(found >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(64)]
    assert 0.45 < min(ones) <= max(ones) < 0.55


def test_what_follows_completes_the_grams_of_a_text_and_gives_none_of_its_own(rng):
    text = " ".join(random_text(rng, 30) for _ in range(60))
    whole = hashed([text])[0]
    for cut in (0, 1, len(text) // 3, len(text) - 1, len(text)):
        first, rest = (found.tolist() for found in grams([(text[:cut], text[cut:]), (text[cut:], "")]))
        if cut == 0 or not text[cut - 1 : cut + 1].isalnum():  # not within a word
            assert (first + rest) == whole or cut == len(text)
        assert first == whole[: len(first)]
