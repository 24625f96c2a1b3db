"""Train a GPT: without arguments, a small one on the standard library of Python."""

import json
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from gpt.analysis.cost import adapter_count
from gpt.commands.runs import look
from gpt.commands.train_options import TrainCommand, parse_train
from gpt.config import DEFAULT_DATA, TrainConfig
from gpt.config_io import to_dict
from gpt.dataset.dataset import Dataset, open_dataset
from gpt.dataset.documents import Documents
from gpt.dataset.loader import Loader, Prefetcher
from gpt.dataset.manifest import ShardInfo
from gpt.dataset.mixture import open_weighted
from gpt.dataset.samples import sample_pieces
from gpt.device import choose_device, choose_products
from gpt.distributed.launch import join_world
from gpt.distributed.world import World
from gpt.errors import InputError, Reported
from gpt.log import log
from gpt.presets import FINETUNE
from gpt.runs.checkpoint import list_checkpoints, step_of
from gpt.runs.directory import go_on, is_run, open_run, quoted, require_unused, usual_name
from gpt.tracking.jsonl import Metrics
from gpt.tracking.progress import ProgressDisplay
from gpt.tracking.tracking import Tracking
from gpt.tracking.wandb import log_checkpoint
from gpt.training.beside import beside
from gpt.training.budget import budgeted, suited
from gpt.training.checkpointing import begin, resume, save
from gpt.training.cooldown import cool_down
from gpt.training.exact import exact_arithmetic, is_exact
from gpt.training.forecast import forecast_lines
from gpt.training.guard import diverged_at
from gpt.training.profile import step_profiler
from gpt.training.schedule import branch_point
from gpt.training.signals import SAVED_BUT_NOT_FINISHED, StopRequest
from gpt.training.start import fit_to_dataset, new_model, require_tokenizer, training_loader
from gpt.training.state import TrainState, due
from gpt.training.summary import report, report_stop
from gpt.training.trainer import StepFailed, Trainer
from gpt.training.validation import Validation

