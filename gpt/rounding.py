"""Products of float32 matrices by processors that round what they multiply: to bfloat16, added up in float32.

oneDNN does it inside a product, so that nothing else is bfloat16, ever. The setting is torch's, for the whole process.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gpt.errors import InputError

PRODUCTS = torch.backends.mkldnn.matmul  # ty: ignore[missing-attribute]
ROUNDED, EXACT = "bf16", "ieee"  # values of its fp32_precision


def require_rounding(device: str) -> None:
    """Raise InputError where products would not be rounded, and so be no faster."""
    if device != "cpu":
        raise InputError(
            f"`float32_matmul_precision` medium: is for a CPU, and this is {device}: use highest, and for speed "
            "another `dtype`"
        )
    if not rounds():
        raise InputError(
            "`float32_matmul_precision` medium: would change nothing here; oneDNN rounds what it multiplies on "
            "processors with AMX (amx_bf16 in /proc/cpuinfo), unless ONEDNN_MAX_CPU_ISA forbids that: use highest"
        )


@cache
def rounds() -> bool:
    """Tell whether this processor's oneDNN does round, by a product.

    torch.ops.mkldnn._is_mkldnn_bf16_supported is true for every AVX-512; but oneDNN 3.12 then takes the setting and
    multiplies float32 all the same, also where there is AVX512_BF16. Only for AMX does it round.
    """
    fine = torch.full((64, 64), 1 + 2**-12, dtype=torch.float32, device="cpu")  # in bfloat16, 1
    with _precision(ROUNDED):
        return bool((fine @ fine == 64).all())


@contextlib.contextmanager
def rounded_products() -> Generator[None]:
    """Round in this context, forward and backward, all that is multiplied but attention; then all is as before."""
    with _precision(ROUNDED), _ExactAttention():
        yield


@contextlib.contextmanager
def _precision(precision: str) -> Generator[None]:
    """Multiply in a precision of oneDNN's; torch.set_float32_matmul_precision would change CUDA's as well."""
    before = PRODUCTS.fp32_precision
    try:
        PRODUCTS.fp32_precision = precision
        yield
    finally:
        PRODUCTS.fp32_precision = before


class _ExactAttention(TorchFunctionMode):
    """Keeps attention in float32, in both passes.

    Its fused kernel asks oneDNN for one small product after the other, for each head and block, and to ask takes longer
    than to multiply: rounded, it took 8 times as long for heads of 64 x 32, and as long for those of 1,024 x 64.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        before: list[str] = []
        query, key, value, *others = args
        with _precision(EXACT):
            parts = _LastOfBackward.apply(before, query, key, value)
            return _FirstOfBackward.apply(before, func(*parts, *others, **(kwargs or {})))


class _FirstOfBackward(torch.autograd.Function):
    """Passes attention's output on; in the backward pass, which comes by here first, it no longer rounds."""

    @staticmethod
    def forward(ctx: Any, before: list[str], output: Tensor) -> Tensor:
        ctx.before = before
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # ty: ignore[incompatible-method-override]
        ctx.before.append(PRODUCTS.fp32_precision)
        PRODUCTS.fp32_precision = EXACT
        return None, gradient


class _LastOfBackward(torch.autograd.Function):
    """Passes query, key and value on; in the backward pass, which leaves attention here, it rounds as before."""

    @staticmethod
    def forward(ctx: Any, before: list[str], *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.before = before
        passed = tuple(part.view_as(part) for part in parts)
        learned = ctx.needs_input_grad[1:]
        ctx.mark_non_differentiable(*(part for part, wanted in zip(passed, learned, strict=True) if not wanted))
        return passed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.before:
            PRODUCTS.fp32_precision = ctx.before.pop()
        return None, *gradients
