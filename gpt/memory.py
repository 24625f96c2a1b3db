"""How much memory there is, what to do when it runs out, and how freed memory is kept.

Of main memory the system's own figure is the whole machine's, of which a container has a part; beyond that, a process
is killed without a word. So it is asked what encloses this process: its control groups, SLURM, and the shell's limits.
Sources: the kernel's admin-guide/cgroup-v2 (memory interface files) and cgroup-v1/memory, proc(5), srun(1). What is
missing, or is not what they say, sets no limit.

Every command is asked for its memory, and not every one loads torch, which takes a second: it is loaded where it is
needed.
"""

import contextlib
import ctypes
import gc
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import psutil

from gpt.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

UNLIMITED = 1 << 62
MEGABYTE = 1 << 20  # what SLURM counts in
PAGE = os.sysconf("SC_PAGESIZE") if hasattr(os, "sysconf") else 4096
Numbers = dict[str, int]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
GLIBC_MAPS_FROM = 32 << 20  # bytes, where a process has freed such tensors before
# How it is reported where torch has no exception for it: by the CPU's allocator (of Linux and of Windows), MPS, cuBLAS,
# cuDNN, NCCL, Triton, numpy, C++ and the system.
OUT_OF_MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator: (can't allocate|not enough) memory|[A-Z]+_STATUS_ALLOC_FAILED|"
    r"CUBLAS_STATUS_NOT_INITIALIZED when calling \W?cublasCreate|CUDNN_STATUS_INTERNAL_ERROR_\w+_ALLOCATION_FAILED|"
    r"CUDNN_STATUS_NOT_SUPPORTED\b.*workspace|Invalid buffer size|cudaErrorMemoryAllocation|"
    r"Failed to (CUDA )?(host )?(malloc|calloc|allocate)|Unable to allocate|Cannot allocate memory|std::bad_alloc|"
    r"could not create a primitive(?! descriptor)",  # oneDNN's words; with a descriptor, it cannot do what was asked
    re.IGNORECASE,
)


# ---- how much there is ----


def free_memory(device: str) -> int:
    """Return the bytes that this process has on a device, or can have."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    if device == "mps":
        import torch

        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return max(0, min(psutil.virtual_memory().available, available()))


def used_memory() -> int:
    """Return the bytes of main memory that this process holds now."""
    return psutil.Process().memory_info().rss


def peak_memory(device: str) -> int:
    """Return the most bytes that this process has held: on a CUDA device, or of main memory elsewhere."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as status:
        # What getrusage knows begins with the peak of the process that started this one.
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# ---- when it runs out ----


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that it came from, as a traceback would show them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an allocation failed, or was what another failure came from: a compiler's, or a collective's."""
    if isinstance(error, InputError):
        return False  # it was met already, and this is the sentence
    torch = sys.modules.get("torch")  # as long as it is not loaded, it raises nothing
    kinds = (MemoryError, torch.OutOfMemoryError) if torch else MemoryError
    return any(
        isinstance(cause, kinds) or (isinstance(cause, Exception) and OUT_OF_MEMORY.search(str(cause)) is not None)
        for cause in causes(error)
    )


def release_memory(device: str) -> None:
    """Give back what is held without need, after an allocation that failed."""
    gc.collect()  # an exception's frames may still hold tensors, in cycles
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
    elif device == "mps":
        import torch

        torch.mps.empty_cache()


class Halving:
    """Call a function of some rows of tensors with as many at a time as memory has been found to hold."""

    def __init__(self, function: "Callable[..., Tensor]", device: str) -> None:
        self.function, self.device = function, device
        self.most: int | None = None

    def __call__(self, *rows: "Tensor") -> "Tensor":
        """Return the function's results for all rows. Raises what it raises if not even a single row fits."""
        import torch

        while True:
            size = min(self.most or len(rows[0]), len(rows[0]))
            try:
                parts = zip(*(tensor.split(size) for tensor in rows), strict=True)
                return torch.cat([self.function(*part) for part in parts])
            except Exception as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            release_memory(self.device)  # here, where the exception no longer holds the tensors
            self.most = -(-size // 2)


# ---- what is freed ----


def return_freed_memory(device: str) -> None:
    """Have glibc give back what it kept of freed tensors so far, where it is in pieces too small for those to come."""
    if device == "cpu" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def retain_freed_memory(device: str, keep: bool = True, maps_from: int | None = None) -> None:
    """Have glibc, which gives large tensors back to the system and asks for them again at every step, keep them.

    Each time the system would fill them with zeros anew: a fifth of a small model's time. What is kept is in pieces,
    though, which makes the peak higher. With `maps_from`, tensors of so many bytes and more are given back, whatever
    `keep` says. Does nothing elsewhere.
    """
    if device == "cpu" and platform.libc_ver()[0] == "glibc":
        libc, keep = ctypes.CDLL(None), keep and maps_from is None
        if not (keep and libc.mallopt(M_MMAP_THRESHOLD, 2**31 - 1)):
            libc.mallopt(M_MMAP_THRESHOLD, maps_from or GLIBC_MAPS_FROM)  # 32 MB is the most that older ones take
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if keep else 2 * GLIBC_MAPS_FROM)