MOST_SEARCHED = 1_000_000_000  # tokens: to find documents among more takes minutes, while other processes wait
MOST_NAMED = 20  # documents of a skipped step


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says, alone or as one of several processes; return the exit code."""
    command = parse_train(sys.argv[1:] if arguments is None else arguments)
    config, device = command.config, choose_device(command.config.device)
    choose_products(config.float32_matmul_precision, device)  # which says so where it cannot be had
    with StopRequest() as stop, exact_arithmetic(config.exact, device), join_world(device, config.timeout) as world:
        log.info(f"{command.reason}; {_where(config, world)}")
        command = world.broadcast(command)
        dataset = begin_with(command, world)
        config = settle(command, dataset, world) if dataset else command.config
        if dataset is None or command.options.dry_run:
            if world.is_main:
                print(json.dumps(to_dict(config), indent=2), flush=True)
            log.info("\n".join(forecast_lines(config, dataset, world)))  # which all processes try together
            return world.exit(0)
        with opened_run(command, config, dataset, world) as run:
            trainer = Trainer(new_model(config, device), config, world)
            validation = Validation(config, dataset)
            if beside.process:
                beside.measure(run, dataset, validation.windows)
            state = resume(run, trainer, validation, **command.how_to_resume) if command.resumes else None
            state = state or begin(run, trainer, validation)  # a run may have ended before its first checkpoint
            log.info(_beginning(run, trainer, state))
            finished = fit(run, trainer, state, validation, stop, command.options.profile)
            if world.is_main and finished:
                report(run, trainer, state, validation)
                if config.wandb_checkpoint:
                    log_checkpoint(config, run)
            elif world.is_main:
                report_stop(run, state)
        return world.exit(0 if finished else SAVED_BUT_NOT_FINISHED)


def fit(
    run: Path, trainer: Trainer, state: TrainState, validation: Validation, stop: StopRequest, profile: bool = False
) -> bool:
    """Train, evaluate, record and save. True if the training is finished: by its last step, or early, cooled down.

    False if `stop` or `stop_at` ended it before. With `profile`, a few steps are traced.
    Raises InputError if batch after batch had to be skipped, or if the data can no longer be read, once what was done
    is saved; and OSError if the end of it cannot be saved.
    """
    config, world = trainer.config, trainer.world
    loader = training_loader(config, validation.dataset)
    last, branch = min(config.steps, config.stop_at or config.steps), branch_point(config.steps, config.optimizer)
    save_is_due, start = False, time.perf_counter() - state.elapsed_s
    with (
        _tracking(run, state, config, last, world) as tracking,
        stop.orderly(state.unsaved_steps if world.is_main else None),
        _saved_where_it_fails(run, trainer, state),
        step_profiler(run, trainer.device) if profile and world.is_main else nullcontext(lambda: None) as profiled,
        Prefetcher(loader, trainer.first_row, trainer.rows, trainer.device) as batches,
    ):
        while state.goes_on(config, last) and not world.any(stop.is_set(batches.fault(state.step))):
            # An evaluation that was cut short is made up for before the next step.
            state.record = record = state.unevaluated or trainer.step(state, batches.batch(state.step))
            state.elapsed_s = time.perf_counter() - start
            record |= {"elapsed_s": state.elapsed_s, **loader.epoch(state.step)}
            if "skipped" in record and world.is_main:
                _tell_whose(record, loader, validation.dataset, run)
            if state.unevaluated or state.is_over(config) or due(state.step, config.evaluation.every):
                validation.evaluate(trainer, state, record, stop, lambda: save(run, trainer, state))
                if state.unevaluated:
                    break
                cool_down(run, trainer, state)
            tracking.write(record)
            state.warn_of_overfitting(record)
            if trainer.guard.gave_up:
                break
            save_is_due |= state.is_best or due(state.step, config.checkpoint.every)
            save_is_due |= state.step in (last, branch, state.saved_step)  # what is saved may lack an evaluation
            # After a skipped batch, weights are saved only where an evaluation has found their loss finite.
            if save_is_due and (state.is_best or not trainer.guard.skipped_in_a_row):
                save(run, trainer, state)
                save_is_due = False
            profiled()
        if state.saved_step < state.step and not trainer.guard.gave_up:
            save(run, trainer, state, must=True)
    if trainer.guard.gave_up:
        raise diverged_at(state.step, run)
    if lost := world.first(None if stop.fault is None else str(stop.fault)):
        raise (InputError if world.is_main else Reported)(f"{lost}; then go on with: {go_on(run)}")
    return state.is_over(config) and not state.unevaluated


def _tell_whose(record: Metrics, loader: Loader, dataset: Dataset, run: Path) -> None:
    """Say of which documents, and of which datasets of a mixture, the samples of a skipped step are."""
    step, samples = record["step"], record["samples"]
    see = f"see them by gpt data show --run {quoted(run)} --step {step}"
    if len(dataset.sources) > 1:
        counts = Counter(loader.source.locate(sample)[0] for sample in samples)
        words = ", ".join(f"{count} of {dataset.sources[source].name}" for source, count in sorted(counts.items()))
        log.warning(f"step {step:,}: its samples: {words}; {see}")
    if dataset.train.tokens > MOST_SEARCHED:
        log.warning(f"step {step:,}: its documents are not looked up while it trains, in so much text; {see}")
        return
    from gpt.corpus.origins import names_of

    documents = [Documents(source.dataset.train, dataset.tokenizer) for source in dataset.sources]
    try:
        pieces = [*sample_pieces(loader, documents, range(samples[0], samples[-1] + 1))]
    except InputError as error:  # which the next batch meets as well
        log.warning(f"step {step:,}: its documents cannot be looked up: {error}")
        return
    if names := [*dict.fromkeys(names_of(dataset, pieces).values())]:
        more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
        log.warning(f"step {step:,}: its documents: {'; '.join(names[:MOST_NAMED])}{more}; {see}")


@contextmanager
def _saved_where_it_fails(run: Path, trainer: Trainer, state: TrainState) -> Generator[None]:
    """Save the steps done so far when a step in this context cannot be done."""
    try:
        yield
    except StepFailed:
        trainer.model.zero_grad(set_to_none=True)
        if state.step > state.saved_step:
            save(run, trainer, state)
        raise


def _tracking(run: Path, state: TrainState, config: TrainConfig, last: int, world: World) -> Tracking:
    """Give the sinks of the coming records, of several processes those of the main one."""
    display = ProgressDisplay(
        config.steps, state.step, last, state.elapsed_s, state.last_validation_loss, quiet=not world.is_main
    )
    return Tracking(run, config, display, state.step - bool(state.unevaluated), lambda: state.saved_step, world.is_main)


# ---- what is checked before ----


def begin_with(command: TrainCommand, world: World) -> Dataset | None:
    """Open the dataset, the default one prepared if it is not there yet; a dry run can do without.

    Raises InputError if that cannot be, or if a new run has no place.
    """
    named, missing = command.config.run_dir, [path for path in command.config.datasets if not path.exists()]
    if named and not command.resumes:
        world.from_main(lambda: require_unused(named))
    if command.options.dry_run and missing:
        log.warning(f"{missing[0]}: is not there yet; the forecast goes without it")
        return None
    world.from_main(lambda: prepare_default(DEFAULT_DATA) if DEFAULT_DATA in missing else None)
    dataset = open_data(command.config, world)
    if world.is_main and named is None and not command.options.dry_run:
        point_out_unfinished(command.config)
    return dataset


def open_data(config: TrainConfig, world: World) -> Dataset:
    """Open the dataset of a config, or its mixture. Raises InputError if that cannot be."""
    if isinstance(config.data, tuple):
        return open_weighted(config.datasets, lambda path: open_for_all(path, world))
    path, _, weight = str(config.data).rpartition("=")
    if path and not config.data.exists() and Path(path).exists():
        raise InputError(f"`data` {config.data}: one dataset alone has no weight ({weight}); write {path}")
    return open_for_all(config.data, world)


def open_for_all(data: Path, world: World) -> Dataset:
    """Open the dataset; the first process alone hashes its files. Raises InputError if the others see other ones."""
    opened: list[Dataset] = []  # rank 0's alone

    def check() -> list[ShardInfo]:
        opened.append(open_dataset(data))
        return opened[0].shards

    shards = world.from_main(check)
    dataset = opened[0] if opened else open_dataset(data, shards)
    world.require_same("`data`", dataset.fingerprint)
    return dataset


def point_out_unfinished(config: TrainConfig) -> None:
    """Say how to go on with the newest run of this name, where it was stopped: a new one begins beside it."""
    earlier = [path for path in Path("runs").glob(f"{usual_name(config)}*") if is_run(path)]
    if earlier:
        newest = max(earlier, key=lambda path: path.stat().st_mtime)
        entry = look(newest)
        if entry.state == "stopped" and entry.step:
            log.info(f"{newest} stands at step {entry.step:,} of {entry.steps:,}: to go on with it: {go_on(newest)}")


def prepare_default(data: Path) -> None:
    """Prepare the standard library of Python. Ctrl-C ends it at once, and leaves nothing by half."""
    from gpt.commands.prepare import prepare_recipe, print_dataset
    from gpt.corpus.recipes.python import Python

    log.info(f"preparing {data}: gpt prepare python")
    prepared = prepare_recipe(Python(out=data))
    assert prepared is not None
    print_dataset(prepared)


def settle(command: TrainCommand, dataset: Dataset, world: World) -> TrainConfig:
    """Give the settings once the dataset is known: shape, vocabulary and length; what was chosen is said.

    Raises InputError if the two cannot go together.
    """
    config, done = command.config, None
    if config.preset == FINETUNE and not command.resumes:
        from gpt.training.finetuning import plan

        return plan(config, command.asked, dataset, world, timed=not command.options.dry_run)
    if command.resumes:
        done = command.options.from_step or world.broadcast(_last_step(config.run_dir) if world.is_main else None)
    else:
        config = suited(config, command.asked, dataset, world.device)
    config = fit_to_dataset(config, dataset, command.resumes)
    return budgeted(config, command.asked, dataset, world, done)


def _last_step(run: Path | None) -> int:
    """Give the step of a run's newest checkpoint; 0 where there is none."""
    saved = list_checkpoints(run) if run else []
    return step_of(saved[-1]) if saved else 0


