"""How much memory there is, and what to do when it runs out."""

import gc
import re
import sys
from collections.abc import Callable, Iterator

import psutil
import torch
from torch import Tensor

from gpt.errors import InputError
from gpt.limits import available

# How it is reported where torch has no exception for it: by the CPU's allocator (of Linux and of Windows), MPS, cuBLAS,
# cuDNN, NCCL, Triton, numpy, C++ and the system.
OUT_OF_MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator: (can't allocate|not enough) memory|[A-Z]+_STATUS_ALLOC_FAILED|"
    r"CUBLAS_STATUS_NOT_INITIALIZED when calling \W?cublasCreate|CUDNN_STATUS_INTERNAL_ERROR_\w+_ALLOCATION_FAILED|"
    r"CUDNN_STATUS_NOT_SUPPORTED\b.*workspace|Invalid buffer size|cudaErrorMemoryAllocation|"
    r"Failed to (CUDA )?(host )?(malloc|calloc|allocate)|Unable to allocate|Cannot allocate memory|std::bad_alloc",
    re.IGNORECASE,
)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it came from, as a traceback would show them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, or was what another failure came from: a compiler's, or a collective's."""
    if isinstance(error, InputError):
        return False  # it was met already, and this is the sentence
    return any(
        isinstance(cause, torch.OutOfMemoryError | MemoryError)
        or (isinstance(cause, Exception) and OUT_OF_MEMORY.search(str(cause)) is not None)
        for cause in causes(error)
    )


def release_memory(device: str) -> None:
    """Give back what is held without need, after an allocation that failed."""
    gc.collect()  # an exception's frames may still hold tensors, in cycles
    if device == "cuda":
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


class Halving:
    """Calls a function of some rows of tensors with as many at a time as memory has been found to hold."""

    def __init__(self, function: Callable[..., Tensor], device: str) -> None:
        self.function, self.device = function, device
        self.most: int | None = None

    def __call__(self, *rows: Tensor) -> Tensor:
        """The function's results for all rows. Raises what it raises if not even a single row fits."""
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


def free_memory(device: str) -> int:
    """Bytes that this process has on a device, or can have."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return max(0, min(psutil.virtual_memory().available, available()))


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
