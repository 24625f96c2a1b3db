"""What of a training goes into a checkpoint, and the way back."""

import contextlib
import math
from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gpt.distributed.parallel import gather, scatter
from gpt.errors import InputError
from gpt.log import log
from gpt.memory import is_out_of_memory
from gpt.runs import checkpoint
from gpt.runs.directory import write_config, write_tokenizer
from gpt.training.continuation import Schedule, judge, set_later_aside, starting_point
from gpt.training.evaluated import (
    evaluates_alike,
    pack,
    restore_evaluations,
    tokens_evaluated,
    without_evaluations,
)
from gpt.training.exact import conditions, meet_conditions
from gpt.training.guard import first_not_finite, newest_before
from gpt.training.schedule import branch_point
from gpt.training.windows import evaluates_completely

if TYPE_CHECKING:
    from gpt.training.trainer import Trainer


def save(trainer: "Trainer", must: bool = False) -> None:
    """Write a checkpoint of this moment, and remove those that are no longer kept.

    Where the disk fails, training goes on and the next save tries again; with `must`, OSError is raised. Weights that
    are not finite are not saved, which is said, or with `must` an InputError. None is removed for one whose weights
    gave no usable gradient.
    """
    world, config, state = trainer.world, trainer.config, _state(trainer)
    failure, sick = None, None
    try:
        weights = gather(dict(trainer.model.named_parameters()), world)
        moments = gather(trainer.optimizer.state_dict(), world)
        sick = first_not_finite(weights)
        if world.is_main and sick is None:
            checkpoint.save(trainer.run, weights, moments, state)
    except Exception as error:
        if not (isinstance(error, OSError) or is_out_of_memory(error)):
            raise
        reason = error if isinstance(error, OSError) else "out of memory"
        failure = f"step {trainer.step} could not be saved ({reason}); earlier checkpoints are as they were"
    else:
        if world.is_main and sick is None and not trainer.guard.skipped_in_a_row:
            branch = branch_point(config.steps, config.optimizer)
            checkpoint.prune(trainer.run, config.checkpoint.keep, branch)
    sick = world.broadcast(sick)
    if sick is not None:
        _refuse(trainer, sick, must)
        return
    failure = world.broadcast(failure)
    if failure is None:
        best = state["best_validation_loss"]
        trainer.saved_step, trainer.best_loss = trainer.step, math.inf if best is None else best
    elif must:
        raise OSError(f"{trainer.run}: {failure}; make space, then go on with `resume`")
    else:
        log.warning(f"{failure}; training goes on, and tries again at the next save")


def _refuse(trainer: "Trainer", sick: str, must: bool) -> None:
    failure = (
        f"step {trainer.step} is not saved, as {sick} has numbers that are not finite; "
        f"{newest_before(trainer.run, trainer.step)}"
    )
    if must:
        raise InputError(f"{trainer.run}: {failure}")
    log.warning(failure)


def _state(trainer: "Trainer") -> dict[str, Any]:
    """What a checkpoint says beside its tensors."""
    evaluation = trainer.evaluation
    best = min(trainer.best_loss, evaluation.loss if evaluation else math.inf)
    return {
        "step": trainer.step,
        "tokens": trainer.step * trainer.config.batch_tokens,
        "elapsed_s": trainer.elapsed,
        "evaluation": asdict(evaluation) if evaluation else None,
        "complete_evaluation": asdict(trainer.complete_evaluation) if trainer.complete_evaluation else None,
        "evaluations": trainer.evaluations,
        "evaluated_windows": len(trainer.windows),
        "unevaluated": trainer.unevaluated,
        "record": trainer.record,
        "schedule": Schedule.of(trainer.config).state_dict(),
        "best_validation_loss": None if math.isinf(best) else best,
        "last_validation_loss": trainer.last_loss,
        "evaluations_since_best": trainer.evaluations_since_best,
        "best_sums": None if trainer.best_sums is None else pack(trainer.best_sums),
        "gain": asdict(trainer.gain) if trainer.gain else None,
        "overfitting": asdict(trainer.overfitting),
        "dataset_fingerprint": trainer.dataset.fingerprint,
        "guard": trainer.guard.state_dict(),
        "loss_scale": trainer.scale.state_dict(),
        "micro_batch": trainer.micro_batch.state_dict(),
        "conditions": conditions(trainer),
    }


def unsaved_steps(trainer: "Trainer") -> str:
    """What would be lost if the training ended at this moment, in words."""
    steps = trainer.step - trainer.saved_step
    if not steps:
        return "nothing but this step"
    since = f"since step {trainer.saved_step:,}, the last that is saved" if trainer.saved_step else "so far"
    return f"the {steps:,} {'step' if steps == 1 else 'steps'} {since}"


