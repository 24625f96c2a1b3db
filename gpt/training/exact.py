"""The same bits again: how CUDA is made to give them, and what they depend on beside settings, data and weights.

A CPU gives them by itself, for as many threads. Of several orders in which a GPU can add up, the fastest is another
one each time; what is exact there costs time. Of Apple's GPUs (MPS) nothing is promised, and nothing was measured.
"""

import contextlib
import os
import platform
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from gpt.choices import Exact
from gpt.config import TrainConfig
from gpt.device import mkl_is_slow, onednn_limit
from gpt.distributed.world import World
from gpt.errors import InputError
from gpt.log import log

WORKSPACE, EXACT_WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # of cuBLAS, as its manual has them
FILL = "fill_uninitialized_memory"  # a property that its module has no type for
Conditions = dict[str, Any]


def is_exact(wanted: Exact, device: str) -> bool:
    """Tell whether a resumed run must repeat an undisturbed one bit for bit: auto is on where that costs nothing."""
    return device == "cpu" if wanted == "auto" else wanted == "on"


@contextlib.contextmanager
def exact_arithmetic(wanted: Exact, device: str) -> Generator[None]:
    """Make CUDA sum in one fixed order in this context if `wanted` is on; else leave torch's settings alone.

    It must begin before the first matrix product on the device. Operations that know no such order raise RuntimeError;
    attention's fused kernels (flash, memory-efficient) then have one in their backward pass, and cuDNN's is not taken.
    Raise InputError where it cannot be had.
    """
    threads = torch.get_num_threads()  # which a resumed run may change
    try:
        with _deterministic(device) if wanted == "on" and device != "cpu" else contextlib.nullcontext():
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def _deterministic(device: str) -> Generator[None]:
    """Use torch's deterministic mode, and Inductor's; restore all afterwards but cuBLAS's workspace."""
    if device == "mps":
        raise InputError("`exact` on: nobody knows that for this device (mps); leave it out, or use `device` cpu")
    import torch._inductor.config as inductor

    if os.environ.setdefault(WORKSPACE, EXACT_WORKSPACES[0]) not in EXACT_WORKSPACES:
        raise InputError(
            f"`exact` on: the environment's {WORKSPACE} is {os.environ[WORKSPACE]!r}, with which cuBLAS is not exact; "
            f"unset it, or make it {' or '.join(EXACT_WORKSPACES)}"
        )
    mode = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    memory = torch.utils.deterministic
    fills, tries, compiles = getattr(memory, FILL), torch.backends.cudnn.benchmark, inductor.deterministic
    try:
        torch.use_deterministic_algorithms(True)  # not warn_only: attention would then not be exact
        inductor.deterministic = True  # nothing is chosen by how long it takes
        torch.backends.cudnn.benchmark = False
        setattr(memory, FILL, False)  # of new memory, which nothing here reads: it would only cost
        yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=only_warns)
        inductor.deterministic, torch.backends.cudnn.benchmark = compiles, tries
        setattr(memory, FILL, fills)


def conditions(config: TrainConfig, world: World, dtype: torch.dtype) -> Conditions:
    """List what this training's bits depend on beside what the rest of a checkpoint has; ready for JSON."""
    return {
        "exact": is_exact(config.exact, world.device),
        "torch": torch.__version__,
        "device": _device_name(world.device),
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "parallel": config.parallel if world.size > 1 else "none",
        "nodes": world.nodes,
        "dtype": str(dtype).removeprefix("torch."),
        "float32_matmul_precision": config.float32_matmul_precision,
        "products": "oneDNN" if mkl_is_slow() else "MKL",
        "compile": config.compile,
        "micro_batch": config.micro_batch_size,
    }


def meet_conditions(now: Conditions, before: Conditions, device: str) -> None:
    """Let a resumed training compute as the saved one did, by its number of threads; or say what is not the same."""
    before = {"float32_matmul_precision": "highest", "products": "MKL"} | before  # before they could be chosen
    differing = [name for name in now if name in before and before[name] != now[name]]
    if not (now["exact"] or before.get("exact")):
        return
    threads = before.get("threads", 0)
    if differing == ["threads"] and device == "cpu" and threads <= _processors():
        torch.set_num_threads(threads)
        log.warning(
            f"threads: {threads}, with which the run goes on to the same bits; "
            f"`exact` off takes the {now['threads']} of this start"
        )
    elif differing:
        changes = ", ".join(f"{name} {_word(before[name])} → {_word(now[name])}" for name in differing)
        log.warning(f"from here on equal to an undisturbed run up to rounding only: {changes}")


def _word(value: object) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def _processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    if device == "mps":
        return f"mps, {platform.machine()}"
    limited = [f"oneDNN up to {limit}" for limit in [onednn_limit()] if limit]
    return ", ".join([_processor(), torch.backends.cpu.get_cpu_capability(), *limited])


def _processor() -> str:
    """Name the processor, by which kernels are chosen and cut: Linux has it in a file, others in `platform`."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
