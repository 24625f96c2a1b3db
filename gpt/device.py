"""Where to compute, and in which precision."""

import contextlib

import torch

from gpt.config import Device
from gpt.errors import InputError


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


def autocast(device: str) -> contextlib.AbstractContextManager:
    """bfloat16 arithmetic on CUDA devices that have it; float32 everywhere else."""
    if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()