@contextmanager
def opened_run(command: TrainCommand, config: TrainConfig, dataset: Dataset, world: World) -> Generator[Path]:
    """Give the run's directory, in which no other process trains meanwhile.

    Raises InputError if that cannot be, or if the run's tokenizer is not the dataset's.
    """
    world.from_main(lambda: require_tokenizer(config, dataset, command.resumes, command.options.allow_other_data))
    with ExitStack() as stack:
        text = dataset.tokenizer, command.resumes, dataset.recipe.get("chat_template")
        yield world.from_main(lambda: stack.enter_context(open_run(config, *text)))


def _beginning(run: Path, trainer: Trainer, state: TrainState) -> str:
    """Say what is trained, from where to where."""
    reach = f"from step {state.step:,} to {trainer.config.steps:,}{trainer.micro_batch.in_words()}"
    reach += _adapters(trainer) if trainer.config.lora.rank else ""
    return f"run: {run}, {trainer.model.parameter_count():,} parameters, {reach}"


def _adapters(trainer: Trainer) -> str:
    lora = trainer.config.lora
    return f"; {adapter_count(trainer.config):,} of them, adapters of rank {lora.rank}, are trained"


def _where(config: TrainConfig, world: World) -> str:
    """Say where a training computes, and what it promises of a resume."""
    exact = "exact" if is_exact(config.exact, world.device) else "not exact"
    return f"device: {world.device}, {exact}" + (f", {world.size} processes" if world.size > 1 else "")
