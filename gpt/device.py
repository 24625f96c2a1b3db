"""Where to compute, in which precision, compiled or not, and how much memory there is."""

import contextlib
import ctypes
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Literal

import psutil
import torch
from torch import Tensor

from gpt.config import Device, Precision, Weights
from gpt.errors import InputError

ENOUGH_SECONDS, SMALLEST_PRODUCT, LARGEST_PRODUCT = 4e-3, 256, 8192  # of matrix products whose speed is measured
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
GLIBC_MAPS_FROM = 32 << 20  # bytes, where a process has freed such tensors before


def choose_device(wanted: Device) -> str:
    """'cuda', 'mps' or 'cpu'. Raises InputError if the wanted one is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, there in available.items() if there)
    if not available[wanted]:
        there = ", ".join(name for name, yes in available.items() if yes)
        raise InputError(
            f"--device {wanted}: this torch ({torch.__version__}) sees no such device here; use one of: auto, {there}"
        )
    return wanted


def choose_dtype(wanted: Precision, device: str) -> torch.dtype:
    """What forward and backward passes compute in."""
    if wanted == "auto":
        if device != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]


def choose_weights(wanted: Weights, device: str) -> torch.dtype:
    """What weights are held and multiplied in: auto is bfloat16 where the device is good at it."""
    if wanted == "auto":
        good = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if good else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}[wanted]


def autocast(device: str, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Matrix products in `dtype`, sums and norms in float32."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype)


def matrix_speed(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations per second of square matrix products in `dtype`: the best of several, measured now.

    The products grow until one takes some milliseconds; the smallest may also do so because other programs are busy.
    """
    best, size = 0.0, SMALLEST_PRODUCT
    while True:
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = math.inf
        for _ in range(5):
            synchronise(device)
            start = time.perf_counter()
            a @ b
            synchronise(device)
            seconds = min(seconds, time.perf_counter() - start)
        best = max(best, 2 * size**3 / seconds)
        if (seconds > ENOUGH_SECONDS and size > SMALLEST_PRODUCT) or size == LARGEST_PRODUCT:
            return best
        size *= 2


def synchronise(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def keep_freed_memory(device: str, keep: bool = True) -> None:
    """Have glibc, which gives large tensors back to the system and asks for them again at every step, keep them.

    Each time the system would fill them with zeros anew: a fifth of a small model's time. What is kept is in pieces,
    though, which makes the peak higher. Does nothing elsewhere.
    """
    if device == "cpu" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        if not (keep and libc.mallopt(M_MMAP_THRESHOLD, 2**31 - 1)):
            libc.mallopt(M_MMAP_THRESHOLD, GLIBC_MAPS_FROM)  # the most that older ones take
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if keep else 2 * GLIBC_MAPS_FROM)


def make_deterministic(device: str) -> None:
    """Have CUDA add up in the same order each time, as the CPU does by itself: resuming must repeat every bit."""
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # ty: ignore[missing-attribute]


Function = Callable[..., Tensor]


def compiled(
    function: Function, wanted: Literal["auto", "on", "off"], device: str, mode: str | None = None
) -> Function:
    """`function` through torch.compile where that is wanted; where it does not work, as it is, with one warning."""
    if wanted == "off" or (wanted == "auto" and device != "cuda"):
        return function
    # Not dynamic: a resumed process must run the same kernels, whatever came before.
    fast = torch.compile(function, dynamic=False, mode=mode)
    state = {"works": None}

    def call(*arguments: Tensor) -> Tensor:
        if state["works"] is False:
            return function(*arguments)
        try:
            result = fast(*arguments)
        except Exception as error:  # the compiler's many ways to fail: no C++ compiler, no Triton, an old GPU
            if state["works"] or is_out_of_memory(error):
                raise
            state["works"] = False
            print(f"torch.compile does not work here ({type(error).__name__}); training goes on without it, slower")
            return function(*arguments)
        state["works"] = True
        return result

    return call


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: CUDA and MPS have an exception for it, the CPU's allocator a text."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def free_memory(device: str) -> int:
    """Bytes that this process has on a device, or can have."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return psutil.virtual_memory().available


def used_memory() -> int:
    """Bytes of main memory that this process holds now."""
    return psutil.Process().memory_info().rss


def peak_memory(device: str) -> int:
    """The most bytes that this process has held: on a CUDA device, or of main memory elsewhere."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
