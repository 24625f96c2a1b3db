import pytest

from gpt import InputError
from gpt.generation.truncation import require_room, truncate, truncate_prompt


def test_sliding_keeps_the_newest():
    ids = list(range(17))
    assert truncate_prompt(ids, 16, "slide") == ids[1:]
    assert truncate(ids, 16, "slide") == ids[-8:]
    assert truncate(ids[:6], 5, "slide") == ids[3:6]  # of an odd context the larger half


def test_keeping_a_prefix_keeps_both_ends():
    ids = list(range(40))
    assert truncate_prompt(ids, 16, "keep-prefix") == [0, 1, 2, 3, *ids[-12:]]
    assert truncate(ids[:17], 16, "keep-prefix") == [0, 1, 2, 3, *ids[11:17]]


@pytest.mark.parametrize("overflow", ["slide", "keep-prefix"])
@pytest.mark.parametrize("context_length", range(1, 40))
def test_what_is_left_fits_and_leaves_room(context_length, overflow):
    ids = list(range(context_length + 1))
    left = truncate(ids, context_length, overflow)
    assert 1 <= len(left) <= context_length
    assert left[-1] == ids[-1]
    assert left == sorted(set(left))
    assert len(left) < context_length or context_length < 3
    assert len(truncate_prompt(ids, context_length, overflow)) == context_length


def test_what_does_not_fit_is_refused_and_what_just_fits_is_not():
    require_room(10, 7, 16)  # the last token drawn is not read
    with pytest.raises(InputError, match="10 tokens and 8 new ones need 17 positions, and the model has 16"):
        require_room(10, 8, 16)
