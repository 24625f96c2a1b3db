"""Products of float32 matrices by oneDNN, where torch would ask MKL: rounded on some processors, on others not.

With AMX, oneDNN rounds what it multiplies to bfloat16, and adds up in float32: it does so inside a product, so that
nothing else is bfloat16, ever. Elsewhere it multiplies float32. The setting is torch's, for the whole process.
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
ONEDNN, MKL = "bf16", "ieee"  # values of its fp32_precision, by whom they have matrices multiplied


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
    with _precision(ONEDNN):
        return bool((fine @ fine == 64).all())


@contextlib.contextmanager
def onednn_products() -> Generator[None]:
    """Have oneDNN multiply in this context, forward and backward, all but attention; then all is as before."""
    with _precision(ONEDNN), _AttentionByMKL():
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


class _AttentionByMKL(TorchFunctionMode):
    """Keeps attention from oneDNN, in both passes.

    Its fused kernel asks for one small product after the other, for each head and block, and to ask oneDNN takes longer
    than to multiply: rounded, it took 8 times as long for heads of 64 x 32, and as long for those of 1,024 x 64.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        before: list[str] = []
        query, key, value, *others = args
        with _precision(MKL):
            parts = _LastOfBackward.apply(before, query, key, value)
            return _FirstOfBackward.apply(before, func(*parts, *others, **(kwargs or {})))


class _FirstOfBackward(torch.autograd.Function):
    """Passes attention's output on; the backward pass, which comes by here first, goes on without oneDNN."""

    @staticmethod
    def forward(ctx: Any, before: list[str], output: Tensor) -> Tensor:
        ctx.before = before
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # ty: ignore[incompatible-method-override]
        ctx.before.append(PRODUCTS.fp32_precision)
        PRODUCTS.fp32_precision = MKL
        return None, gradient


class _LastOfBackward(torch.autograd.Function):
    """Passes query, key and value on; the backward pass, which leaves attention here, goes on as before it."""

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
