"""Causal multi-head self-attention: the only room in which scores become weights.

Whatever is attended to comes as segments: keys and values, and which of them each query sees. A full pass is one
segment, a cache hands out as many as it has groups of sequences (cache.py); `attend` does not know which it is.

To add another mixer of positions, write a class with CausalSelfAttention's arguments, `out_proj` and methods, and enter
it in MIXERS; where values have embeddings (values.py), its `forward` gets them last. Its own parameters are to be
multiplied by linear layers: fsdp gathers them in training's dtype.

Letters in shapes: B sequences, T new positions, S positions of keys, C width, H heads, D head width, K heads of keys
and values (as many as H, unless they are shared).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn import functional as F

from gpt.model.positions import PositionHooks, ScoreHook
from gpt.products import ONEDNN, PRODUCTS, attend_by_mkl


class Segment(NamedTuple):
    """What some rows of queries attend to."""

    keys: Tensor
    """(B, K, S, D)."""
    values: Tensor
    """(B, K, S, D)."""
    mask: Tensor | None = None
    """None: query t sees keys 0 … t. Booleans, (T, S) or (B, 1, T, S): true for what is seen. Numbers, (S,) for one
    query per row, or (B, 1, T, S): added to the scores, 0 for what is seen and −∞ for the rest."""
    past: int | Tensor = 0
    """Position of the first query, (B, 1) where rows differ."""
    start: int = 0
    """Position of the first key."""
    at: Tensor | None = None
    """Positions of queries and keys alike, (B, T), where they do not just count up from `past` and `start`."""


class Cache(Protocol):
    """What a model asks of a cache: where new tokens stand, and what they attend to."""

    def positions(self, T: int) -> Tensor:
        """Give where T new tokens of each sequence stand, (B, T) int64. Raises InputError if there is no room."""

    def ids_before(self, reach: int) -> Tensor:
        """Give the last ids read, (B, reach), NO_TOKEN where there are none."""

    def append(self, layer: int, key: Tensor, value: Tensor, sliding_window: int | None) -> list[Segment]:
        """Store a layer's keys and values (B, K, T, D) behind the others, and give all that the new queries attend to.

        The segments' rows follow each other as the sequences do.
        """

    def advance(self, ids: Tensor) -> None:
        """Count the positions of (B, T) ids as read, after the last block."""


class CausalSelfAttention(nn.Module):
    """Each position attends to itself and the positions before it (Vaswani et al. 2017, section 3.2)."""

    def __init__(
        self,
        layer: int,
        n_embd: int,
        n_head: int,
        n_kv_head: int,
        bias: bool = True,
        dropout: float = 0.0,
        qk_norm: bool = False,
        eps: float = 1e-5,
        sliding_window: int | None = None,
        scale: float = 1.0,
    ) -> None:
        """Make one whose scores are multiplied by `scale`, beside 1/√D."""
        super().__init__()
        self.heads = [n_head, n_kv_head, n_kv_head]  # of queries, keys, values
        self.layer, self.head_dim = layer, n_embd // n_head
        self.qk_norm, self.eps = qk_norm, eps
        self.sliding_window, self.dropout, self.scale = sliding_window, dropout, scale
        self.qkv = nn.Linear(n_embd, sum(self.heads) * self.head_dim, bias=bias)
        self.out_proj = nn.Linear(n_embd, n_embd, bias=bias)
        self.residual_dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        scheme: PositionHooks,
        where: Any,
        cache: Cache | None = None,
        value_embedding: Tensor | None = None,
    ) -> Tensor:
        """Map (B, T, C) → (B, T, C), at positions that `scheme` prepared as `where`; (B, T, K·D) is added to values."""
        B, T, C = x.shape
        heads = self.qkv(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, H + 2·K, T, D)
        query, key, value = heads.split(self.heads, dim=1)  # (B, H, T, D), and (B, K, T, D) twice
        if self.qk_norm:
            query, key = (F.rms_norm(part, (self.head_dim,), eps=self.eps) for part in (query, key))
        query, key = scheme.on_query_key(query, key, where)
        if value_embedding is not None:
            value = value + value_embedding.to(value.dtype).view(B, T, -1, self.head_dim).transpose(1, 2)
        if cache is None:
            segments = [Segment(key, value, causal_mask(T, T, self.sliding_window, x.device))]
        else:
            segments = cache.append(self.layer, key, value, self.sliding_window)
        # (B, H, T, D)
        y = attend(query, segments, scheme.on_scores, self.dropout if self.training else 0.0, self.scale)
        return self.residual_dropout(self.out_proj(y.transpose(1, 2).reshape(B, T, C)))  # (B, T, C)

    def muon_parameters(self) -> Iterator[tuple[Tensor, list[int]]]:
        """Yield each weight with the rows of the matrices that it stacks."""
        yield self.qkv.weight, [heads * self.head_dim for heads in self.heads]
        yield self.out_proj.weight, [self.out_proj.out_features]


MIXERS = {"attention": CausalSelfAttention}


def attend(
    query: Tensor,
    segments: Sequence[Segment],
    on_scores: ScoreHook | None = None,
    dropout: float = 0.0,
    scale: float = 1.0,
) -> Tensor:
    """Compute scaled dot-product attention: (B, H, T, D) → (B, H, T, D), the queries' rows in the segments' order.

    Scores are multiplied by `scale`/√D. Of K < H keys and values, each serves H / K queries. A row of one query whose
    mask is (S,) has the same result, bit for bit, in any company, as long as all keys and values begin at a multiple of
    64 bytes: plain products give it, as fused kernels give threads parts that do not begin there.
    """
    queries = (query,) if len(segments) == 1 else query.split([segment.keys.size(0) for segment in segments])
    fused = F.scaled_dot_product_attention if is_compiling() or PRODUCTS.fp32_precision != ONEDNN else attend_by_mkl
    outputs, factor = [], scale * query.size(-1) ** -0.5
    for q, segment in zip(queries, segments, strict=True):
        keys, values, mask = segment.keys, segment.values, segment.mask
        (B, H, T, D), K = q.shape, keys.size(1)
        plain = mask is not None and mask.dim() == 1
        if on_scores is not None:
            mask = _with_bias(segment, on_scores, q)
        if plain and mask is not None:
            transposed = keys.flatten(0, 1).transpose(1, 2)  # (B·K, D, S)
            scores = torch.baddbmm(mask, q.reshape(B * K, H // K, D), transposed, alpha=factor)  # (B·K, H/K, S)
            outputs.append(torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1)).view(B, H, T, D))
        else:
            if K < H:
                keys, values = (part.repeat_interleave(H // K, dim=1) for part in (keys, values))  # (B, H, S, D)
            outputs.append(fused(q, keys, values, mask, dropout, mask is None, scale=factor))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _with_bias(segment: Segment, on_scores: ScoreHook, query: Tensor) -> Tensor:
    """Put a scheme's bias into a segment's mask: numbers, (B, H, T, S), or (B·K, H/K, S) where the mask is (S,)."""
    (B, H, T, _), (_, K, S, _), device = query.shape, segment.keys.shape, query.device
    if segment.at is None:
        queries_at = segment.past + torch.arange(T, device=device)  # (T,), or (B, T)
        keys_at = torch.arange(segment.start, segment.start + S, device=device)  # (S,)
    else:
        queries_at, keys_at = segment.at, segment.at.unsqueeze(1)  # (B, T), (B, 1, S)
    mask = visible(queries_at.unsqueeze(-1), keys_at) if segment.mask is None else segment.mask
    hidden = ~mask if mask.dtype == torch.bool else mask != 0
    bias = on_scores(queries_at, keys_at).to(query.dtype).masked_fill(hidden, -torch.inf).expand(B, H, T, S)
    return bias.reshape(B * K, H // K, S) if mask.dim() == 1 else bias


def visible(queries_at: Tensor | int, keys_at: Tensor, sliding_window: int | None = None) -> Tensor:
    """Say which keys a query sees: those at its own position and before, or only the newest `sliding_window` of them.

    Positions (..., 1) and (S,) → booleans (..., S).
    """
    seen = keys_at <= queries_at
    return seen if sliding_window is None else seen & (keys_at > queries_at - sliding_window)


def causal_mask(T: int, S: int, sliding_window: int | None, device: torch.device | str) -> Tensor | None:
    """Say what each of the last T of S positions sees: booleans (T, S), or None where the kernel knows it by itself."""
    if T == S and (sliding_window is None or sliding_window >= S):
        return None
    at = torch.arange(S, device=device)
    return visible(at[S - T :].unsqueeze(1), at, sliding_window)
