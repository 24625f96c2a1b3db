import json

import numpy as np
import pytest
import torch

from gpt.choices import IGNORE_INDEX
from gpt.dataset.shards import Split
from gpt.errors import InputError
from gpt.evaluation.windows import Windows

END = 0


class Stream:
    """Ids in memory, in place of a shard."""

    mask = None

    def __init__(self, ids):
        self.ids, self.tokens = np.asarray(ids), len(ids)

    def read(self, start, count):
        return self.ids[start : start + count]


def split(ids):
    return Split("validation", [Stream(ids)])


def counted(tokens):
    return split(np.arange(tokens))


def all_rows(windows, batch=3):
    """(inputs, targets, pieces) of every window."""
    parts = [windows.read(range(len(windows))[first:][:batch]) for first in range(0, len(windows), batch)]
    inputs, targets, pieces = zip(*parts, strict=True)
    return torch.cat(inputs), torch.cat(targets), np.concatenate(pieces)


@pytest.mark.parametrize("budget", [None, 1, 64, 65, 640, 999, 5000])
@pytest.mark.parametrize("stride", [None, 64, 40])
def test_settings_lay_the_same_windows_again(budget, stride):
    windows = Windows(counted(1000), 64, END, stride, budget, document_mask=True)
    again = Windows(counted(1000), **json.loads(json.dumps(windows.settings)))
    for name in ("begins", "firsts", "lasts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(windows, name))
    assert (again.end_of_text, again.document_mask) == (END, True)
    assert again.is_complete == windows.is_complete


@pytest.mark.parametrize("tokens", [2, 63, 64, 65, 66, 129, 1000])
@pytest.mark.parametrize("stride", [None, 1, 7, 32, 63, 64])
def test_each_token_but_the_first_is_predicted_once_in_order_after_enough_others(tokens, stride):
    context_length = 64
    inputs, targets, _ = all_rows(Windows(counted(tokens), context_length, stride=stride))
    assert targets[targets != IGNORE_INDEX].tolist() == list(range(1, tokens))
    for row, (x, y) in enumerate(zip(inputs, targets, strict=True)):
        places = np.flatnonzero((y != IGNORE_INDEX).numpy())
        assert torch.equal(y[places], x[places] + 1)  # ids are places in the stream
        if row > 0 and stride not in (None, context_length):
            assert places[0] + 1 >= context_length - stride  # tokens before the first one that is predicted


@pytest.mark.parametrize("stride", [0, -1, 65])
def test_a_stride_that_would_leave_tokens_out_is_refused(stride):
    with pytest.raises(InputError, match="`stride` is .*; it must be from 1 to the model's context, 64"):
        Windows(counted(100), 64, stride=stride)


@pytest.mark.parametrize(("tokens", "budget"), [(1000, 64), (1000, 65), (100_000, 5000), (1000, 999), (1000, 10**9)])
def test_a_budget_takes_windows_from_all_over_the_split_and_always_the_same(tokens, budget):
    windows = Windows(counted(tokens), 64, tokens=budget)
    targets = all_rows(windows)[1]
    places = targets[targets != IGNORE_INDEX].numpy()
    again = all_rows(Windows(counted(tokens), 64, tokens=budget), batch=11)[1]
    assert torch.equal(targets, again)
    assert len(set(places)) == len(places) <= budget
    assert windows.is_complete == (budget >= tokens - 1) == (len(places) == tokens - 1)
    if not windows.is_complete:
        assert len(places) > budget - 64 - 64  # the last window may be short
        for quarter in range(4):
            share = np.mean((places >= quarter * tokens / 4) & (places < (quarter + 1) * tokens / 4))
            assert share == pytest.approx(0.25, abs=0.08) or len(windows) < 16


def test_a_budget_below_one_window_is_one_window():
    assert len(Windows(counted(1000), 64, tokens=1)) == 1


@pytest.mark.parametrize("stride", [None, 10])
@pytest.mark.parametrize("budget", [None, 400])
def test_pieces_are_what_each_window_has_of_each_document(stride, budget):
    """Against a loop over all targets; there are empty documents, long ones, and ends at borders of windows."""
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 12, size=1000)
    ids[[63, 64, 65, 128]] = END
    ids[300:700] = 5
    windows = Windows(split(ids), 32, END, stride, budget)
    _, targets, pieces = all_rows(windows)
    found = {}
    for window, row in enumerate(targets.numpy()):
        for column in np.flatnonzero(row != IGNORE_INDEX):
            place = windows.begins[window] + column + 1
            assert row[column] == ids[place]
            document = int((ids[:place] == END).sum())
            found.setdefault((window, document), []).append((int(pieces[window, column]), place))
    assert windows.documents.tolist() == [document for _, document in sorted(found)]
    assert windows.starts.tolist() == [found[key][0][1] for key in sorted(found)]
    for number, key in enumerate(sorted(found)):
        assert {piece for piece, _ in found[key]} == {number}


def test_without_ends_of_documents_all_is_one():
    windows = Windows(split(np.zeros(500, dtype=int)), 32)
    assert set(windows.documents) == {0}
    assert len(windows.documents) == len(windows)
