"""The 13-grams of the sides of a slice, held against those of its pieces, one by one."""

import random
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from gpt.corpus import gram_index as module
from gpt.corpus.gram_index import COMMON, MET, SHARES, Index, _Filter, _Grams, list_grams, scan_slice
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


def scanned(directory, place, divide):
    """What of a slice's validation its training has: places of grams, shares, and what passages have in common."""
    found = list_grams(directory / "listed", None, None, place, divide)
    run = SimpleNamespace(own=directory, run=lambda *_: [(directory / "listed", found)])
    corpus = SimpleNamespace(slices=[], stages=run, tasks=lambda *_: [])
    index = Index.build(corpus, divide)
    tracemalloc.start()
    scan_slice(directory / "scanned", None, None, place, divide, index.place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    met, shares = (np.load(f"{directory / 'scanned'}{ending}").tolist() for ending in (MET, SHARES))
    common = np.fromfile(f"{directory / 'scanned'}{COMMON}", dtype="<u4").reshape(-1, 3).tolist()
    return met, shares, common, peak


def copies(place, count, words):
    """As many documents of the same words and one of its own each."""
    rows = [[(2 * number + 1) * (2**63 // count), 1, number, words + 1] for number in range(count)]
    np.save(f"{place}{PASSAGES}", np.array(rows, dtype=np.uint64))
    np.array([[*range(words), words + number] for number in range(count)], dtype="<u4").tofile(f"{place}{WORD_HASHES}")


@pytest.mark.parametrize("at_once", [1, 100, 1 << 30])
@pytest.mark.parametrize("count", [20, 200])
def test_how_many_passages_are_looked_at_at_once_changes_nothing(monkeypatch, tmp_path, count, at_once):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    monkeypatch.setattr(module, "CHUNK", 64)
    copies(tmp_path / "slice", count, 40)
    met, shares, common, _ = scanned(tmp_path, tmp_path / "slice", ByContent(512, 2**64 // 5))
    validating, train = count // 5, range(count // 5, count)
    assert len(met) == 28  # 40 words have so many 13-grams
    assert shares == pytest.approx([0] * validating + [28 / 29] * len(train))
    several = validating > module.OWNERS  # which tell nothing of one of them
    assert common == ([] if several else [[mine, other, 28] for mine in train for other in range(validating)])


def test_what_repeats_itself_in_all_of_a_slice_takes_little_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "AT_ONCE", 1 << 15)
    copies(tmp_path / "slice", 2000, 300)
    *_, common, peak = scanned(tmp_path, tmp_path / "slice", ByContent(512, 2**64 // 10))
    assert not common
    assert peak < 8 * 1800 * 288  # a number for each that is met


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_the_filter_finds_what_is_there_and_nothing_else(count):
    rng = np.random.default_rng(count)
    known = np.unique(rng.integers(0, 2**64, count, dtype=np.uint64))
    asked = np.concatenate([rng.integers(0, 2**64, 20_000, dtype=np.uint64), known[::2], known[:10]])
    numbers, places = _Filter(known, _Filter.tables(known)).find(asked)
    assert numbers.tolist() == np.flatnonzero(np.isin(asked, known)).tolist()
    assert (known[places] == asked[numbers]).all()
