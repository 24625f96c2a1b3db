import tracemalloc

import numpy as np
import pytest

from gpt.dataset import suffix_array
from gpt.dataset.shards import MemorySplit, Shard, Split, write_shard
from gpt.dataset.suffix_array import END, NO_ID, SuffixArray, longest_shared, suffix_order

ALPHABETS = [1, 2, 4, 50, 70_000, 2**32 - 2]


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


@pytest.mark.parametrize("sizes", [(4, 4), (1, 7), (16, 1000)])
@pytest.mark.parametrize("largest", [1, 2, 6, 300])
def test_the_longest_stretches_of_runs_are_found_whatever_blocks_there_are(largest, sizes, monkeypatch):
    monkeypatch.setattr(suffix_array, "FIRST_TOKENS", sizes[0])
    monkeypatch.setattr(suffix_array, "BLOCK_TOKENS", sizes[1])
    monkeypatch.setattr(suffix_array, "LONGEST_GRAM", 3)
    rng = np.random.default_rng(1)
    for ids in texts(largest, sizes=(0, 1, 5, 40, 80)):
        text = ids.tolist()
        runs = [rng.integers(0, largest, 12), ids[2:14], np.array([], dtype=np.int64), ids[-9:], np.array([400, 400])]
        runs.append(np.concatenate([[400], ids[6:20], [400], ids[20:22]]).astype(np.int64))
        matches = longest_shared(MemorySplit("train", ids), runs)
        for match, run in zip(matches, runs, strict=True):
            assert match.length == longest_by_search(text, run.tolist())
            stretch = run.tolist()[match.start : match.start + match.length]
            assert text[match.place : match.place + match.length] == stretch


def test_of_chosen_ranges_no_stretch_goes_on_into_another():
    text = np.arange(30)
    [match] = longest_shared(MemorySplit("train", text), [text.copy()], [range(0, 6), range(6, 10), range(20, 28)])
    assert (match.length, match.start, match.place) == (8, 20, 20)
    assert longest_shared(MemorySplit("train", text), []) == []


def test_marks_are_no_ids_and_differ():
    assert END < NO_ID < 0


def test_a_text_of_which_little_is_shared_costs_little(monkeypatch):
    """Of later blocks only what is news goes into an array: of a text that shares nothing with the runs, nothing."""
    monkeypatch.setattr(suffix_array, "FIRST_TOKENS", 100)
    monkeypatch.setattr(suffix_array, "BLOCK_TOKENS", 1000)
    sizes, honest = [], suffix_array.suffix_order
    monkeypatch.setattr(suffix_array, "suffix_order", lambda ids: sizes.append(len(ids)) or honest(ids))
    rng = np.random.default_rng(0)
    run = rng.integers(0, 100, 50)
    text = np.concatenate([rng.integers(0, 100, 90), run[:20], rng.integers(100, 1000, 3000), run[10:45]])
    [match] = longest_shared(MemorySplit("train", text), [run])
    assert (match.length, match.start, match.place) == (35, 10, 3110)
    assert max(sizes[1:]) < 200


def test_memory_does_not_grow_with_the_text(monkeypatch, tmp_path):
    monkeypatch.setattr(suffix_array, "FIRST_TOKENS", 500)
    monkeypatch.setattr(suffix_array, "BLOCK_TOKENS", 2000)
    rng, peaks = np.random.default_rng(0), []
    run = rng.integers(0, 4, 60)
    for tokens in (8_000, 80_000):
        write_shard(tmp_path / f"{tokens}.bin", [rng.integers(0, 4, tokens).astype(np.uint16)])
        split = Split("train", [Shard(tmp_path / f"{tokens}.bin")])
        longest_shared(split, [run])  # what is made once
        tracemalloc.start()
        longest_shared(split, [run])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
