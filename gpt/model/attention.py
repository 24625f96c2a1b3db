"""Causal multi-head self-attention, and the cache of keys and values that decoding needs.

Letters in shapes: B sequences, T new positions, S positions in all, C width, H heads, D head width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt.config import ModelConfig


class KVCache:
    """Keys and values of the positions read so far, for every block; memory for the whole context is taken once.

    `keys` and `values` are (L, B, H, context, D); the first `length` positions are filled.
    """

    def __init__(
        self, config: ModelConfig, batch: int, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> None:
        shape = (config.n_layer, batch, config.n_head, config.context, config.head_width)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, H, T, D) after the filled positions; returns all of them, (B, H, S, D) each.

        The length moves on only when `advance` is called, after the last block.
        """
        end = self.length + key.size(2)
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, positions: int) -> None:
        self.length += positions

    def repeat(self, batch: int) -> "KVCache":
        """The cache of `batch` equal sequences, from a cache of one."""
        copy = object.__new__(KVCache)
        copy.keys = self.keys.repeat(1, batch, 1, 1, 1)
        copy.values = self.values.repeat(1, batch, 1, 1, 1)
        copy.length = self.length
        return copy


class CausalSelfAttention(nn.Module):
    """Each position attends to itself and the positions before it (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.layer = layer
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.projection = nn.Linear(config.width, config.width)
        self.residual_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        B, T, C = x.shape
        query, key, value = (
            self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        )  # (B, H, T, D) each
        past = 0
        if cache is not None:
            past = cache.length
            key, value = cache.append(self.layer, key, value)  # (B, H, S, D)
        y = attend(query, key, value, past, self.dropout if self.training else 0.0)  # (B, H, T, D)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.residual_dropout(self.projection(y))


def attend(query: Tensor, key: Tensor, value: Tensor, past: int, dropout: float = 0.0) -> Tensor:
    """Causal scaled dot-product attention of T queries that come after `past` cached positions.

    query (B, H, T, D), key and value (B, H, past + T, D) → (B, H, T, D).
    """
    T = query.size(2)
    if past == 0:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
    # A single new position may see everything. Several need a mask aligned to the end of the keys, which
    # is_causal does not give.
    mask = None if T == 1 else causal_mask(T, past + T, query.device)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def causal_mask(T: int, S: int, device: torch.device | str) -> Tensor:
    """(T, S) booleans, true where query t, which stands at position S − T + t, may see key s."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def attend_by_formula(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q·Kᵀ/√D + mask)·V, spelled out: the reference that the tests hold `attend` against."""
    T, S, D = query.size(2), key.size(2), query.size(3)
    scores = query @ key.transpose(-2, -1) / math.sqrt(D)  # (B, H, T, S)
    scores = scores.masked_fill(~causal_mask(T, S, query.device), -math.inf)
    return scores.softmax(dim=-1) @ value
