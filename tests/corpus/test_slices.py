import random

import pytest

from gpt.corpus.documents import Skipped
from gpt.corpus.slices import LEAST_BYTES, MOST_BYTES, cut_slices, slice_bytes
from gpt.corpus.sources import Identity


class Files:
    """Parts that are (name, bytes, content), or flagged as validation by a fourth."""

    def identity(self, part):
        return Identity(*part)


def files(count, seed=0, largest=5000):
    rng = random.Random(seed)
    return [(f"{number:04}.txt", rng.randrange(largest), "") for number in range(count)]


def test_slices_are_the_parts_in_order_and_of_about_the_size():
    parts = [*files(1000), Skipped("x", "hidden"), ("huge", 10**6, ""), ("last", 1, "")]
    found = list(cut_slices(Files(), parts, 100_000))
    assert [part for each in found for part in each.parts] == parts
    sizes = [sum(part[1] for part in each.parts if not isinstance(part, Skipped)) for each in found]
    assert all(25_000 <= size < 105_000 for size in sizes if size < 10**6 and size != sizes[-1])
    assert 25 < len(found) < 100


@pytest.mark.parametrize("place", [0, 3, 500, 999])
def test_a_file_more_or_less_changes_the_slices_around_it_alone(place):
    parts = files(1000)
    before = {each.digest for each in cut_slices(Files(), parts, 100_000)}
    for changed in ([*parts[:place], ("new", 3000, ""), *parts[place:]], parts[:place] + parts[place + 1 :]):
        after = {each.digest for each in cut_slices(Files(), changed, 100_000)}
        assert len(before - after) <= 8
    changed = [*parts[:place], (parts[place][0], parts[place][1], "other"), *parts[place + 1 :]]
    assert len(before - {each.digest for each in cut_slices(Files(), changed, 100_000)}) == 1


def test_what_validates_by_itself_has_slices_by_itself():
    parts = [("a", 1, ""), ("b", 1, "", True), Skipped("c", "empty"), ("d", 1, "", True), ("e", 1, "")]
    found = list(cut_slices(Files(), parts, 100))
    assert [(each.parts, each.validates) for each in found] == [
        ((parts[0],), False),
        (tuple(parts[1:4]), True),
        ((parts[4],), False),
    ]


def test_each_part_of_a_divided_file_begins_a_slice():
    parts = [("a", 9, ""), ("b", 9, ""), *(("b", 9, str(n), False, True) for n in range(2)), ("c", 9, "")]
    assert [each.parts for each in cut_slices(Files(), parts, 100)] == [(*parts[:2],), (parts[2],), (*parts[3:],)]


def test_no_part_is_no_slice():
    assert list(cut_slices(Files(), [], 100)) == []


def test_slices_grow_with_the_corpus_within_bounds():
    assert slice_bytes(0) == slice_bytes(10**9) == LEAST_BYTES
    assert slice_bytes(10**10) == 1 << 25
    assert slice_bytes(10**13) == MOST_BYTES
