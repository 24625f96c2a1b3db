"""A training saved as a checkpoint of its run, and restored from one."""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.distributed.parallel import gather, scatter
from gpt.distributed.world import World
from gpt.errors import InputError
from gpt.log import log
from gpt.memory import is_out_of_memory, return_freed_memory
from gpt.runs import checkpoint
from gpt.runs.directory import METRICS, write_config, write_tokenizer
from gpt.tracking.jsonl import read_metrics
from gpt.training.continuation import judge, saved_schedule, set_later_aside, starting_point
from gpt.training.exact import meet_conditions
from gpt.training.guard import first_not_finite, newest_before
from gpt.training.schedule import Schedule, branch_point
from gpt.training.start import initial_weights
from gpt.training.state import START, TrainState
from gpt.training.trainer import Trainer
from gpt.training.validation import Validation, evaluates_completely


def save(run: Path, trainer: Trainer, state: TrainState, must: bool = False) -> None:
    """Write a checkpoint of this moment, and remove those that are no longer kept.

    Where the disk fails, training goes on and the next save tries again; with `must`, OSError is raised. Weights that
    are not finite are not saved, which is said, or with `must` an InputError. None is removed for one whose weights
    gave no usable gradient.
    """
    world, config = trainer.world, trainer.config
    entries = state.state_dict() | trainer.state_dict()
    entries |= {"tokens": state.step * config.batch_tokens, "schedule": Schedule.of(config).state_dict()}
    failure, sick = None, None
    try:
        weights = gather({n: p for n, p in trainer.model.named_parameters() if p.requires_grad}, world)
        moments = gather(trainer.optimizer.state_dict(), world)
        sick = first_not_finite(weights)
        if world.is_main and sick is None:
            checkpoint.save(run, weights, moments, entries)
    except Exception as error:
        if not (isinstance(error, OSError) or is_out_of_memory(error)):
            raise
        reason = error if isinstance(error, OSError) else "out of memory"
        failure = f"step {state.step} could not be saved ({reason}); {_earlier(run)}"
    else:
        if world.is_main and sick is None and not trainer.guard.skipped_in_a_row:
            checkpoint.prune(run, config.checkpoint.keep, branch_point(config.steps, config.optimizer))
    sick, failure = world.broadcast((sick, failure))
    if sick is not None:
        earlier = newest_before(run, state.step)
        failure = f"step {state.step} is not saved, as {sick} has numbers that are not finite; {earlier}"
        if must:
            raise InputError(f"{run}: {failure}")
        log.warning(failure)
    elif failure is None:
        state.mark_saved()
    elif must:
        raise OSError(f"{run}: {failure}" + ("; make space, then go on with `resume`" if run.is_dir() else ""))
    else:
        log.warning(f"{failure}; training goes on, and tries again at the next save")


def _earlier(run: Path) -> str:
    """Say what became of the checkpoints before one that could not be saved."""
    if not run.is_dir():
        return "the run's directory was removed"
    try:
        return "earlier checkpoints are as they were" if checkpoint.list_checkpoints(run) else "no other one is there"
    except OSError:
        return "earlier ones cannot be listed"


def begin(run: Path, trainer: Trainer, validation: Validation) -> TrainState:
    """Begin a training with the weights of the model as they are, or with those of `init_from`.

    Raises InputError if those cannot be had, do not fit, or are not those that the config names by their hash.
    """
    if trainer.config.init_from != "scratch":
        load_base(run, trainer)
    _write_start(run, trainer, validation)
    state = TrainState(unevaluated={**START} if trainer.config.evaluation.at_start else None)
    state.learn_from(validation.dataset, validation.windows)
    return state


