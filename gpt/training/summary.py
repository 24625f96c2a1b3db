"""What a training says at its end: what the run has reached, where it lies, and samples of it."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.errors import InputError
from gpt.evaluation.baselines import Baselines, read_baselines
from gpt.evaluation.copies import BY_HEART, SEARCHED_TOKENS, find_copies
from gpt.evaluation.loss import Evaluation
from gpt.evaluation.words import Row, difference_words, format_evaluation, source_rows
from gpt.generation.completion import TextEngine
from gpt.generation.sampling import SamplingConfig
from gpt.interrupts import Interruptible
from gpt.log import log
from gpt.memory import is_out_of_memory, peak_memory, release_memory
from gpt.runs.directory import go_on, quoted
from gpt.runs.load import LoadedRun, load_run
from gpt.terminal import command, printable, show
from gpt.tracking.jsonl import Metrics, read_metrics
from gpt.tracking.plot import draw_losses
from gpt.training.baseline_rows import baseline_rows, keep_baselines
from gpt.training.beside import beside, undrawn
from gpt.training.outcome import outcome
from gpt.training.samples import SAMPLE_SEED, SAMPLE_TEMPERATURE, answer_ends, continued, sample_prompt
from gpt.training.schedule import Cooldown
from gpt.training.state import RISE, TrainState
from gpt.training.trainer import Trainer
from gpt.training.validation import Validation

SAMPLE_TOKENS = 200
WIDTH = 1000  # columns: a terminal may fold what is longer than it is wide, but nothing is cut off
HEART_SAMPLES = 6
LAST = 10  # records of metrics.jsonl whose training losses are averaged
GAIN = 0.02  # nats in the last epoch of a fine-tuning: less is nothing
SLACKENED = (
    0.5  # of what the first epoch gained, each by its rates: a training whose last one gained less has slackened
)
FEWEST_EPOCHS = 2.5  # of two, the last one gains much in any training


def report_stop(run: Path, state: TrainState) -> None:
    """Say what a training that was stopped has left, draw loss.png, and say how to go on."""
    on = go_on(run)
    if not state.step:
        saved = "" if state.best_step == 0 else ", and nothing is saved"  # but what it begins with, as the first best
        log.info(f"stopped before the first step: nothing was trained{saved}; begin again with: {on}")
        return
    _draw(run)
    log.info(f"stopped after step {state.step:,}, saved; go on with: {on}")


def _draw(run: Path) -> str:
    """Draw loss.png; its path, or why there is none."""
    try:
        return str(draw_losses(run))
    except Exception as error:  # a full disk, or whatever matplotlib does not like; the run is saved all the same
        return undrawn(error)


def report(run: Path, trainer: Trainer, state: TrainState, validation: Validation) -> None:
    """Draw loss.png, and print the table and a sample from the best checkpoint; Ctrl-C is told that all is saved."""
    if state.cooldown or state.out_of_patience(trainer.config):
        patience = trainer.config.early_stopping_patience
        log.info(f"stopped early: {patience} evaluations in a row without a new best validation loss")
    with Interruptible(words=f"{run} is finished and saved"):
        _report(run, trainer, state, validation)


def _report(run: Path, trainer: Trainer, state: TrainState, validation: Validation) -> None:
    peak = peak_memory(trainer.device)  # before more is loaded for the picture
    beside.draw(run)
    loaded = _load_best(run, trainer.device)
    heart = [*_memorized(run, trainer.config, state, loaded, validation.dataset)] if loaded else []
    baselines, picture = _drawn(run, validation)
    console = Console(highlight=False, soft_wrap=True, width=WIDTH, markup=False, emoji=False)
    console.print(_table(run, trainer, state, validation, peak, picture, loaded, baselines, heart))
    prompt = sample_prompt(validation.dataset)
    continuing = f", continuing {prompt!r}" if prompt else ""
    show(f"\nA sample at temperature {SAMPLE_TEMPERATURE}{continuing}:\n\n{prompt}")
    try:
        if loaded is None:
            raise InputError("the best checkpoint could not be loaded beside what is there")
        ends = answer_ends(validation.dataset)
        for text in continued(loaded.model, loaded.tokenizer, prompt, SAMPLE_TOKENS, ends=ends):
            show(text)
    except InputError as error:
        show(f"(no sample: {error})")
    show("\n")
    if loaded and (words := outcome(TrainState.of(loaded.state), validation.windows)):
        show(f"{words}\n")


def _drawn(run: Path, validation: Validation) -> tuple[Baselines | None, str]:
    """Keep the run's baselines, which loss.png shows, and draw it: its path, or why there is none."""
    picture = beside.drawn()
    if picture is None:  # nobody did both beside this
        return keep_baselines(run, validation.dataset, validation.windows), _draw(run)
    return read_baselines(run, validation.dataset.fingerprint), picture