def resume(
    trainer: "Trainer", allow_other_data: bool = False, allow_rate_jump: bool = False, from_step: int | None = None
) -> bool:
    """Go on from the run's newest whole checkpoint, or from that of a step; False where it has none.

    Raises InputError if the run is beyond the steps asked for, if the learning rate would jump up after it came down,
    unless `allow_rate_jump`, or if the data is not what it was trained on, unless `allow_other_data`.
    """
    world, run = trainer.world, trainer.run
    chosen: list[checkpoint.Checkpoint | None] = []  # rank 0's alone

    def read() -> dict[str, Any] | None:
        chosen.append(starting_point(run, from_step))
        return chosen[0].state if chosen[0] else None

    state = world.from_main(read)
    if state is not None:
        _require_continuation(trainer, state, allow_other_data)
        newest = state["step"]
        saved, state = judge(chosen[0] if chosen else None, state, trainer.config, run, world, allow_rate_jump)
        _require_finite(run, state["step"], world.broadcast(first_not_finite(saved.model if saved else {})))
        load_weights(trainer, lambda: saved.model if saved else {})
        moments = saved.optimizer if saved else {}
        shapes = world.broadcast({name: (list(tensor.shape), tensor.dtype) for name, tensor in moments.items()})
        parts = scatter(moments, trainer.optimizer.empty_state(shapes), world)
        trainer.optimizer.load_state_dict(parts)
        branches = from_step is not None or state["step"] != newest
        if branches:
            world.from_main(lambda: set_later_aside(run, state["step"]))
        with _as_written(run):
            _restore(trainer, state)
        meet_conditions(trainer, state.get("conditions", {}))
    if world.is_main:  # only now, as nothing can refuse any more
        write_tokenizer(run, trainer.dataset.tokenizer)
        write_config(run, trainer.config)
    return state is not None


@contextlib.contextmanager
def _as_written(run: Path) -> Generator[None]:
    """A context in which state that this program never writes is an InputError."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{run}: the state of its checkpoint is not what this program writes ({error!r}); go on from another one "
            "with `from_step`, or begin a new run from these weights with `init_from`"
        ) from error


def _restore(trainer: "Trainer", state: dict[str, Any]) -> None:
    trainer.step = trainer.saved_step = state["step"]
    trainer.elapsed = state["elapsed_s"]
    record = state["unevaluated"] or state.get("record")
    if evaluates_alike(trainer, state):
        restore_evaluations(trainer, state)
    else:
        record = record and without_evaluations(record)
    complete = trainer.complete_evaluation or not evaluates_completely(trainer.config, trainer.dataset, trainer.step)
    due = trainer.at_the_end and not (trainer.evaluation and complete)  # where it was not the end before, or cut short
    trainer.record = record
    trainer.unevaluated = record if state["unevaluated"] or due else None
    trainer.guard.load_state_dict(state["guard"])
    trainer.scale.load_state_dict(state["loss_scale"])
    trainer.micro_batch.load_state_dict(state["micro_batch"])


def _require_finite(run: Path, step: int, sick: str | None) -> None:
    if sick is not None:
        raise InputError(f"{run}: {sick} of step {step} has numbers that are not finite; {newest_before(run, step)}")


def load_weights(trainer: "Trainer", read: Callable[[], dict[str, Tensor]]) -> None:
    """Put the whole weights that rank 0 reads into the model, each rank's part in its place."""
    own = {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}
    weights: dict[str, Tensor] = {}  # rank 0's alone

    def read_fitting() -> None:
        weights.update(read())
        if {name: tensor.shape for name, tensor in weights.items()} != {n: p.shape for n, p in own.items()}:
            raise InputError(f"{trainer.run}: the weights do not fit the model of its config.json")

    trainer.world.from_main(read_fitting)
    for name, part in scatter(weights, own, trainer.world).items():
        own[name].copy_(part)


def _require_continuation(trainer: "Trainer", state: dict[str, Any], allow_other_data: bool) -> None:
    data, run, steps = trainer.dataset, trainer.run, trainer.config.steps
    if state["dataset_fingerprint"] != data.fingerprint:
        if not allow_other_data:
            raise InputError(
                f"{data.path}: is not the dataset that {run} was trained on, or has changed since; "
                "restore it, begin a new run from these weights with `init_from`, or go on with `allow_other_data`"
            )
        log.warning(f"data: {data.path} is not what {run} was trained on so far; it goes on with it, and a new best")
    elif not evaluates_alike(trainer, state):
        now, before = trainer.config.evaluation.tokens, tokens_evaluated(trainer, state)
        if not allow_other_data:
            raise InputError(
                f"`evaluation.tokens` {now}: the losses of {run} so far, its best one too, are of another part of the "
                f"validation split: go on with `evaluation.tokens` {before}, which is the same part, or with "
                "`allow_other_data`, which forgets them"
            )
        log.warning(
            f"`evaluation.tokens` {now} and not {before}: losses so far are forgotten, and a new best is sought"
        )
    if state["step"] > steps:
        raise InputError(
            f"`steps` {steps}: {run} has done {state['step']} steps already; "
            "give a larger number to train on, or leave `steps` out"
        )