def resume(
    run: Path,
    trainer: Trainer,
    validation: Validation,
    allow_other_data: bool = False,
    allow_rate_jump: bool = False,
    from_step: int | None = None,
) -> TrainState | None:
    """Go on from the run's newest whole checkpoint, or from that of a step; None where it has none.

    Raises InputError if the run is beyond the steps asked for, if the learning rate would jump up after it came down,
    unless `allow_rate_jump`, or if the data is not what it was trained on, unless `allow_other_data`.
    """
    world, config = trainer.world, trainer.config
    chosen: list[checkpoint.Checkpoint | None] = []  # rank 0's alone

    def read() -> dict[str, Any] | None:
        chosen.append(starting_point(run, from_step))
        return chosen[0].state if chosen[0] else None

    entries = world.from_main(read)
    if entries is None:
        world.from_main(lambda: _keep_records(run))
        return None
    newest = entries["step"]
    with _as_written(run):
        _require_continuation(run, config, validation, entries, allow_other_data)
    saved, entries = judge(chosen[0] if chosen else None, entries, config, run, world, allow_rate_jump)
    _require_finite(run, entries["step"], world.broadcast(first_not_finite(saved.model if saved else {})))
    if config.lora.rank:
        load_base(run, trainer, resumes=True)
    restore(run, trainer, saved)
    if from_step is not None or entries["step"] != newest:
        world.from_main(lambda: set_later_aside(run, entries["step"]))
    with _as_written(run):
        state = TrainState.of(entries)
        trainer.load_state_dict(entries)
        _restore_evaluations(run, state, config, validation, world)
    meet_conditions(trainer.state_dict()["conditions"], entries.get("conditions", {}), trainer.device)
    _write_start(run, trainer, validation)
    return state


def restore(run: Path, trainer: Trainer, saved: checkpoint.Checkpoint | None) -> None:
    """Put the weights and moments of a checkpoint, which rank 0 has read, into model and optimizer."""
    world = trainer.world
    load_weights(trainer.model, world, lambda: saved.model if saved else {}, run)
    moments = saved.optimizer if saved else {}
    shapes = world.broadcast({name: (list(tensor.shape), tensor.dtype) for name, tensor in moments.items()})
    trainer.optimizer.load_state_dict(scatter(moments, trainer.optimizer.empty_state(shapes), world))


def _keep_records(run: Path) -> None:
    """Put the records of a run aside that has no checkpoint, for it begins again, and its new ones take their place."""
    records = read_metrics(run)
    if records:
        kept = run / f"metrics-until-step-{records[-1]['step']}.jsonl"
        (run / METRICS).replace(kept)
        log.warning(f"{run}: has no checkpoint, and begins again; what it recorded before is kept in {kept.name}")


def _write_start(run: Path, trainer: Trainer, validation: Validation) -> None:
    """Write what the run is from now on, once nothing can refuse any more."""

    def write() -> None:
        write_tokenizer(run, validation.dataset.tokenizer)
        write_config(run, trainer.config)

    trainer.world.from_main(write)


