"""What becomes of a step that fails for want of a compiler, or of memory."""

import contextlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpt.compiler import ROUNDING, ROUNDING_WITH_DROPOUT, Compiled
from gpt.config import TrainConfig
from gpt.distributed.parallel import is_sharded
from gpt.distributed.world import World
from gpt.errors import InputError
from gpt.log import log
from gpt.memory import is_out_of_memory, release_memory
from gpt.training.resume import save

if TYPE_CHECKING:
    from gpt.training.trainer import Trainer


def compiled_passes(loss: Callable[..., Tensor], config: TrainConfig, world: World, dtype: torch.dtype) -> Compiled:
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
    with _saved_before(trainer):
        if not without_compiler(trainer.compiled, trainer.world):
            trainer.micro_batch.halve(trainer.step + 1)
    trainer.compiled.forget()


def move_weights(trainer: "Trainer") -> None:
    """Step the optimizer, once more where memory ran out and no other rank has to be asked for its part again.

    Its state, most of what it needs, is taken at the first step of a process, by all ranks or none.
    Raises InputError, after saving if all ranks do, where there is not enough.
    """
    step, world, optimizer = trainer.step + 1, trainer.world, trainer.optimizer
    if not optimizer.has_state:
        enough = _with_patience(optimizer.allocate, world)
        with _saved_before(trainer):
            if world.any(not enough):
                raise _too_little(step)
    tries = 1 if is_sharded(trainer.parallel_model) else 2  # Muon's gathers what all ranks have a part of
    if not _with_patience(optimizer.step, world, tries):
        if world.size > 1:
            raise _too_little(step)
        with _saved_before(trainer):
            raise _too_little(step)


def _with_patience(call: Callable[[], None], world: World, tries: int = 2) -> bool:
    """Whether it succeeds, at the last try at least, with what was held without need given back before that."""
    for _ in range(tries):
        try:
            call()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        release_memory(world.device)
    return False


def _too_little(step: int) -> InputError:
    return InputError(
        f"step {step}: out of memory in the optimizer, which needs its state and its update beside weights and "
        "gradients: use a smaller model, or several processes with `parallel` fsdp"
    )


@contextlib.contextmanager
def _saved_before(trainer: "Trainer") -> Generator[None]:
    """A context in which bad luck that all ranks share ends the training, and loses no step that was done."""
    try:
        yield
    except InputError:
        trainer.model.zero_grad(set_to_none=True)
        if trainer.step > trainer.saved_step:
            save(trainer)
        raise


def without_compiler(forward: Compiled, world: World) -> bool:
    """Whether the compiler failed on a rank, so that all go on without it: said once, and in every record."""
    fault = world.first(forward.fault if forward.works else None)
    if fault is None:
        return False
    if forward.wanted == "on":
        raise forward.error(fault)
    forward.give_up(fault)
    log.warning_once(f"{forward.error(fault)}; training goes on without it, slower")
    return True
