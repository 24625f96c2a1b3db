import tracemalloc

import numpy as np
import pytest

from gpt.dataset import suffix_array
from gpt.dataset.suffix_array import END, NO_ID, SharedStretch, SuffixArray, longest_shared, suffix_order

ALPHABETS = [1, 2, 4, 50, 70_000, 2**32 - 2]


@pytest.fixture(autouse=True)
def small_table(monkeypatch):
    """A table in which hashes meet, and which is made quickly."""
    monkeypatch.setattr(suffix_array, "TABLE_BITS", 10)


def texts(largest, sizes=(0, 1, 2, 3, 7, 30, 90)):
    """Random ids, and repetitive ones: the same passage again and again, with a change here and there."""
    rng = np.random.default_rng(largest)
    for size in sizes:
        yield rng.integers(0, largest, size)
        passage = rng.integers(0, largest, 5)
        repeated = np.tile(passage, size // 5 + 1)[:size]
        yield repeated.copy()
        if size > 10:
            repeated[size // 2] = rng.integers(0, largest)
            yield repeated


def shared(one, two):
    """Ids that two lists begin with in common."""
    return next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


@pytest.mark.parametrize("key_bits", [64, 3], ids=["packed", "large"])
@pytest.mark.parametrize("largest", ALPHABETS)
def test_suffixes_are_in_the_order_of_a_sort_of_all(largest, key_bits, monkeypatch):
    monkeypatch.setattr(suffix_array, "KEY_BITS", key_bits)
    for ids in texts(largest):
        wanted = sorted(range(len(ids)), key=lambda place: ids[place:].tolist())
        assert suffix_order(ids).tolist() == wanted


@pytest.mark.parametrize("largest", ALPHABETS)
def test_matches_are_those_of_a_search_of_all_places(largest):
    for ids in texts(largest):
        array, text = SuffixArray(ids), ids.tolist()
        rng = np.random.default_rng(0)
        wanted = [*rng.integers(0, largest, 9), NO_ID, *text[3:25], NO_ID, *text[-4:], *text[:12]]
        lengths, places = array.longest_matches(np.array(wanted))
        for begin, (length, place) in enumerate(zip(lengths.tolist(), places.tolist(), strict=True)):
            run = wanted[begin:]
            assert length == max((shared(run, text[there:]) for there in range(len(text))), default=0)
            assert text[place : place + length] == run[:length]
            assert (place == -1) == (length == 0)
        begins = np.arange(0, len(wanted), 3)
        chosen = array.longest_matches(np.array(wanted), begins)
        assert [found.tolist() for found in chosen] == [lengths[begins].tolist(), places[begins].tolist()]


@pytest.mark.parametrize("largest", [1, 2, 4])
def test_places_of_a_run_are_all_of_them(largest):
    for ids in texts(largest):
        array, text = SuffixArray(ids), ids.tolist()
        for run in ([0], [0, 0], text[2:5] or [1], text[:1] * 3 or [0], text[-6:] or [0], [5], [*text, 0]):
            there = [place for place in range(len(text)) if text[place : place + len(run)] == run]
            assert array.places(run).tolist() == there


def test_what_followed_the_longest_end_of_a_text_is_found():
    text = [1, 2, 3, 4, 9, 2, 3, 5, 6]
    array = SuffixArray(np.array(text))
    for last, length, following in [
        ([9, 9, 3, 4], 2, [9, 2, 3, 5, 6]),
        ([9, 2, 3], 3, [5, 6]),
        ([1, 2, 3], 3, [4, 9, 2, 3, 5, 6]),
        ([5, 6], 2, []),
    ]:
        found, place = array.longest_ending(np.array(last))
        assert (found, text[place:]) == (length, following)
    assert array.longest_ending(np.array([1, 2, 7])) == (0, 0)
    assert array.longest_ending(np.array([], dtype=np.int64)) == (0, 0)
    assert SuffixArray(np.array([], dtype=np.int64)).longest_ending(np.array([1])) == (0, 0)


def longest_by_search(text, run):
    """The length of the longest stretch of a run that a text has, by looking at all."""
    return max((shared(run[i:], text[j:]) for i in range(len(run)) for j in range(len(text))), default=0)


def pieces(ids, size):
    """A text piece by piece."""
    return [ids[start : start + size] for start in range(0, len(ids), size)]


@pytest.mark.parametrize("sizes", [(4, 4), (1, 7), (16, 1000)])
@pytest.mark.parametrize("largest", [1, 2, 6, 300])
def test_the_longest_stretches_of_runs_are_found_whatever_blocks_there_are(largest, sizes, monkeypatch):
    monkeypatch.setattr(suffix_array, "FIRST_IDS", sizes[0])
    monkeypatch.setattr(suffix_array, "BLOCK_IDS", sizes[1])
    rng = np.random.default_rng(1)
    for ids in texts(largest, sizes=(0, 1, 5, 40, 80)):
        text = ids.tolist()
        runs = [rng.integers(0, largest, 12), ids[2:14], np.array([], dtype=np.int64), ids[-9:], np.array([400, 400])]
        runs.append(np.concatenate([[400], ids[6:20], [400], ids[20:22]]).astype(np.int64))
        runs.append(np.concatenate([ids[8:12], [NO_ID], ids[12:19], [NO_ID]]).astype(np.int64))
        matches = longest_shared(pieces(ids, int(rng.integers(1, 20))), runs)
        for match, run in zip(matches, runs, strict=True):
            assert match.length == longest_by_search(text, run.tolist())
            stretch = run.tolist()[match.start : match.start + match.length]
            assert text[match.place : match.place + match.length] == stretch


def test_of_no_runs_nothing_is_read():
    def unread():
        raise AssertionError
        yield

    assert longest_shared(unread(), []) == []
    assert longest_shared(unread(), [np.array([], dtype=np.int64), np.array([NO_ID])]) == [SharedStretch(0, 0, 0)] * 2


def test_marks_are_no_ids_and_differ():
    assert END < NO_ID < 0


def test_hashes_of_runs_that_differ_do_and_of_those_alike_do_not():
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(0, 2, 2000), [1, 2, 3, 5, 8, 13, 40, 1999, 2000, 2001]
    for n, hashes in zip(lengths, suffix_array._gram_hashes(ids, lengths), strict=True):
        runs = [tuple(ids[i : i + n].tolist()) for i in range(len(ids) - n + 1)]
        assert len(hashes) == len(runs)
        assert len(set(hashes.tolist())) == len(set(runs)) == len(set(zip(hashes.tolist(), runs, strict=True)))


def test_a_text_of_which_little_is_shared_costs_little(monkeypatch):
    """Of later blocks only what is news goes into an array: of a text that shares nothing with the runs, nothing.

    What a run has in common with the text, and cannot have more of, is not looked for again.
    """
    monkeypatch.setattr(suffix_array, "FIRST_IDS", 100)
    monkeypatch.setattr(suffix_array, "BLOCK_IDS", 1000)
    sizes, honest = [], suffix_array.suffix_order
    monkeypatch.setattr(suffix_array, "suffix_order", lambda ids: sizes.append(len(ids)) or honest(ids))
    rng = np.random.default_rng(0)
    run = rng.integers(0, 100, 50)
    text = np.concatenate([rng.integers(0, 100, 90), run[:20], rng.integers(100, 1000, 3000), run[10:45]])
    [match, short, empty] = longest_shared(pieces(text, 70), [run, run[:1], run[:0]])
    assert (match.length, match.start, match.place) == (35, 10, 3110)
    assert (short.length, empty.length) == (1, 0)
    assert max(sizes[1:]) < 200


def test_memory_does_not_grow_with_the_text(monkeypatch):
    monkeypatch.setattr(suffix_array, "FIRST_IDS", 500)
    monkeypatch.setattr(suffix_array, "BLOCK_IDS", 2000)
    run, peaks = np.random.default_rng(0).integers(0, 4, 60), []

    def text(ids):
        rng = np.random.default_rng(1)
        return (rng.integers(0, 4, 700) for _ in range(ids // 700))

    for ids in (8_000, 80_000):
        longest_shared(text(ids), [run])  # what is made once
        tracemalloc.start()
        longest_shared(text(ids), [run])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
