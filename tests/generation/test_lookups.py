"""Guesses are what followed, by comparing all places plainly."""

import random
from collections import Counter

import numpy as np
import pytest

from gpt.generation.lookups import LONGEST, LOOKED_AT, MOST, PLACES, Corpus, CorpusLookup, TextLookup


def by_comparing_all(ids):
    """The same, plainly."""
    ends = [place for place in range(2, len(ids)) if ids[place - 2 : place] == ids[-2:]][::-1][:PLACES]
    lengths = [
        max(n for n in range(2, LONGEST + 1) if n <= place and ids[place - n : place] == ids[-n:]) for place in ends
    ]
    if not ends:
        return [], 0
    place = ends[lengths.index(max(lengths))]
    return ids[place : place + MOST], max(lengths)


@pytest.mark.parametrize("letters", [1, 2, 3, 6, 40])
def test_guesses_are_what_followed_the_longest_stretch_that_ends_the_text(letters):
    numbers = random.Random(letters)
    for _ in range(20):
        text, lookup, known = [], TextLookup(), 0
        for _ in range(60):
            text.append(numbers.randrange(letters))
            if numbers.random() < 0.6:
                assert lookup(text) == by_comparing_all(text)
                known += bool(lookup(text)[0])
        assert known or letters == 40


@pytest.mark.parametrize("letters", [1, 2, 5, 40])
def test_a_corpus_guesses_what_followed_its_longest_stretch_most_often(letters):
    numbers = random.Random(letters)
    corpus = [numbers.randrange(letters) for _ in range(200)]
    lookup = CorpusLookup(np.array(corpus))
    for _ in range(200):
        start = numbers.randrange(190)
        text = [numbers.randrange(letters + 1) for _ in range(3)] + corpus[start : start + numbers.randrange(1, 20)]
        guess, length = lookup(text)
        common = {
            place: next(n for n in range(LONGEST + 1) if n == LONGEST or not alike(corpus, place, text, n + 1))
            for place in range(len(corpus) + 1)
        }
        places = [place for place, n in common.items() if n == max(common.values()) and place < len(corpus)]
        if not places or not max(common.values()):
            assert (guess, length) == ([], 0)
            continue
        assert length == max(common.values())
        following = Counter(corpus[place] for place in places)
        assert guess in [corpus[place : place + MOST] for place in places]
        if len(places) < LOOKED_AT:
            assert following[guess[0]] == max(following.values())


def alike(corpus, place, text, n):
    return n <= min(place, len(text)) and corpus[place - n : place] == text[len(text) - n :]


@pytest.mark.parametrize("text", [[], [7]])
def test_there_are_texts_that_nothing_is_known_of(text):
    assert CorpusLookup(np.array([1, 2, 3]))(text) == ([], 0)
    assert CorpusLookup(np.array([], dtype=np.int64))(text) == ([], 0)
    assert TextLookup()(text) == ([], 0)


def test_a_corpus_is_read_once_after_the_time_it_waits():
    reads = []
    corpus = Corpus(lambda: reads.append(1) or np.array([1, 2, 3]), patience=2.0)
    corpus.waited(1.5)
    assert corpus.thread is None
    assert corpus([1, 2]) == ([], 0)
    for _ in range(3):
        corpus.waited(1.0)
    corpus.thread.join()
    assert corpus([1, 2]) == ([3], 2)
    assert reads == [1]


@pytest.mark.parametrize(
    "failure", [OSError("gone"), MemoryError(), RuntimeError("cannot schedule new futures after interpreter shutdown")]
)
def test_a_corpus_that_cannot_be_had_leaves_guesses_out(failure, monkeypatch):
    """Without a traceback amid what is sampled, or after its end."""

    def fails():
        raise failure

    said = []
    monkeypatch.setattr("threading.excepthook", said.append)
    corpus = Corpus(fails, patience=0.0)
    corpus.waited(1.0)
    corpus.thread.join()
    assert corpus([1, 2]) == ([], 0)
    assert not said
