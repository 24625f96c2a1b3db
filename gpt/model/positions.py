"""How a model learns where a token stands, by name.

A scheme is a small class with three hooks: on embeddings, on queries and keys, on scores. To add one, override the
hooks that it needs and enter it in POSITIONS: a setting's choices follow, and its docstring (config.py) is --help's.

Letters in shapes: B sequences, T positions, S positions of keys, C width, H heads, D head width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gpt.errors import require

BASE = 10_000.0  # of the geometric sequence of wavelengths, as in the paper

CosSin = tuple[Tensor, Tensor]
ScoreHook = Callable[[Tensor, Tensor], Tensor]


class PositionHooks:
    """What a scheme may do, and by default does not. A scheme is an nn.Module as well.

    `where` is what `prepare` made of the positions, (T,) if they are the same in all sequences, else (B, T).
    """

    on_scores: ScoreHook | None = None
    """Give what is added to the scaled scores of queries at (T,) or (B, T) with keys at (S,) or (B, 1, S): (H, T, S)
    or (B, H, T, S); what it gives for keys that are not seen is ignored. None costs nothing."""

    @staticmethod
    def check(n_embd: int, n_head: int) -> None:
        """Raise InputError if the scheme cannot do with these widths."""

    def prepare(self, positions: Tensor) -> Any:
        """Compute what the hooks take as `where`, once for all layers."""
        return positions

    def on_embeddings(self, x: Tensor, where: Any) -> Tensor:
        """Change the embeddings of tokens, (B, T, C) → (B, T, C)."""
        return x

    def on_query_key(self, query: Tensor, key: Tensor, where: Any) -> tuple[Tensor, Tensor]:
        """Change the queries and keys of a layer, (B, H, T, D) and (B, K, T, D) → the same."""
        return query, key


class Learned(PositionHooks, nn.Embedding):
    """A learned vector per position, added to the token's (GPT-2)."""

    def __init__(self, n_embd: int, n_head: int, context_length: int) -> None:
        super().__init__(context_length, n_embd)

    def on_embeddings(self, x: Tensor, where: Any) -> Tensor:
        """Add the vectors."""
        return x + self(where)


class Rotary(PositionHooks, nn.Module):
    """RoPE: queries and keys turned by angles that grow with the position (Su et al. 2021, section 3.4.2)."""

    def __init__(self, n_embd: int, n_head: int, context_length: int) -> None:
        super().__init__()
        self.head_dim = n_embd // n_head

    @staticmethod
    def check(n_embd: int, n_head: int) -> None:
        """Raise InputError if a head's width is odd, as values are turned in pairs."""
        require(n_embd // n_head % 2 == 0, "`model.n_embd`", n_embd, f"{n_head} heads of an even width each")

    def prepare(self, positions: Tensor) -> CosSin:
        """Compute the cosines and sines."""
        return rotary_cos_sin(positions, self.head_dim)

    def on_query_key(self, query: Tensor, key: Tensor, where: Any) -> tuple[Tensor, Tensor]:
        """Turn both."""
        return apply_rotary_emb(query, where), apply_rotary_emb(key, where)


def rotary_cos_sin(positions: Tensor, head_dim: int) -> CosSin:
    """Compute cos and sin of the angles p·BASE^(−2i/D), float32: (T,) → (T, D/2) each, or (B, T) → (B, 1, T, D/2)."""
    frequencies = BASE ** (-torch.arange(0, head_dim, 2, device=positions.device) / head_dim)  # (D/2,)
    angles = positions.float().unsqueeze(-1) * frequencies  # (..., T, D/2)
    if positions.dim() == 2:
        angles = angles.unsqueeze(1)  # (B, 1, T, D/2), the same for all heads
    return angles.cos(), angles.sin()


def apply_rotary_emb(x: Tensor, cos_sin: CosSin) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) of (..., T, D) by its position's angle.

    The product of two such vectors then depends on the distance of their positions alone.
    """
    cosine, sine = (part.to(x.dtype) for part in cos_sin)
    first, second = x.chunk(2, dim=-1)  # (..., T, D/2) each
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)  # (..., T, D)


POSITIONS: dict[str, type[Learned | Rotary]] = {"learned": Learned, "rope": Rotary}