def _load_best(run: Path, home: str) -> LoadedRun | None:
    """Load the best checkpoint as a second model, on the device or else the CPU; None where that fails."""
    for device in (home, "cpu"):
        try:
            return load_run(run, device)
        except (InputError, OSError) as error:  # the training has ended well all the same
            log.warning(str(error))
            return None
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        release_memory(home)
    return None


def _table(
    run: Path,
    trainer: Trainer,
    state: TrainState,
    validation: Validation,
    peak: int,
    picture: str,
    loaded: LoadedRun | None,
    baselines: Baselines | None,
    heart: list[Row],
) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row(
        "trained", f"{state.step:,} steps, {state.step * trainer.config.batch_tokens:,} tokens, {state.elapsed_s:.0f} s"
    )
    for row in _reached(run, trainer, loaded, baselines) if loaded else ():
        table.add_row(*map(printable, row))
    if state.gain:
        table.add_row("change", f"{difference_words(state.gain, 'loss')} from the best evaluation before")
    if state.complete_evaluation:
        table.add_row("complete split", complete_words(state.complete_evaluation, state.step))
    elif not validation.windows.is_complete:
        tokens = validation.windows.split.tokens
        several = " --data DATASET" if len(validation.dataset.sources) > 1 else ""
        later = printable(f"gpt eval --run {quoted(run)}{several}")
        table.add_row("complete split", f"left out: its {tokens:,} tokens would take longer than the training; {later}")
    if loaded:
        if words := overfitted(run, trainer.config, state, loaded.state):
            table.add_row("overfitted", words)
        if words := still_improving(run, trainer.config, state):
            table.add_row("still improving", words)
        for row in heart:
            table.add_row(*map(printable, row))
    table.add_row("compiled", trainer.compiled.in_words())
    table.add_row("peak memory", f"{peak / 1e6:,.0f} MB")
    evaluations = f", the best of {state.evaluations} evaluations" if state.evaluations > 1 else ""
    if state.cooldown:
        table.add_row("cool-down", cooldown_words(state.cooldown, state))
    if loaded:
        table.add_row("best checkpoint", f"step {loaded.state['step']:,}{evaluations}")
    dataset = validation.dataset
    corpus = f", corpus fingerprint {dataset.corpus_fingerprint[:12]}" if dataset.corpus_fingerprint else ""
    table.add_row("data", printable(f"{dataset.path}{corpus}"))
    table.add_row("run", printable(str(run)))
    table.add_row("picture", printable(picture))
    table.add_row("sample from it", printable(f"{command('sample')} --run {quoted(run)}"))
    return table


def _reached(run: Path, trainer: Trainer, best: LoadedRun, baselines: Baselines | None) -> Iterator[Row]:
    """Give the figures of the best checkpoint's evaluation, and beside them those that need no network."""
    if best.state["evaluation"]:
        evaluation, precision = Evaluation(**best.state["evaluation"]), str(trainer.dtype).removeprefix("torch.")
        yield from format_evaluation(evaluation, precision)
        yield from source_rows(best.state["record"] or {})
        if baselines:
            yield from baseline_rows(baselines, _records(run))


def _memorized(run: Path, config: TrainConfig, state: TrainState, loaded: LoadedRun, dataset: Dataset) -> Iterator[Row]:
    yield "learned by heart", _copied(loaded, dataset)
    if config.init_from != "scratch":
        from gpt.training.memorized import memorized_rows

        yield from memorized_rows(run, config, state, loaded, dataset)


def complete_words(evaluation: Evaluation, step: int) -> str:
    """Format the last weights' figures on the complete split, which are not those of the best ones."""
    figures = dict(format_evaluation(evaluation))
    loss, bits = figures["validation loss"], f"{evaluation.bits_per_byte:.4f} bits per byte"
    return f"{loss}, {bits}, after step {step:,}: {evaluation.tokens:,} tokens"


def cooldown_words(cooldown: Cooldown, state: TrainState) -> str:
    """Say what came of a cool-down."""
    if not cooldown.steps:
        return f"none, as step {cooldown.best_step:,} could not be gone back to"
    steps = f"{cooldown.steps:,} {'step' if cooldown.steps == 1 else 'steps'} from step {cooldown.best_step:,}"
    better = state.best_step == state.step
    return f"{steps}: {'better, and kept' if better else f'no better than step {cooldown.best_step:,}, which is kept'}"


