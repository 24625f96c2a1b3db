import inspect
import math
import re
from pathlib import Path

import pytest
import torch
from helpers import ROOT, variant
from torch.nn import functional as F

from gpt.model.attention import CausalSelfAttention, Segment, attend, causal_mask, visible
from gpt.model.positions import PositionHooks


def attend_by_formula(query, key, value, sliding_window=None):
    """softmax(Q·Kᵀ/√D + mask)·V (Vaswani et al. 2017, equation 1), for heads of keys that serve several of queries."""
    T, S, D = query.size(2), key.size(2), query.size(3)
    key, value = (part.repeat_interleave(query.size(1) // key.size(1), dim=1) for part in (key, value))
    visible = torch.ones(T, S).tril(S - T).triu(S - T + 1 - (sliding_window or S))
    scores = query @ key.transpose(-2, -1) / math.sqrt(D)  # (B, H, T, S)
    scores = scores.masked_fill(visible == 0, -math.inf)
    return scores.softmax(dim=-1) @ value


def random_heads(*lengths, B=2, H=3, D=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, H, length, D, generator=generator, dtype=dtype) for length in lengths]


def attend_all(query, key, value, sliding_window=None):
    """Of queries that stand at the last positions of the keys."""
    mask = causal_mask(query.size(2), key.size(2), sliding_window, "cpu")
    return attend(query, [Segment(key, value, mask, key.size(2) - query.size(2))])


@pytest.mark.parametrize(("T", "past"), [(1, 0), (7, 0), (64, 0), (1, 9), (5, 9), (64, 64)])
def test_attention_is_the_formula(T, past):
    query, key, value = random_heads(T, past + T, past + T)
    torch.testing.assert_close(attend_all(query, key, value), attend_by_formula(query, key, value))


@pytest.mark.parametrize("sliding_window", [1, 3, 16, 100])
@pytest.mark.parametrize(("T", "past"), [(1, 0), (33, 0), (1, 9), (1, 40), (5, 9), (20, 30)])
def test_attention_with_a_window_is_the_formula(T, past, sliding_window):
    query, key, value = random_heads(T, past + T, past + T)
    expected = attend_by_formula(query, key, value, sliding_window)
    torch.testing.assert_close(attend_all(query, key, value, sliding_window), expected)


@pytest.mark.parametrize("sliding_window", [None, 4])
@pytest.mark.parametrize(("T", "past"), [(1, 9), (9, 0), (5, 9)])
def test_shared_keys_and_values_serve_neighboring_heads(T, past, sliding_window):
    """Against as many separate attentions: heads 0 and 1 read the first keys, 2 and 3 the second."""
    (query,) = random_heads(T, H=4)
    key, value = random_heads(past + T, past + T, H=2)
    heads = [(query[:, h : h + 1], key[:, h // 2, None], value[:, h // 2, None]) for h in range(4)]
    expected = [attend_by_formula(*head, sliding_window) for head in heads]
    torch.testing.assert_close(attend_all(query, key, value, sliding_window), torch.cat(expected, dim=1))


def test_a_window_hides_what_is_older():
    assert causal_mask(3, 5, 2, "cpu").int().tolist() == [
        [0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert visible(3, torch.arange(2, 6)).int().tolist() == [1, 1, 0, 0]


def test_a_full_pass_has_no_mask_but_the_kernels_own():
    """So that the fused causal kernel computes it; with a window that hides something there is none for it."""
    assert causal_mask(5, 5, None, "cpu") is None
    assert causal_mask(5, 5, 5, "cpu") is None
    assert causal_mask(5, 5, 4, "cpu") is not None
    assert causal_mask(1, 2, None, "cpu") is not None


def test_rows_of_segments_follow_each_other():
    """Of different lengths and masks, one of them of a single query that is computed by plain products."""
    query, key, value = random_heads(1, 20, 20, B=6, H=4)
    lengths, seen = [1, 2, 3], torch.rand(3, 1, 1, 20, generator=torch.Generator().manual_seed(1)) < 0.5
    seen[..., 4] = True
    hidden = torch.zeros(16, dtype=torch.float64)
    hidden[11:] = -math.inf
    masks = [hidden, None, seen]
    spans = [slice(0, 16), slice(0, 1), slice(0, 20)]
    rows = zip(key.split(lengths), value.split(lengths), masks, spans, strict=True)
    y = attend(query, [Segment(k[:, :2, span], v[:, :2, span], mask) for k, v, mask, span in rows])
    shown = torch.zeros(6, 1, 1, 20, dtype=torch.bool)
    shown[0, ..., :11], shown[1:3, ..., :1], shown[3:] = True, True, seen
    key, value = (part[:, :2].repeat_interleave(2, dim=1) for part in (key, value))
    scores = (query @ key.transpose(-2, -1) / math.sqrt(8)).masked_fill(~shown, -math.inf)
    torch.testing.assert_close(y, scores.softmax(dim=-1) @ value)


def test_scores_become_weights_in_one_place():
    found = {
        path.name
        for path in ROOT.glob("gpt/model/**/*.py")
        if re.search(r"scaled_dot_product|(?<!log_)softmax\(", path.read_text(encoding="utf-8"))
    }
    assert found == {"attention.py"}


@pytest.mark.parametrize("recompute", ["none", "activations"])
def test_the_way_to_the_product_is_five_functions(monkeypatch, recompute):
    ways = []

    def look(query, *_, **__):
        frames = [frame for frame in inspect.stack()[1:] if Path(frame.filename).is_relative_to(ROOT / "gpt")]
        ways.append([frame.function for frame in reversed(frames)])
        return query

    monkeypatch.setattr(F, "scaled_dot_product_attention", look)
    model = variant("modern")
    model.set_recompute(recompute)
    model(torch.zeros(1, 4, dtype=torch.int64))
    assert ways == 2 * [["forward", "hidden_states", "forward", "forward", "attend"]]


def test_the_formula_is_that_of_vaswani():
    """Written out with loops over positions, as an independent check of the reference itself."""
    query, key, value = (x[0, 0] for x in random_heads(4, 6, 6))
    for t in range(4):
        scores = torch.stack([query[t] @ key[s] / 8**0.5 for s in range(2 + t + 1)])
        weights = scores.exp() / scores.exp().sum()
        expected = sum(weights[s] * value[s] for s in range(2 + t + 1))
        result = attend_by_formula(*(x[None, None] for x in (query, key, value)))[0, 0, t]
        torch.testing.assert_close(result, expected)


def test_the_future_is_not_seen():
    torch.manual_seed(0)
    attention = CausalSelfAttention(0, n_embd=16, n_head=2, n_kv_head=2)
    x = torch.randn(1, 8, 16)
    changed = x.clone()
    changed[:, 5:] += 1
    before, after = (attention(y, PositionHooks(), torch.arange(8)) for y in (x, changed))
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])
