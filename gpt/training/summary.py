"""What a run has reached, where it lies, and samples of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table

from gpt.dataset.dataset import Dataset
from gpt.distributed.parallel import is_sharded, reshard
from gpt.distributed.world import World
from gpt.errors import InputError, OutOfMemory
from gpt.evaluation.loss import Evaluation
from gpt.evaluation.memorization import BY_HEART, find_copies
from gpt.evaluation.words import difference_words, format_evaluation
from gpt.generation.completion import complete_texts, opening_ids, text_engine
from gpt.generation.config import SamplingConfig
from gpt.generation.sampling import sample
from gpt.interrupts import Interruptible
from gpt.log import log
from gpt.memory import is_out_of_memory, peak_memory, release_memory
from gpt.model.transformer import GPT
from gpt.runs.directory import go_on, quoted
from gpt.runs.load import LoadedRun, load_run
from gpt.terminal import printable, show
from gpt.text.tokenizer import Tokenizer
from gpt.tracking.plot import draw_losses
from gpt.training.overfitting import overfitted

if TYPE_CHECKING:
    from gpt.training.trainer import Trainer

SAMPLE_TOKENS, SAMPLE_TEMPERATURE, SAMPLE_SEED = 200, 0.6, 1
WIDTH = 1000  # columns: a terminal may fold what is longer than it is wide, but nothing is cut off
HEART_SAMPLES = 6


def sample_text(model: GPT, dataset: Dataset, tokens: int, world: World) -> str:
    """The dataset's prompt and what the model makes of it; always drawn alike, so that only the model makes it differ.

    Of several processes all call this. Rank 0 makes it alone, or if they share the model, all read what rank 0 draws:
    where each drew by itself, one number that is rounded otherwise would make some go on and others end. Where no
    sample can be made, as of weights that are not finite, the reason takes its place: it does not end a training.
    """
    if is_sharded(model):
        try:
            text = _sample_text(model, dataset, tokens, world)
            failed = world.any(False)
        except OutOfMemory:
            if not world.any_at_once():  # the others wait for this rank's part of the model: where it ends, they notice
                raise
            text, failed = "", True
        reshard(model)
        return "(no sample: out of memory in one of the processes)" if failed else text
    return world.from_main(lambda: _sample_text(model, dataset, tokens))


def _sample_text(model: GPT, dataset: Dataset, tokens: int, world: World | None = None) -> str:
    was_training = model.training
    model.eval()
    prompt = sample_prompt(dataset)
    try:
        text = prompt + "".join(continued(model, dataset.tokenizer, prompt, tokens, world))
    except InputError as error:
        if world is not None and isinstance(error, OutOfMemory):
            raise  # of one rank alone, perhaps
        text = f"(no sample: {error})"
    finally:
        model.train(was_training)
    return text


def sample_prompt(dataset: Dataset) -> str:
    return dataset.recipe.get("sample_prompt", "")


def continued(model: GPT, tokenizer: Tokenizer, prompt: str, tokens: int, world: World | None = None) -> Iterator[str]:
    """The continuation of a prompt in pieces, as far as the context holds both; with a world, what its rank 0 draws."""
    room = max(1, model.config.context_length - len(opening_ids(tokenizer, prompt)))
    sampling = SamplingConfig(max_tokens=min(tokens, room), temperature=SAMPLE_TEMPERATURE, seed=SAMPLE_SEED)
    engine = text_engine(model, tokenizer)
    if world is not None:
        engine.sample = lambda *arguments: torch.tensor(world.from_main(lambda: sample(*arguments).tolist()))
    for _, text, _ in complete_texts(engine, tokenizer, [prompt], sampling):
        yield text


def beginning(trainer: "Trainer") -> str:
    """What is trained, from where to where, in words."""
    parameters = trainer.model.parameter_count()
    reach = f"from step {trainer.step:,} to {trainer.config.steps:,}{trainer.micro_batch.in_words()}"
    return f"run: {trainer.run}, {parameters:,} parameters, {reach}"


def report_stop(trainer: "Trainer") -> None:
    """Say what a training that was stopped has left, draw loss.png, and say how to go on."""
    if not trainer.world.is_main:
        return
    on = go_on(trainer.run)
    if not trainer.step:
        log.info(f"stopped before the first step: nothing was trained, and nothing is saved; begin again with: {on}")
        return
    _draw(trainer.run)
    log.info(f"stopped after step {trainer.step:,}, saved; go on with: {on}")


def _draw(run: Path) -> str:
    """Draw loss.png; its path, or why there is none."""
    try:
        return str(draw_losses(run))
    except Exception as error:  # a full disk, or whatever matplotlib does not like; the run is saved all the same
        return f"could not be drawn ({type(error).__name__}: {error})"


def report(trainer: "Trainer") -> None:
    """Draw loss.png, and print the table and a sample from the best checkpoint; Ctrl-C is told that all is saved."""
    with Interruptible(words=f"{trainer.run} is finished and saved"):
        _report(trainer)


def _report(trainer: "Trainer") -> None:
    peak = peak_memory(trainer.device)  # before more is loaded for the picture
    picture = _draw(trainer.run)
    loaded = _load_best(trainer)
    console = Console(highlight=False, soft_wrap=True, width=WIDTH, markup=False, emoji=False)
    console.print(_table(trainer, peak, picture, loaded))
    prompt = sample_prompt(trainer.dataset)
    continuing = f", continuing {prompt!r}" if prompt else ""
    show(f"\nA sample at temperature {SAMPLE_TEMPERATURE}{continuing}:\n\n{prompt}")
    try:
        if loaded is None:
            raise InputError("the best checkpoint could not be loaded beside what is there")
        for text in continued(loaded.model, loaded.tokenizer, prompt, SAMPLE_TOKENS):
            show(text)
    except InputError as error:
        show(f"(no sample: {error})")
    print()


def _load_best(trainer: "Trainer") -> LoadedRun | None:
    """The best checkpoint as a second model: on the device, else on the CPU, else None, as memory and files allow."""
    for device in (trainer.device, "cpu"):
        try:
            return load_run(trainer.run, device)
        except (InputError, OSError) as error:  # the training has ended well all the same
            log.warning(str(error))
            return None
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        release_memory(trainer.device)
    return None


def _table(trainer: "Trainer", peak: int, picture: str, loaded: LoadedRun | None) -> Table:
    tokens = trainer.step * trainer.config.batch_tokens
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("trained", f"{trainer.step:,} steps, {tokens:,} tokens, {trainer.elapsed:.0f} s")
    if loaded and loaded.state["evaluation"]:
        for row in format_evaluation(
            Evaluation(**loaded.state["evaluation"]), str(trainer.dtype).removeprefix("torch.")
        ):
            table.add_row(*row)
    if trainer.gain:
        table.add_row("change", f"{difference_words(trainer.gain, 'loss')} from the best evaluation before")
    if trainer.complete_evaluation:
        table.add_row("complete split", complete_words(trainer.complete_evaluation, trainer.step))
    elif not trainer.windows.is_complete:
        tokens = trainer.windows.split.tokens
        later = printable(f"gpt eval --run {quoted(trainer.run)}")
        table.add_row("complete split", f"left out: its {tokens:,} tokens would take longer than the training; {later}")
    if loaded:
        if words := overfitted(trainer, loaded.state):
            table.add_row("overfitted", words)
        table.add_row("learned by heart", _copied(loaded, trainer.dataset))
    table.add_row("compiled", trainer.compiled.in_words())
    table.add_row("peak memory", f"{peak / 1e6:,.0f} MB")
    evaluations = f", the best of {trainer.evaluations} evaluations" if trainer.evaluations > 1 else ""
    if loaded:
        table.add_row("best checkpoint", f"step {loaded.state['step']:,}{evaluations}")
    table.add_row("run", printable(str(trainer.run)))
    table.add_row("picture", printable(picture))
    table.add_row("sample from it", printable(f"python sample.py --run {trainer.run}"))
    return table


def complete_words(evaluation: Evaluation, step: int) -> str:
    """The figure of the last weights on the complete split, which is not that of the best ones."""
    return (
        f"{dict(format_evaluation(evaluation))['validation loss']}, after step {step:,}: {evaluation.tokens:,} tokens"
    )


def _copied(loaded: LoadedRun, dataset: Dataset) -> str:
    """What samples, drawn as sample.py draws them, share with the training text, in words."""
    sampling = SamplingConfig(max_tokens=SAMPLE_TOKENS, seed=SAMPLE_SEED)
    engine = text_engine(loaded.model, loaded.tokenizer, HEART_SAMPLES)
    texts: dict[int, str] = {}
    try:
        prompts = [sample_prompt(dataset)]
        for number, _, sample in complete_texts(engine, loaded.tokenizer, prompts, sampling, HEART_SAMPLES):
            texts[number] = sample.text
    except InputError as error:
        return f"not known: no sample could be drawn ({error})"
    try:
        copies = find_copies(list(texts.values()), dataset.train, loaded.tokenizer)
    except Exception as error:  # the training has ended well, whatever becomes of its data or of memory
        if not (isinstance(error, InputError | OSError) or is_out_of_memory(error)):
            raise
        return f"not known: the training text could not be searched ({error or 'out of memory'})"
    where = "the training text" if copies.searched == 1 else f"{copies.searched:.0%} of the training text (searched)"
    longest = f"the longest stretch that stands letter for letter in {where} has {copies.longest:,} characters"
    if copies.by_heart:
        return f"{copies.by_heart} of {copies.samples} samples hold {BY_HEART}+ characters of it; {longest}"
    return f"no: of {copies.samples} samples, {longest}"