@contextlib.contextmanager
def _as_written(run: Path) -> Generator[None]:
    """Raise InputError for state, read in this context, that this program never writes."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{run}: the state of its checkpoint is not what this program writes ({error!r}); go on from another one "
            "with `from_step`, or begin a new run from these weights with `init_from`"
        ) from error


def _restore_evaluations(
    run: Path, state: TrainState, config: TrainConfig, validation: Validation, world: World
) -> None:
    """Keep of a state what coming evaluations can be compared with, and see what it lacks at the end of a training."""
    cut_short = state.unevaluated is not None
    state.record = state.unevaluated or state.record
    if _evaluates_alike(state, validation):
        best = world.from_main(lambda: checkpoint.best_state(run))
        state.take_best_from(_comparable(best, validation))
    else:
        state.forget_evaluations()
    state.learn_from(validation.dataset, validation.windows)
    complete = state.complete_evaluation or not evaluates_completely(config, validation.dataset, state.step)
    lacks = state.is_over(config) and (  # where it was not the end before
        not (state.evaluation and complete) or validation.lacks_training(state, state.record or {})
    )
    state.unevaluated = state.record if cut_short or lacks else None


def _comparable(entries: dict[str, Any] | None, validation: Validation) -> TrainState | None:
    """Return the state of the best checkpoint, if its loss is of the same tokens as those to come."""
    best = TrainState.of(entries) if entries else None
    if best is None or best.evaluation is None or not _evaluates_alike(best, validation):
        return None
    return best if best.evaluation.tokens == validation.windows.counted else None


def _evaluates_alike(state: TrainState, validation: Validation) -> bool:
    """Tell whether the evaluations before predicted the same tokens of the same data as those to come."""
    same_data = state.dataset_fingerprint == validation.dataset.fingerprint
    return same_data and state.evaluated_windows == len(validation.windows)


def _require_finite(run: Path, step: int, sick: str | None) -> None:
    if sick is not None:
        raise InputError(f"{run}: {sick} of step {step} has numbers that are not finite; {newest_before(run, step)}")


def load_base(run: Path, trainer: Trainer, resumes: bool = False) -> None:
    """Put the weights of `init_from` into the model, all or those that are frozen; the config keeps their SHA-256."""
    config, world, digests = trainer.config, trainer.world, []

    def read() -> dict[str, Tensor]:
        weights, digest = initial_weights(config, run if resumes else None)
        digests.append(digest)
        return weights

    load_weights(trainer.model, world, read, run, trained=not config.lora.rank)
    return_freed_memory(trainer.device)
    trainer.config = replace(config, init_sha256=world.broadcast(digests[0] if digests else None))


def load_weights(
    model: nn.Module, world: World, read: Callable[[], dict[str, Tensor]], run: Path, trained: bool = True
) -> None:
    """Put the whole weights that rank 0 reads into the model, each rank's part in its place.

    They are all that are trained, or all that are not. Raises InputError, which names `run`, if they do not fit.
    """
    own = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad == trained}
    weights: dict[str, Tensor] = {}  # rank 0's alone

    def read_fitting() -> None:
        weights.update(read())
        if {name: tensor.shape for name, tensor in weights.items()} != {n: p.shape for n, p in own.items()}:
            raise InputError(f"{run}: the weights do not fit the model of its config.json")

    world.from_main(read_fitting)
    for name, place in own.items():  # one after the other, and each is let go of then
        whole = {name: weights.pop(name)} if world.is_main else {}
        place.copy_(scatter(whole, {name: place}, world)[name])


def _require_continuation(
    run: Path, config: TrainConfig, validation: Validation, entries: dict[str, Any], allow_other_data: bool
) -> None:
    state, schedule = TrainState.of(entries), saved_schedule(entries, run)
    data, windows, corpora = validation.dataset, validation.windows, _corpora(state, validation.dataset)
    if state.dataset_fingerprint != data.fingerprint:
        if not allow_other_data:
            raise InputError(
                f"{data.path}: is not the dataset that {run} was trained on, or has changed since{corpora}; "
                "restore it, begin a new run from these weights with `init_from`, or go on with `allow_other_data`"
            )
        log.warning(
            f"data: {data.path} is not what {run} was trained on so far{corpora}; it goes on with it, and a new best"
        )
    elif not _evaluates_alike(state, validation):
        tokens = windows.budget_of(state.evaluated_windows)
        now = config.evaluation.tokens
        if not allow_other_data:
            raise InputError(
                f"`evaluation.tokens` {now}: the losses of {run} so far, its best one too, are of another part of the "
                f"validation split: go on with `evaluation.tokens` {tokens}, which is the same part, or with "
                "`allow_other_data`, which forgets them"
            )
        log.warning(
            f"`evaluation.tokens` {now} and not {tokens}: losses so far are forgotten, and a new best is sought"
        )
    elif corpora:
        log.warning(
            f"data: {data.path} was prepared anew, of other texts or with other settings{corpora}; what is learned of "
            "it is the same, token for token"
        )
    if state.cooldown and schedule != Schedule.of(config):
        raise InputError(
            f"{run}: has stopped early, and its rate has come down from its best step; another length or rate is for a "
            "new run from these weights (`init_from`)"
        )
    if state.step > config.steps:
        raise InputError(
            f"`steps` {config.steps}: {run} has done {state.step} steps already; "
            "give a larger number to train on, or leave `steps` out"
        )


def _corpora(state: TrainState, data: Dataset) -> str:
    """Tell the corpora apart that a run was trained on and that it is to go on with, where both say what they are."""
    before, now = state.corpus_fingerprint, data.corpus_fingerprint
    return f" (corpus {before[:12]}, and now {now[:12]})" if before and now and before != now else ""
