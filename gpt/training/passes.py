"""What becomes of passes through the model that fail: for want of a compiler, or of memory."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpt.compiler import ROUNDING, ROUNDING_WITH_DROPOUT, Compiled
from gpt.config import Config
from gpt.errors import InputError
from gpt.training.state import save
from gpt.training.world import World

if TYPE_CHECKING:
    from gpt.training.trainer import Trainer


def compiled_passes(loss: Callable[..., Tensor], config: Config, world: World, dtype: torch.dtype) -> Compiled:
    """The loss of sequences, compiled if the config wants it and if that works on all ranks.

    Raises CompilerFailed on all of them if it is asked for and does not work on one.
    """
    rounding = ROUNDING_WITH_DROPOUT if config.model.dropout else ROUNDING[dtype]
    forward = Compiled(loss, config.compile, world.device, rounding=rounding)
    if forward.works:
        forward.try_out()
        without_compiler(forward, world)
    return forward


def give_way(trainer: "Trainer") -> None:
    """Prepare to do a step again whose passes failed: without the compiler if it was that, else with less at a time.

    Called by all ranks. Raises InputError, after saving, where nothing is left to give way.
    """
    try:
        if not without_compiler(trainer.compiled, trainer.world):
            trainer.micro_batch.halve(trainer.step + 1)
    except InputError:
        if trainer.step > trainer.saved_step:
            save(trainer)
        raise
    trainer.compiled.forget()


def without_compiler(forward: Compiled, world: World) -> bool:
    """Whether the compiler failed on a rank, so that all go on without it: said once, and in every record."""
    fault = world.first(forward.fault if forward.works else None)
    if fault is None:
        return False
    if forward.wanted == "on":
        raise forward.error(fault)
    forward.give_up(fault)
    if world.is_main:
        print(f"warning: {forward.error(fault)}; training goes on without it, slower", file=sys.stderr, flush=True)
    return True
