"""Where to compute, and in which precision."""

import contextlib
import os
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch

from gpt.choices import ComputeDtype, MatmulPrecision, WeightDtype
from gpt.errors import InputError
from gpt.log import log

UNSEEN = "sees no such device here"
KERNELS = r"\b(sm|compute)_(\d+)(\d)[af]?\b"
Products = Callable[[], contextlib.AbstractContextManager[None]]  # makes a context in which matrices are so multiplied


def choose_device(wanted: str) -> str:
    """Choose 'cuda', 'mps' or 'cpu', as wanted; 'auto' takes the first that is there. Raises InputError without it."""
    if wanted == "cpu":
        return wanted  # and nothing of a GPU is begun
    faults = {"cuda": _cuda_fault(), "mps": "" if torch.backends.mps.is_available() else UNSEEN, "cpu": ""}
    there = [name for name, fault in faults.items() if not fault]
    if wanted == "auto" and faults["cuda"] not in ("", UNSEEN):
        log.warning_once(f"`device` {there[0]}, and not cuda: this torch ({torch.__version__}) {faults['cuda']}")
    if wanted != "auto" and wanted not in there:
        fault = f"this torch ({torch.__version__}) {faults.get(wanted, UNSEEN)}"
        raise InputError(f"`device` {wanted}: {fault}; use one of: auto, {', '.join(there)}")
    return there[0] if wanted == "auto" else wanted


def _cuda_fault() -> str:
    """Say why CUDA cannot be used, if it cannot: torch may also see a device for which it was built without kernels."""
    if not torch.cuda.is_available():
        return UNSEEN
    kernels = torch.cuda.get_arch_list()
    # Such as sm_86, for 8.6 to 8.9, and compute_120, of which the driver makes kernels for 12.0 and later.
    known = [(kind, (int(major), int(minor))) for kind, major, minor in re.findall(KERNELS, " ".join(kernels))]
    own = torch.cuda.get_device_capability() if known else (0, 0)  # no name is understood: of AMD's
    if not known or any(made <= own and (kind == "compute" or made[0] == own[0]) for kind, made in known):
        return ""
    return f"has no kernels for {torch.cuda.get_device_name()} (sm_{own[0]}{own[1]}), but for {', '.join(kernels)}"


def choose_dtype(wanted: ComputeDtype, device: str) -> torch.dtype:
    """Choose what forward and backward passes compute in. Raises InputError for a name that is none."""
    if wanted == "auto" and device != "cuda":
        return torch.float32
    if wanted == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return _named(wanted, {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16})


def choose_weight_dtype(wanted: WeightDtype, device: str) -> torch.dtype:
    """Choose what weights are held and multiplied in: auto is bfloat16 where the device is good at it.

    Raises InputError for a name that is none.
    """
    if wanted == "auto":
        good = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if good else torch.float32
    return _named(wanted, WEIGHTS)


def _named(wanted: str, dtypes: dict[str, torch.dtype]) -> torch.dtype:
    if wanted not in dtypes:
        raise InputError(f"`dtype` {wanted}: is none of auto, {', '.join(dtypes)}")
    return dtypes[wanted]


ROUNDED = {"float16": torch.float16, "int8": torch.int8}  # for a CPU, which computes in float32 with them
WEIGHTS = {"float32": torch.float32, "bfloat16": torch.bfloat16} | ROUNDED


class Target(NamedTuple):
    """Where a model is to compute, and as what."""

    device: str
    kind: torch.dtype
    prepacked: bool

    @classmethod
    def of(cls, device: str, dtype: WeightDtype, prepacked: bool) -> "Target":
        """Choose what is left open. Raises InputError if there is no such device, or no such dtype there."""
        device = choose_device(device) if device == "auto" else str(device)  # a torch.device, too
        if dtype in ROUNDED and device != "cpu":
            raise InputError(f"`dtype` {dtype}: is for the CPU, and this is {device}; choose bfloat16, or `device` cpu")
        kind = choose_device(device.partition(":")[0])
        return cls(device, choose_weight_dtype(dtype, kind), prepacked)

    @property
    def merged(self) -> bool:
        """Tell whether adapters are folded into the weights: in float32, before these are rounded to anything else."""
        return self.prepacked or self.rounded

    @property
    def rounded(self) -> bool:
        """Tell whether only the matrices are rounded, so that they must be prepacked."""
        return self.kind in ROUNDED.values()


def autocast(device: str, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Compute matrix products in `dtype`, sums and norms in float32."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype)


def choose_products(precision: MatmulPrecision, device: str, compiled: bool = False) -> Products:
    """Choose as what float32 matrices are multiplied, and by what.

    highest leaves torch's setting alone, except where MKL is slow and the program is not `compiled`, which would fall
    into pieces. Raises InputError for medium where that would round nothing.
    """
    left_alone = precision == "highest" and (compiled or device != "cpu" or not mkl_is_slow())
    return contextlib.nullcontext if left_alone else _onednn_products(precision, device)


def _onednn_products(precision: MatmulPrecision, device: str) -> Products:
    from gpt.products import onednn_products, require_rounding, rounds

    if precision == "medium":
        require_rounding(device)
    return contextlib.nullcontext if precision == "highest" and rounds() else onednn_products


def onednn_limit() -> str:
    """Name the instructions that the environment lets oneDNN take at the most; empty where it limits nothing."""
    return os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA", "")  # the latter is its old name


def mkl_is_slow() -> bool:
    """Tell whether oneDNN multiplies much faster: on AMD's Zen 5, where MKL does without AVX-512 (benchmarks/LOG.md).

    By the processor and not by a trial, as other products have other bits. Not where `ulimit` limits memory: oneDNN
    takes some for each new shape, and where it once got none, it fails or crashes.
    """
    if onednn_limit() or sys.platform != "linux" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    import resource

    known, kinds = torch.cpu.get_capabilities(), (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    is_zen_5 = known.get("avx512_vp2intersect", False) and str(known.get("cpu_name")).startswith("AMD")
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return is_zen_5 and both and all(resource.getrlimit(kind)[0] == resource.RLIM_INFINITY for kind in kinds)


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def reseed(device: str, seed: int) -> None:
    """Begin the random numbers of the CPU and of the device anew, cheaply.

    `torch.manual_seed` notes the stack for each kind of device that is not there: a tenth of a millisecond and more.
    """
    torch.default_generator.manual_seed(seed)
    if device == "cuda":
        torch.cuda.manual_seed(seed)
    elif device == "mps":
        torch.mps.manual_seed(seed)
