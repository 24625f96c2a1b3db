import math

import pytest
import torch

from gpt import ModelConfig
from gpt.model.attention import CausalSelfAttention, attend, causal_mask


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


@pytest.mark.parametrize(("T", "past"), [(1, 0), (7, 0), (64, 0), (1, 9), (5, 9), (64, 64)])
def test_attention_is_the_formula(T, past):
    query, key, value = random_heads(T, past + T, past + T)
    torch.testing.assert_close(attend(query, key, value, past), attend_by_formula(query, key, value))


@pytest.mark.parametrize("sliding_window", [1, 3, 16, 100])
@pytest.mark.parametrize(("T", "past"), [(1, 0), (33, 0), (1, 9), (1, 40), (5, 9), (20, 30)])
def test_attention_with_a_window_is_the_formula(T, past, sliding_window):
    query, key, value = random_heads(T, past + T, past + T)
    expected = attend_by_formula(query, key, value, sliding_window)
    torch.testing.assert_close(attend(query, key, value, past, sliding_window), expected)


@pytest.mark.parametrize("sliding_window", [None, 4])
@pytest.mark.parametrize(("T", "past"), [(1, 9), (9, 0), (5, 9)])
def test_shared_keys_and_values_serve_neighbouring_heads(T, past, sliding_window):
    """Against as many separate attentions: heads 0 and 1 read the first keys, 2 and 3 the second."""
    (query,) = random_heads(T, H=4)
    key, value = random_heads(past + T, past + T, H=2)
    heads = [(query[:, h : h + 1], key[:, h // 2, None], value[:, h // 2, None]) for h in range(4)]
    expected = [attend_by_formula(*head, sliding_window) for head in heads]
    torch.testing.assert_close(attend(query, key, value, past, sliding_window), torch.cat(expected, dim=1))


def test_a_window_hides_what_is_older():
    assert causal_mask(3, 5, "cpu", sliding_window=2).int().tolist() == [
        [0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1],
    ]


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
    attention = CausalSelfAttention(ModelConfig(n_layer=1, n_head=2, n_embd=16, context_length=8), 0)
    x = torch.randn(1, 8, 16)
    changed = x.clone()
    changed[:, 5:] += 1
    before, after = attention(x), attention(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])
