"""Which share of the devices' matrix speed the model's own arithmetic reaches (MFU)."""

import torch

from gpt.analysis.cost import flops_per_token
from gpt.config import ModelConfig
from gpt.device import matrix_speed
from gpt.memory import is_out_of_memory, release_memory
from gpt.training.world import World

MEASURED_AT = (5, 10, 20)  # steps of this process: the device is warm by then, and one moment may be a busy one
AGAIN_EVERY, MOST_MEASURED = 10, 8


class Utilization:
    """Measures the matrix speed while training goes on. Of several processes all ask for each step's share."""

    def __init__(self, model: ModelConfig, world: World, dtype: torch.dtype) -> None:
        self.flops_per_token, self.world, self.dtype = flops_per_token(model), world, dtype
        self.matrix_speed: float | None = None  # of all devices together: the best that was measured
        self.steps = self.measured = 0

    def share(self, tokens_per_s: float) -> float | None:
        """Give the share in this step, None where it is not known: at first, or if it comes out above 1.

        It does where the matrix speed was measured while other programs were busy, so it is measured again.
        """
        self.steps += 1
        if self.steps in MEASURED_AT:
            self._measure()
        if self.matrix_speed is None:
            return None
        share = tokens_per_s * self.flops_per_token / self.matrix_speed
        may_measure = self.steps % AGAIN_EVERY == 0 and self.measured < MOST_MEASURED
        if may_measure and self.world.any(share > 1):
            self._measure()
            share = tokens_per_s * self.flops_per_token / self.matrix_speed
        return share if share <= 1 else None

    def _measure(self) -> None:
        """Leave it as it is where memory is too short for the products on any rank: training is not to end for that."""
        speed, failed = 0.0, False
        try:
            speed = matrix_speed(self.world.device, self.dtype)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failed = True
        if failed:
            release_memory(self.world.device)
        speed, failures = self.world.sum(speed, failed)
        if not failures:
            self.matrix_speed = max(self.matrix_speed or 0.0, speed)
        self.measured += 1
