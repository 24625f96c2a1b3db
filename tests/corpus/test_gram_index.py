"""The 13-grams of the sides of a slice, held against those of its pieces, one by one."""

import random
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from gpt.corpus import gram_index as module
from gpt.corpus import slices
from gpt.corpus.gram_index import COMMON, Index, _Filter, _Grams, scan_slice, shares_at, sort_grams
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


def index_of(directory, places, divide):
    """The index of some slices, and the most memory that it takes to build it from what is listed of them."""
    found = [
        (directory / f"listed-{number}", sort_grams(directory / f"listed-{number}", None, None, place, divide))
        for number, place in enumerate(places)
    ]
    corpus = SimpleNamespace(
        slices=[], stages=SimpleNamespace(own=directory, run=lambda *_: found), tasks=lambda *_: []
    )
    return peak_of(Index.build, corpus, divide)


def peak_of(work, *arguments):
    """What a function returns, and how much memory it took at most."""
    tracemalloc.start()
    try:
        return work(*arguments), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def scanned(directory, place, divide):
    """What of a slice's validation its training has: places of grams, shares, and what passages have in common."""
    index, _ = index_of(directory, [place], divide)
    _, peak = peak_of(scan_slice, directory / "scanned", None, None, place, divide, index.place)
    shared = shares_at(directory / "scanned")
    common = np.fromfile(f"{directory / 'scanned'}{COMMON}", dtype="<u4").reshape(-1, 3).tolist()
    return shared["met"].tolist(), shared["shares"].tolist(), common, peak


@pytest.mark.parametrize("at_once", [1600, 16_000, 1 << 25])
def test_an_index_lists_in_which_passages_each_gram_stands_however_many_are_put_in_order_at_once(
    monkeypatch, tmp_path, at_once
):
    monkeypatch.setattr(slices, "BYTES_AT_ONCE", at_once)
    monkeypatch.setattr(module, "SORTED_AT_ONCE", at_once // 16)
    divide, wanted, before = ByContent(512, 2**63), {}, 0
    places = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for place, seed in zip(places, (1, 2, 1), strict=True):  # the first once more
        slice_of(place, random.Random(seed), 30)
        own = _Grams(place, divide, VALIDATION)
        numbers = np.cumsum(own.is_mine) - 1 + before
        for words, hashes in own:
            for passage, gram in zip(numbers[own.passages(words)].tolist(), hashes.tolist(), strict=True):
                wanted.setdefault(gram, set()).add(passage)
        before += int(own.is_mine.sum())
    index, _ = index_of(tmp_path, places, divide)
    assert index.grams.tolist() == sorted(wanted)
    starts = index.starts.tolist()
    assert starts == [0, *np.cumsum([len(wanted[gram]) for gram in sorted(wanted)])]
    assert index.owners.tolist() == [passage for gram in sorted(wanted) for passage in sorted(wanted[gram])]
    assert index.sizes.tolist() == [sum(number in own for own in wanted.values()) for number in range(before)]
    assert len(index.keys) == before


def test_an_index_is_built_in_little_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(slices, "BYTES_AT_ONCE", 1 << 16)
    monkeypatch.setattr(module, "AT_ONCE", 1 << 12)
    words = np.random.default_rng(0).integers(0, 2**32, 300_000).astype("<u4")
    words.tofile(tmp_path / f"slice{WORD_HASHES}")
    np.save(tmp_path / f"slice{PASSAGES}", np.array([(1, 1, 0, len(words))], dtype=np.uint64))
    index, peak = index_of(tmp_path, [tmp_path / "slice"], ByContent(512, 2**63))
    assert len(index.grams) == len(words) - 12
    assert peak < 10 * len(words)  # mostly the tables; the index takes 20


def test_the_grams_of_a_slice_that_validates_whole_are_put_in_order_in_little_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "CHUNK", 1 << 13)
    words = np.random.default_rng(0).integers(0, 2**32, 250_000).astype("<u4")
    words.tofile(tmp_path / f"slice{WORD_HASHES}")
    np.save(tmp_path / f"slice{PASSAGES}", np.array([(1, 1, 0, len(words))], dtype=np.uint64))
    arguments = (None, None, tmp_path / "slice", ByContent(512, 2**63))
    whole, much = peak_of(sort_grams, tmp_path / "whole", *arguments)
    monkeypatch.setattr(module, "SORTED_AT_ONCE", 1 << 14)
    parted, little = peak_of(sort_grams, tmp_path / "parted", *arguments)
    assert whole == parted
    assert (tmp_path / "whole.grams").read_bytes() == (tmp_path / "parted.grams").read_bytes()
    assert much > 40 * len(words)
    assert little < 8 * len(words)  # of which nothing grows with them


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
    monkeypatch.setattr(module, "AT_ONCE", 1 << 13)
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
