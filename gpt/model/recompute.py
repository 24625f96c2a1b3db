"""An MLP's second half that keeps less for the backward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt.choices import Activation


def activate(x: Tensor, kind: Activation) -> Tensor:
    """GELU by tanh (Hendrycks and Gimpel 2016), or max(0, x)² (So et al. 2021, "Primer", section 4.1)."""
    return F.relu(x).square() if kind == "relu-squared" else F.gelu(x, approximate="tanh")


class ActivatedLinear(torch.autograd.Function):
    """linear(activate(x)), (..., F) → (..., C), which keeps x alone and activates it again in the backward pass.

    What is kept is half as large, and what is computed twice is no matrix product.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kind: Activation) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kind, ctx.has_bias = kind, bias is not None
        return F.linear(activate(x, kind), weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # ty: ignore[incompatible-method-override]
        x, weight = ctx.saved_tensors
        inner = gradient @ weight.to(gradient.dtype)  # of the activated x
        if ctx.kind == "relu-squared":
            x_gradient = inner * (2 * F.relu(x))
        else:
            x_gradient = torch.ops.aten.gelu_backward(inner, x, approximate="tanh")
        rows = gradient.flatten(0, -2)
        weight_gradient = rows.t() @ activate(x, ctx.kind).flatten(0, -2)
        return x_gradient, weight_gradient, rows.sum(0) if ctx.has_bias else None, None
