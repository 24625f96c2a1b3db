"""Where a token stands, told to attention by turning queries and keys (RoPE: Su et al. 2021, section 3.4.2).

Letters in shapes: B sequences, T positions, D head width.
"""

import torch
from torch import Tensor

BASE = 10_000.0  # of the geometric sequence of wavelengths, as in the paper

CosSin = tuple[Tensor, Tensor]


def rotary_cos_sin(positions: Tensor, head_dim: int) -> CosSin:
    """Cosines and sines of the angles p·BASE^(−2i/D), float32: (T,) → (T, D/2) each, or (B, T) → (B, 1, T, D/2)."""
    frequencies = BASE ** (-torch.arange(0, head_dim, 2, device=positions.device) / head_dim)  # (D/2,)
    angles = positions.float().unsqueeze(-1) * frequencies
    if positions.dim() == 2:
        angles = angles.unsqueeze(1)  # alike for all heads
    return angles.cos(), angles.sin()


def apply_rotary_emb(x: Tensor, cos_sin: CosSin) -> Tensor:
    """Each pair (xᵢ, xᵢ₊D/₂) of (..., T, D) turned by its position's angle; a product of two such then depends on the
    distance of their positions alone."""
    cosine, sine = (part.to(x.dtype) for part in cos_sin)
    first, second = x.chunk(2, dim=-1)  # (..., T, D/2) each
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
