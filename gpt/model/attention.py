"""Causal multi-head self-attention.

Letters in shapes: B sequences, T new positions, S positions in all, C width, H heads, D head width, K heads of keys
and values (as many as H, unless they are shared).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt.model.config import ModelConfig
from gpt.model.positions import CosSin, apply_rotary_emb

if TYPE_CHECKING:
    from gpt.model.cache import Cache


class CausalSelfAttention(nn.Module):
    """Each position attends to itself and the positions before it (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.widths = [config.n_embd, config.kv_dim, config.kv_dim]  # of queries, keys, values
        self.heads = [n_embd // config.head_dim for n_embd in self.widths]
        self.qk_norm, self.epsilon = config.qk_norm, config.layer_norm_epsilon
        self.sliding_window = config.window_of(layer)
        self.dropout = config.dropout
        self.layer = layer
        self.qkv = nn.Linear(config.n_embd, sum(self.widths), bias=config.bias)
        self.out_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.residual_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cos_sin: CosSin | None = None, cache: "Cache | None" = None) -> Tensor:
        """(B, T, C) → (B, T, C); `cos_sin` rotates queries and keys."""
        B, T, C = x.shape
        heads = self.qkv(x).view(B, T, -1, self.head_dim).transpose(1, 2)
        query, key, value = heads.split(self.heads, dim=1)  # (B, H, T, D), and (B, K, T, D) twice
        if self.qk_norm:
            query, key = (F.rms_norm(part, (self.head_dim,), eps=self.epsilon) for part in (query, key))
        if cos_sin is not None:
            query, key = apply_rotary_emb(query, cos_sin), apply_rotary_emb(key, cos_sin)
        if cache is not None:
            y = cache.attend(self.layer, query, key, value, self.sliding_window)  # (B, H, T, D)
        else:
            y = attend(
                query, key, value, 0, self.sliding_window, self.dropout if self.training else 0.0
            )  # (B, H, T, D)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.residual_dropout(self.out_proj(y))


def attend(
    query: Tensor, key: Tensor, value: Tensor, past: int, sliding_window: int | None = None, dropout: float = 0.0
) -> Tensor:
    """Causal scaled dot-product attention of T queries that come after `past` cached positions.

    query (B, H, T, D), key and value (B, K, past + T, D) → (B, H, T, D).
    With a window, a query sees that many of the newest positions, its own included.
    """
    T, S = query.size(2), key.size(2)
    slides = sliding_window is not None and sliding_window < S
    if past == 0 and not slides:
        return dot_product(query, key, value, causal=True, dropout=dropout)
    # The mask is aligned to the end of the keys, which is_causal does not give.
    mask = causal_mask(T, S, query.device, sliding_window if slides else None)
    return dot_product(query, key, value, mask, dropout=dropout)


def dot_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """(B, H, T, D), (B, K, S, D) twice → (B, H, T, D). Of K < H keys and values, each serves H / K queries."""
    shared = query.size(1) // key.size(1)
    if shared > 1:
        key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, causal)


def attend_one(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention of one position: (B, H, 1, D), (B, K, S, D) twice → (B, H, 1, D).

    `mask` (S,) is 0 for the keys that are seen, −∞ for the others. Each sequence's result is the same, bit for bit, in
    any company, as long as all rows begin at a multiple of 64 bytes: fused kernels give threads parts that do not.
    """
    B, H, _, D = query.shape
    K = key.size(1)
    turned = key.flatten(0, 1).transpose(1, 2)  # (B·K, D, S)
    scores = torch.baddbmm(mask, query.reshape(B * K, H // K, D), turned, alpha=D**-0.5)  # (B·K, H/K, S)
    return torch.bmm(scores.softmax(dim=-1), value.flatten(0, 1)).view(B, H, 1, D)


def causal_mask(T: int, S: int, device: torch.device | str, sliding_window: int | None = None) -> Tensor:
    """(T, S) booleans, true where query t, which stands at position S − T + t, may see key s."""
    mask = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
    return mask if sliding_window is None else mask.triu(S - T - sliding_window + 1)
