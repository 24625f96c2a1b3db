"""Which share of the devices' matrix speed the model's own arithmetic reaches (MFU)."""

import math
import time

import torch

from gpt.analysis.cost import adapter_count, flops_per_token
from gpt.config import TrainConfig
from gpt.device import choose_products, synchronize
from gpt.distributed.world import World
from gpt.memory import is_out_of_memory, release_memory

MEASURED_AT = (5, 10, 20)  # steps of this process: the device is warm by then, and one moment may be a busy one
AGAIN_EVERY, MOST_MEASURED = 10, 8
ENOUGH_SECONDS, SMALLEST_PRODUCT, LARGEST_PRODUCT = 4e-3, 256, 8192  # of matrix products whose speed is measured
TRIES = 3  # of each size, as often as MEASURED_AT says


class Utilization:
    """Measures the matrix speed while training goes on. Of several processes all ask for each step's share."""

    def __init__(self, config: TrainConfig, world: World, dtype: torch.dtype) -> None:
        self.config, self.world, self.dtype = config, world, dtype
        self.flops_per_token = flops_per_token(config.model, config.lora.rank and adapter_count(config))
        self.measured_peak_flops: float | None = None  # of all devices together: the best that was measured
        self.steps = self.measured = 0

    def share(self, tokens_per_s: float) -> float | None:
        """Give the share in this step, None where it is not known: at first, or if it comes out above 1.

        It does where the matrix speed was measured while other programs were busy, so it is measured again.
        """
        self.steps += 1
        if self.steps in MEASURED_AT:
            self._measure()
        if self.measured_peak_flops is None:
            return None
        share = tokens_per_s * self.flops_per_token / self.measured_peak_flops
        may_measure = self.steps % AGAIN_EVERY == 0 and self.measured < MOST_MEASURED
        if may_measure and self.world.any(share > 1):
            self._measure()
            share = tokens_per_s * self.flops_per_token / self.measured_peak_flops
        return share if share <= 1 else None

    def _measure(self) -> None:
        """Leave it as it is where memory is too short for the products on any rank: training is not to end for that."""
        speed, failed = 0.0, False
        try:
            config, device = self.config, self.world.device
            with choose_products(config.float32_matmul_precision, device, config.compile == "on")():
                speed = measured_peak_flops(self.world.device, self.dtype)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failed = True
        if failed:
            release_memory(self.world.device)
        speed, failures = self.world.sum(speed, failed)
        if not failures:
            self.measured_peak_flops = max(self.measured_peak_flops or 0.0, speed)
        self.measured += 1


def measured_peak_flops(device: str, dtype: torch.dtype) -> float:
    """Measure floating-point operations per second of square matrix products in `dtype`: the best of several.

    The products grow until one takes some milliseconds; the smallest may also do so because other programs are busy.
    """
    best, size = 0.0, SMALLEST_PRODUCT
    while True:
        numbers = torch.randn(size, size, device=device, dtype=dtype)
        seconds = math.inf
        for _ in range(TRIES):
            synchronize(device)
            start = time.perf_counter()
            numbers @ numbers
            synchronize(device)
            seconds = min(seconds, time.perf_counter() - start)
        best = max(best, 2 * size**3 / seconds)
        if (seconds > ENOUGH_SECONDS and size > SMALLEST_PRODUCT) or size == LARGEST_PRODUCT:
            return best
        size *= 2
