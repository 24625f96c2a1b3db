"""Normalization over the width, by name.

To add one, write a function that builds it and enter it in NORMS: a setting's choices and --help follow.

Letters in shapes: C width.
"""

from collections.abc import Callable

from torch import nn


def layer_norm(n_embd: int, eps: float, bias: bool) -> nn.Module:
    """Build LayerNorm (Ba et al. 2016), (..., C) → (..., C)."""
    return nn.LayerNorm(n_embd, eps=eps, bias=bias)


def rms_norm(n_embd: int, eps: float, bias: bool) -> nn.Module:
    """Build RMSNorm (Zhang and Sennrich 2019), (..., C) → (..., C): no mean, and never a bias."""
    return nn.RMSNorm(n_embd, eps=eps)


NORMS: dict[str, Callable[[int, float, bool], nn.Module]] = {"layer": layer_norm, "rms": rms_norm}
