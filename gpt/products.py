"""Products of float32 matrices by oneDNN, where torch would ask MKL: rounded on some processors, on others not.

With AMX, oneDNN rounds what it multiplies to bfloat16, and adds up in float32: it does so inside a product, so that
nothing else is bfloat16, ever. Elsewhere it multiplies float32. The setting is torch's, for the whole process.
"""

import contextlib
import threading
from collections.abc import Generator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt.errors import InputError

PRODUCTS = torch.backends.mkldnn.matmul  # ty: ignore[missing-attribute]
ONEDNN, MKL = "bf16", "ieee"  # values of its fp32_precision, by whom they have matrices multiplied
_LOCK, _BEFORE = threading.Lock(), list[str]()  # what the setting was where each user of onednn_products came in


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
    """Have oneDNN multiply in this context, forward and backward, all but what `attend_by_mkl` does.

    Where several threads do so, the first one's setting comes back when the last one leaves.
    """
    with _LOCK:
        _BEFORE.append(PRODUCTS.fp32_precision)
        PRODUCTS.fp32_precision = ONEDNN
    try:
        yield
    finally:
        with _LOCK:
            before = _BEFORE.pop()
            if not _BEFORE:
                PRODUCTS.fp32_precision = before


@contextlib.contextmanager
def _precision(precision: str) -> Generator[None]:
    """Multiply in a precision of oneDNN's; torch.set_float32_matmul_precision would change CUDA's as well."""
    before = PRODUCTS.fp32_precision
    try:
        PRODUCTS.fp32_precision = precision
        yield
    finally:
        PRODUCTS.fp32_precision = before


def attend_by_mkl(query: Tensor, key: Tensor, value: Tensor, *others: Any, **named: Any) -> Tensor:
    """Compute torch's scaled_dot_product_attention without oneDNN, in both passes.

    The fused kernel asks for one small product after the other, for each head and block, and to ask oneDNN takes longer
    than to multiply: with AMX 8 times as long for heads of 64 x 32, and as long for those of 1,024 x 64.
    """
    before: list[str] = []
    with _precision(MKL):
        parts = _LastOfBackward.apply(before, query, key, value)
        return _FirstOfBackward.apply(before, F.scaled_dot_product_attention(*parts, *others, **named))


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
