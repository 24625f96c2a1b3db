"""Causal multi-head self-attention, and the cache of keys and values that decoding needs.

Letters in shapes: B sequences, T new positions, S positions in all, C width, H heads, D head width, K heads of keys
and values (as many as H, unless they are shared).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt.config import ModelConfig
from gpt.model.positions import Rotation, rotate


class KVCache:
    """Keys and values of the positions read so far, for every block; memory for the whole context is taken once.

    `keys` and `values` are (L, B, K, context, D), `ids` (B, context); the first `length` positions are filled.
    """

    def __init__(
        self, config: ModelConfig, batch: int, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> None:
        heads = config.key_value_heads or config.n_head
        shape = (config.n_layer, batch, heads, config.context, config.head_width)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.ids = torch.zeros(batch, config.context, device=device, dtype=torch.int64)
        self.length = 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, K, T, D) after the filled positions; returns all of them, (B, K, S, D) each.

        The length moves on only when `advance` is called, after the last block.
        """
        end = self.length + key.size(2)
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, ids: Tensor) -> None:
        """Count the positions of (B, T) ids as filled."""
        self.ids[:, self.length : self.length + ids.size(1)] = ids
        self.length += ids.size(1)

    def repeat(self, batch: int) -> "KVCache":
        """The cache of `batch` equal sequences, from a cache of one."""
        copy = object.__new__(KVCache)
        copy.keys = self.keys.repeat(1, batch, 1, 1, 1)
        copy.values = self.values.repeat(1, batch, 1, 1, 1)
        copy.ids = self.ids.repeat(batch, 1)
        copy.length = self.length
        return copy


class CausalSelfAttention(nn.Module):
    """Each position attends to itself and the positions before it (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.widths = [config.width, config.key_value_width, config.key_value_width]  # of queries, keys, values
        self.query_key_norm, self.epsilon = config.query_key_norm, config.layer_norm_epsilon
        self.window = config.window_of(layer)
        self.dropout = config.dropout
        self.layer = layer
        self.qkv = nn.Linear(config.width, sum(self.widths), bias=config.bias)
        self.projection = nn.Linear(config.width, config.width, bias=config.bias)
        self.residual_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, turn: Rotation | None = None, cache: KVCache | None = None) -> Tensor:
        """(B, T, C) → (B, T, C); `turn` rotates queries and keys."""
        B, T, C = x.shape
        query, key, value = (
            part.view(B, T, -1, self.head_width).transpose(1, 2) for part in self.qkv(x).split(self.widths, dim=-1)
        )  # (B, H, T, D), and (B, K, T, D) twice
        if self.query_key_norm:
            query, key = (F.rms_norm(part, (self.head_width,), eps=self.epsilon) for part in (query, key))
        if turn is not None:
            query, key = rotate(query, turn), rotate(key, turn)
        past = 0
        if cache is not None:
            past = cache.length
            key, value = cache.append(self.layer, key, value)  # (B, K, S, D)
        y = attend(query, key, value, past, self.window, self.dropout if self.training else 0.0)  # (B, H, T, D)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.residual_dropout(self.projection(y))


def attend(
    query: Tensor, key: Tensor, value: Tensor, past: int, window: int | None = None, dropout: float = 0.0
) -> Tensor:
    """Causal scaled dot-product attention of T queries that come after `past` cached positions.

    query (B, H, T, D), key and value (B, K, past + T, D) → (B, H, T, D). Of K < H, each serves H / K queries.
    With a window, a query sees that many of the newest positions, its own included.
    """
    T, shared = query.size(2), query.size(1) // key.size(1)
    if window is not None and T == 1:
        key, value = key[:, :, -window:], value[:, :, -window:]
    if shared > 1:
        key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))
    S = key.size(2)
    slides = window is not None and window < S
    if past == 0 and not slides:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
    # A single new position may see all that is left. Several need a mask aligned to the end of the keys, which
    # is_causal does not give.
    mask = None if T == 1 else causal_mask(T, S, query.device, window if slides else None)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def causal_mask(T: int, S: int, device: torch.device | str, window: int | None = None) -> Tensor:
    """(T, S) booleans, true where query t, which stands at position S − T + t, may see key s."""
    mask = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
    return mask if window is None else mask.triu(S - T - window + 1)
