"""The 13-grams of the sides of a slice, held against those of its pieces, one by one."""

import random
from collections import Counter

import numpy as np
import pytest

from gpt.corpus import gram_index as module
from gpt.corpus.gram_index import _Filter, _Grams
from gpt.corpus.slices import PASSAGES, WORD_HASHES
from gpt.corpus.split import SIDES, TRAIN, VALIDATION, ByContent


def slice_of(place, rng, documents):
    """Passages of 0 to 60 words, written as they are listed: rows, and the words of each."""
    rows, words = [], []
    for number in range(documents):
        for _ in range(rng.choice([1, 1, 2, 5])):
            words.append([rng.randrange(2**32) for _ in range(rng.choice([0, 1, 5, 12, 13, 14, 60]))])
            rows.append([rng.randrange(2**64), 1, number, len(words[-1])])
    np.save(f"{place}{PASSAGES}", np.array(rows, dtype=np.uint64).reshape(-1, 4))
    np.array([word for own in words for word in own], dtype="<u4").tofile(f"{place}{WORD_HASHES}")
    return rows, words


def pieces_of(rows, words, sides, side):
    """Of each piece of a side, the words, each with the number of its passage."""
    piece, before = [], None
    for number, (row, own) in enumerate(zip(rows, words, strict=True)):
        if (row[2], sides[number]) != before:
            yield piece
            piece, before = [], (row[2], sides[number])
        if SIDES[sides[number]] == side:
            piece += [(word, number) for word in own]
    yield piece


@pytest.mark.parametrize("chunk", [7, 100, 1 << 15])
@pytest.mark.parametrize("documents", [0, 1, 200])
def test_grams_are_those_of_the_pieces_and_of_the_passage_in_which_each_begins(monkeypatch, tmp_path, documents, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    rows, words = slice_of(tmp_path / "slice", random.Random(documents), documents)
    divide, numbers = ByContent(512, 2**63), {}
    sides = divide.sides(np.array(rows, dtype=np.uint64).reshape(-1, 4)[:, 0]).tolist()
    for side in (TRAIN, VALIDATION):
        own, found, sizes = _Grams(tmp_path / "slice", divide, side), [], Counter()
        for places, hashes in own:
            found += zip(own.passages(places).tolist(), hashes.tolist(), strict=True)
        wanted = []
        for piece in pieces_of(rows, words, sides, side):
            count = max(len(piece) - 12, min(1, len(piece)))
            wanted += [
                (piece[start][1], tuple(word for word, _ in piece[start : start + 13])) for start in range(count)
            ]
        assert len(found) == len(wanted)
        for passage, gram in wanted:
            sizes[passage] += 1
            numbers.setdefault(gram, None)
        assert [sizes[passage] for passage in range(len(rows))] == own.sizes.tolist()
        assert Counter(passage for passage, _ in found) == sizes
        by_passage = sorted(found, key=lambda pair: pair[0])
        for (_, gram), (_, number) in zip(sorted(wanted, key=lambda pair: pair[0]), by_passage, strict=True):
            numbers[gram] = numbers[gram] or number
            assert numbers[gram] == number
    assert len(set(numbers.values())) == len(numbers)


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_the_filter_finds_what_is_there_and_nothing_else(count):
    rng = np.random.default_rng(count)
    known = np.unique(rng.integers(0, 2**64, count, dtype=np.uint64))
    asked = np.concatenate([rng.integers(0, 2**64, 20_000, dtype=np.uint64), known[::2], known[:10]])
    numbers, places = _Filter(known, _Filter.tables(known)).find(asked)
    assert numbers.tolist() == np.flatnonzero(np.isin(asked, known)).tolist()
    assert (known[places] == asked[numbers]).all()