# ---- what encloses this process ----


@dataclass(frozen=True)
class _Files:
    """The files in which one version of control groups tells a group's memory, and the entry of memory.stat that is
    given back when it is needed."""

    limits: tuple[str, ...]
    used: str
    reclaimable: tuple[str, ...]


VERSIONS = {
    "cgroup2": _Files(("memory.max", "memory.high"), "memory.current", ("inactive_file",)),
    "cgroup": _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "inactive_file")),
}


def available(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """Return the bytes that this process can still have; UNLIMITED if nothing encloses it. `root` has proc and sys."""
    return max(0, min([*_of_groups(root), *_of_slurm(root, environment), *_of_shell(root), UNLIMITED]))


def _of_groups(root: Path) -> Iterator[int]:
    """Yield what each group that this process is in leaves to it, from its own up to the highest that is mounted."""
    paths = _group_paths(root)
    for kind, subtree, mount in _mounts(root):
        if kind not in paths:
            continue
        group = PurePosixPath(os.path.normpath(paths[kind]))
        inner = group.relative_to(subtree) if group.is_relative_to(subtree) else PurePosixPath()
        for level in [inner, *inner.parents]:
            yield from _left_in(mount / level, VERSIONS[kind])


def _group_paths(root: Path) -> dict[str, str]:
    """Find the group of each version that counts memory: {'cgroup2': '/user.slice', 'cgroup': '/docker/…'}."""
    paths = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    return paths


def _mounts(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield (kind, the group at the mount point, the mount point) of each hierarchy that can count memory."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        place, _, source = line.partition(" - ")
        fields, kind = place.split(), (source.split() or [""])[0]
        memory = kind == "cgroup2" or (kind == "cgroup" and "memory" in re.split(r"[ ,]", source))
        if memory and len(fields) > 4:
            yield kind, _unescaped(fields[3]), root / _unescaped(fields[4]).lstrip("/")


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _left_in(group: Path, files: _Files) -> Iterator[int]:
    statistics = _table(group / "memory.stat")
    limits = [_number(_text(group / name)) for name in files.limits]
    limits.append(statistics.get("hierarchical_memory_limit"))  # version 1: of the groups that cannot be seen as well
    used = _number(_text(group / files.used)) or 0
    reclaimable = next((statistics[name] for name in files.reclaimable if name in statistics), 0)
    yield from (limit - max(0, used - reclaimable) for limit in limits if limit is not None)


def _of_slurm(root: Path, environment: Mapping[str, str]) -> Iterator[int]:
    """Yield what SLURM allows the job on this node, less what this process has of it; outside a job nothing."""
    if "SLURM_JOB_ID" not in environment:
        return
    each = _number(environment.get("SLURM_MEM_PER_CPU", ""))
    processors = re.match(r"\d+", environment.get("SLURM_CPUS_ON_NODE", environment.get("SLURM_JOB_CPUS_PER_NODE", "")))
    of_gpu, gpus = (_number(environment.get(f"SLURM_{name}", "")) for name in ("MEM_PER_GPU", "GPUS_ON_NODE"))
    limits = [
        _number(environment.get("SLURM_MEM_PER_NODE", "")),
        each * int(processors[0]) if each and processors else None,
        of_gpu * gpus if of_gpu and gpus else None,
    ]
    held = _statm(root).get("resident", 0)
    yield from (limit * MEGABYTE - held for limit in limits if limit)  # 0 stands for all memory


def _of_shell(root: Path) -> Iterator[int]:
    """Yield what `ulimit -v` and `ulimit -d` leave."""
    for name, held in (("Max address space", "size"), ("Max data size", "data")):
        line = re.search(rf"^{name} +(\d+)", _text(root / "proc/self/limits"), re.MULTILINE)
        if line:
            yield int(line[1]) - _statm(root).get(held, 0)


def _statm(root: Path) -> Numbers:
    """Return the bytes of this process, as the kernel counts them in pages."""
    names = ("size", "resident", "shared", "text", "library", "data")
    numbers = map(_number, _text(root / "proc/self/statm").split())
    return {name: n * PAGE for name, n in zip(names, numbers, strict=False) if n is not None}


def _text(file: Path) -> str:
    """Read a file; nothing if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def _number(text: str) -> int | None:
    """Read a decimal number; None for what is none, such as "max"."""
    return int(text) if re.fullmatch(r"\d{1,20}", text.strip(), re.ASCII) else None


def _table(file: Path) -> Numbers:
    """Read the numbers of lines such as "inactive_file 4096"."""
    pairs = (pair for line in _text(file).splitlines() if len(pair := line.split()) == 2)
    return {name: number for name, text in pairs if (number := _number(text)) is not None}
