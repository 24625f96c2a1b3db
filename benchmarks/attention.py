"""Which of torch's kernels attends fastest in training, and whether its gradients have the same bits each time.

    python -m benchmarks.attention [--device cuda] [--runs 5]

Causal attention of GPT-2's width, forward and backward, in the dtype that trainings choose on the device: by the kernel
that torch takes by itself (`torch`), by that under `--exact on` (`exact`), and by each kernel alone, in turns. Heads of
64 are GPT-2's; those of 128 cost as many products, and a GPU's kernels are said to like them better. A kernel that
cannot do it is left out, with its reason.
"""

import contextlib
import time
import warnings
from collections import defaultdict
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.common import arguments, finish, show
from gpt.device import choose_dtype, synchronize
from gpt.training.exact import exact_arithmetic

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
WIDTH = 768
HEADS = (64, 128)  # their widths
SHAPES = {"cuda": ((128, 256), (32, 1024)), "cpu": ((4, 256), (1, 1024))}  # sequences, positions
TIMES = 3  # a pass is repeated to see whether its bits are


@contextlib.contextmanager
def by(kernel: str, device: str) -> Generator[None]:
    """Attend by one kernel; by torch's choice; or by that of exact trainings."""
    with contextlib.ExitStack() as stack:
        if kernel in KERNELS:
            stack.enter_context(sdpa_kernel(KERNELS[kernel]))
        elif kernel == "exact":
            stack.enter_context(exact_arithmetic("on", device))
        yield


def once(inputs: list[Tensor]) -> tuple[float, list[Tensor]]:
    """Attend, and go back with a gradient of ones: seconds; the output, and the gradients of its three inputs."""
    device = inputs[0].device.type
    synchronize(device)
    start = time.perf_counter()
    output = scaled_dot_product_attention(*inputs, is_causal=True)
    gradients = torch.autograd.grad(output, inputs, torch.ones_like(output))
    synchronize(device)
    return time.perf_counter() - start, [output.detach(), *gradients]


def repeats(inputs: list[Tensor]) -> bool:
    """Tell whether the output and all gradients have the same bits each time."""
    first, *others = (once(inputs)[1] for _ in range(TIMES))
    return all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def measured(inputs: list[Tensor], device: str, runs: int) -> dict[str, dict[str, Any]]:
    """Seconds of each way in turns, and whether its bits repeat; or why it cannot be gone."""
    seconds, found = defaultdict[str, list[float]](list), dict[str, dict[str, Any]]()
    for run in range(runs + 1):
        for kernel in ("torch", "exact", *KERNELS):
            if "fault" in found.get(kernel, ()):
                continue
            try:
                with warnings.catch_warnings(), by(kernel, device):
                    warnings.simplefilter("ignore")  # each kernel that was not asked for says so
                    if run:
                        seconds[kernel].append(once(inputs)[0])
                    else:
                        found[kernel] = {"same_bits": repeats(inputs)}
            except RuntimeError as error:
                found[kernel] = {"fault": str(error).splitlines()[0]}
    for kernel in found.keys() & seconds.keys():
        if "fault" not in found[kernel]:
            found[kernel]["seconds"] = seconds[kernel]
    return found


def shapes(device: str) -> Iterator[tuple[str, list[int]]]:
    """Give (B, H, T, D) of what is measured, in words and as numbers."""
    for sequences, positions in SHAPES[device]:
        for head in HEADS:
            heads = WIDTH // head
            yield f"{sequences} × {positions:,}, {heads} heads of {head}", [sequences, heads, positions, head]


def laid_out(shape: list[int], numbers: torch.Generator) -> Tensor:
    """Draw (B, H, T, D) as a layer has it in memory: a position's heads side by side."""
    B, H, T, D = shape
    return torch.randn(B, T, H, D, generator=numbers).transpose(1, 2)


def main() -> None:
    options = arguments(__doc__, peer=False, device="cpu", runs=5)
    dtype, result = choose_dtype("auto", options.device), {}
    for name, shape in shapes(options.device):
        numbers = torch.Generator().manual_seed(0)
        inputs = [laid_out(shape, numbers).to(options.device, dtype).requires_grad_() for _ in range(3)]
        result[name] = measured(inputs, options.device, options.runs)
        show(f"{name}: {result[name]}")
    finish("attention", options.device, {"dtype": str(dtype).removeprefix("torch."), "kernels": result})


if __name__ == "__main__":
    main()