def _copied(loaded: LoadedRun, dataset: Dataset) -> str:
    """Say what samples, drawn as sample.py draws them, share with the training text."""
    sampling = SamplingConfig(max_tokens=SAMPLE_TOKENS, seed=SAMPLE_SEED)
    engine = TextEngine(loaded.model, loaded.tokenizer, HEART_SAMPLES, ends=answer_ends(dataset))
    ids: dict[int, list[int]] = {}
    try:
        prompts = [sample_prompt(dataset)]
        with log.through(logging.NullHandler()):  # nobody asked for these, nor for what is said of them
            for number, _, sample in engine.complete(prompts, sampling, HEART_SAMPLES):
                ids[number] = sample.ids
    except InputError as error:
        return f"not known: no sample could be drawn ({error})"
    try:
        texts = [np.array(of_sample, dtype=np.int64) for of_sample in ids.values()]
        copies = find_copies(texts, dataset.train, loaded.tokenizer, SEARCHED_TOKENS)
    except Exception as error:  # the training has ended well, whatever becomes of its data or of memory
        if not (isinstance(error, InputError | OSError) or is_out_of_memory(error)):
            raise
        return f"not known: the training text could not be searched ({error or 'out of memory'})"
    where = "the training text" if copies.searched == 1 else f"{copies.searched:.0%} of the training text (searched)"
    longest = f"the longest stretch that stands letter for letter in {where} has {copies.longest:,} characters"
    if copies.by_heart:
        return f"{copies.by_heart} of {len(copies.found)} samples hold {BY_HEART}+ characters of it; {longest}"
    return f"no: of {len(copies.found)} samples, {longest}"


def _records(run: Path) -> list[Metrics]:
    """Read all records; none if they cannot be read, so that training ends well."""
    try:
        return read_metrics(run)
    except (InputError, OSError):
        return []


def overfitted(run: Path, config: TrainConfig, state: TrainState, best: dict[str, Any]) -> str | None:
    """Say whether the last weights are worse than the best, whose state is given, or both no better than guesses.

    None where neither is so.
    """
    if best["evaluation"] is None:
        return None
    loss, step, last = best["evaluation"]["loss"], best["step"], state.last_validation_loss
    guessing = math.log(config.model.vocab_size)
    if loss >= guessing:
        return f"nothing was learned that holds for new text: to guess among all tokens alike gives {guessing:.4f}"
    if last is None or last <= loss + RISE:
        return None
    seen = [record["train_loss"] for record in _records(run)[-LAST:] if record["train_loss"] is not None]
    trained = f", the training loss {fmean(seen):.4f}" if seen else ""
    if step == 0:
        optimizer = config.optimizer
        lower = f"--optimizer.learning-rate {optimizer.learning_rate / 3:.2g}"
        if optimizer.name == "muon":
            lower += f" --optimizer.muon-learning-rate {optimizer.muon_learning_rate / 3:.2g}"
        return (
            f"yes, from the first step: validation ended at {last:.4f}{trained}; the weights that it began with have "
            f"{loss:.4f}, and are what sample.py uses. Try a lower rate ({lower}), or more text"
        )
    return (
        f"yes: validation ended at {last:.4f}{trained}; the best, {loss:.4f}, was at step {step:,}, which is what "
        "sample.py uses. Train for fewer epochs, or on more text"
    )


def still_improving(run: Path, config: TrainConfig, state: TrainState) -> str | None:
    """Say how much trained weights have gained in the last epoch, where that is much for the rates of its steps.

    Under a rate that falls to 0 the last epoch of any training gains something: it is held beside what the first one
    gained, each by the mean of its rates (benchmarks/LOG.md). None where it is little, where the last step is not the
    best, of one epoch or two, and from scratch, where a length is chosen in which it no longer pays.
    """
    if config.init_from == "scratch" or state.cooldown or state.best_step != state.step:
        return None
    records = _records(run)
    losses = {record.get("epoch", 0.0): record["val_loss"] for record in records if record.get("val_loss") is not None}
    first, last = min(losses, default=0.0), max(losses, default=0.0)
    if last - first < FEWEST_EPOCHS:
        return None
    after, before = (max(epoch for epoch in losses if epoch <= end) for end in (first + 1, last - 1))

    def gained(begin: float, end: float) -> float:
        rates = [record["learning_rate"] for record in records if begin < record.get("epoch", 0.0) <= end]
        return (losses[begin] - losses[end]) / ((end - begin) * fmean(rates)) if rates else 0.0

    gain = losses[before] - losses[last]
    if gain < GAIN or gained(before, last) < SLACKENED * gained(first, after):
        return None
    return (
        f"perhaps: the last step is the best, and the last epoch gained {gain:.4f} nats of validation, by its low "
        f"rates nearly as much as the first one. A longer training may gain more: --epochs {2 * round(last)} "
        "--early-stopping-patience 3, from the same weights again"
    )
