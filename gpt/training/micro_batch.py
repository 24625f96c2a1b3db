"""How sequences go through the model: how many at a time, so that they fit into memory, and compiled or not."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor, nn

from gpt.analysis.cost import fitting_micro_batch
from gpt.compiler import ROUNDING, ROUNDING_WITH_DROPOUT, Compiled, CompilerFailed
from gpt.config import TrainConfig
from gpt.device import synchronize
from gpt.distributed.parallel import is_sharded
from gpt.distributed.world import World
from gpt.errors import InputError
from gpt.log import log
from gpt.memory import free_memory, is_out_of_memory, release_memory

SHARE_OF_CPU = 0.25  # of a node's free memory, for all its processes: no CPU survives a guess that is too high
SHARE_OF_CUDA = 0.85  # of a device's: the forecast may be wrong by the rest


class MicroBatch:
    """The micro-batch of every process: as asked for, or the largest that is forecast to fit; less once it did not.

    What a step learns from is batch_tokens in any case.
    """

    def __init__(self, config: TrainConfig, world: World, dtype: torch.dtype) -> None:
        self.asked, self.world, self.share = config.micro_batch_size, world, config.batch_sequences // world.size
        if self.asked == "auto":
            share = SHARE_OF_CUDA if world.device == "cuda" else SHARE_OF_CPU * world.nodes / world.size
            budget = int(free_memory(world.device) * share)
            fitting = fitting_micro_batch(config, budget, world.device, dtype.itemsize, world.size, world.nodes)
            self.size = world.min(fitting)
        else:
            self.size = min(self.asked, self.share)

    @contextlib.contextmanager
    def catch_failure(self) -> Generator["Caught"]:
        """Catch a lack of memory or a failure of the compiler in this context; its value tells of it."""
        result = Caught()
        try:
            yield result
        except Exception as error:
            if not (isinstance(error, CompilerFailed) or is_out_of_memory(error)):
                raise
            result.failed, result.error = True, error

    def failed(self, caught: "Caught", model: nn.Module, step: int) -> bool:
        """Tell whether the forward passes failed on any rank.

        Raise InputError if it was this one alone, and the others wait for its part of a sharded model: where it ends,
        they notice that it is lost.
        """
        if not is_sharded(model):
            return self.world.any(caught.failed)
        synchronize(self.world.device)  # with NCCL, who lacks another's part waits here, and does not answer
        if not caught.failed:
            return self.world.any(False)
        if not self.world.any_at_once():
            self.require_no_peers(caught, step)
        return True

    def require_no_peers(self, caught: "Caught", step: int) -> None:
        """Raise InputError if other processes are waiting for gradients that this one can no longer send."""
        if self.world.size == 1:
            return
        where = f"step {step}: process {self.world.rank}, while the others wait for what it sends"
        if isinstance(caught.error, CompilerFailed):
            raise InputError(f"{where}: {caught.error}; go on with `resume` `compile` off")
        raise InputError(
            f"{where}: out of memory with {self.size} sequences at a time: "
            f"go on with `resume` `micro_batch_size` {max(1, self.size // 2)}"
        )

    def halve(self, step: int) -> None:
        """Halve the micro-batch for another try. Raise InputError if there is nothing left to halve."""
        if self.size == 1:
            raise InputError(
                f"step {step}: out of memory with a single sequence at a time: use a smaller `model.context_length` or "
                "model, or several processes with `parallel` fsdp"
            )
        log.warning(
            f"step {step}: out of memory with {self.size} sequences at a time; it is done again with {self.size // 2}, "
            "and learns from as many tokens as before"
        )
        self.size //= 2
        release_memory(self.world.device)

    def in_words(self) -> str:
        """Say what size was chosen, where it is less than all of a process's sequences."""
        chosen = self.asked == "auto" and self.size < self.share
        return f", {self.size} sequences at a time, chosen by `micro_batch_size` auto" if chosen else ""

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked, "share": self.share, "size": self.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same size where the same was asked for: another one would round differently."""
        if (state["asked"], state["share"]) == (self.asked, self.share):
            self.size = state["size"]


class Caught:
    """Whether the passes failed, and by what."""

    failed = False
    error: Exception | None = None


def compiled_loss(loss: Callable[..., Tensor], config: TrainConfig, world: World, dtype: torch.dtype) -> Compiled:
    """Compile the loss of sequences if the config wants it and if that works on all ranks.

    Raises CompilerFailed on all of them if it is asked for and does not work on one.
    """
    rounding = ROUNDING_WITH_DROPOUT if config.model.dropout or config.lora.rank else ROUNDING[dtype]
    compiled = Compiled(loss, config.compile, world.device, rounding=rounding)
    if compiled.works:
        compiled.try_out()
        without_compiler(compiled, world)
    return compiled


def without_compiler(compiled: Compiled, world: World) -> bool:
    """Tell whether the compiler failed on a rank, so that all go on without it: said once, and in every record."""
    fault = world.first(compiled.fault if compiled.works else None)
    if fault is None:
        return False
    if compiled.wanted == "on":
        raise compiled.error(fault)
    compiled.give_up(fault)
    log.warning_once(f"{compiled.error(fault)}; training goes on without it, slower")
    return True
