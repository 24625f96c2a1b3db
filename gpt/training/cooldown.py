"""The end of a training that stopped early: back to its best weights, and from there down with the rate."""

from pathlib import Path
from typing import Any

from gpt.errors import InputError
from gpt.log import log
from gpt.runs import checkpoint
from gpt.training.checkpointing import restore
from gpt.training.schedule import Cooldown
from gpt.training.state import TrainState
from gpt.training.trainer import Trainer


def cool_down(run: Path, trainer: Trainer, state: TrainState) -> None:
    """Begin it where it is due: take the best weights and moments. Where they cannot be read, the training ends.

    Steps go on being counted, so that a step is done once and reads what no other one has read.
    """
    best, steps = state.best_step, state.cooldown_steps(trainer.config)
    if not steps or best is None:
        return
    chosen: list[checkpoint.Checkpoint] = []  # rank 0's alone

    def read() -> dict[str, Any] | str:
        paths = {checkpoint.step_of(path): path for path in checkpoint.list_checkpoints(run)}
        try:
            if best not in paths:
                raise InputError("its checkpoint is gone")
            chosen.append(checkpoint.load(paths[best], optimizer=True))
        except (InputError, OSError) as error:
            return str(error)
        return chosen[0].state

    found = trainer.world.from_main(read)
    if isinstance(found, str):
        log.warning(f"step {best:,}, the best, cannot be gone back to ({found}): the training ends without a cool-down")
        state.cool_down(Cooldown(best, state.step, steps=0, factor=0.0))
        return
    trainer.optimizer.forget()
    restore(run, trainer, chosen[0] if chosen else None)
    trainer.load_state_dict(found)
    log.info(
        f"step {state.step:,}: {state.evaluations_since_best} evaluations in a row without a new best; back to step "
        f"{best:,}, from which the rate falls to 0 in {steps:,} {'step' if steps == 1 else 'steps'}"
    )
    state.cool_down(Cooldown(best, state.step, steps, TrainState.of(found).lr_factor(trainer.config)))
