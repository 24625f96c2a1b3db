"""The plan of a fine-tuning, of which its user needs to name nothing: length, batch, rate and evaluations, and why.

All of it follows from the size of the text and of the trained weights; whatever is named by a flag stays as it is. The
tables are in gpt.suits, where they come from in docs/fine-tuning.md.
"""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

from gpt.analysis.cost import TABLES, parameters, weight_count
from gpt.config import TrainConfig
from gpt.dataset.dataset import SHORTEST_CONTEXT, Dataset
from gpt.distributed.world import World
from gpt.errors import InputError
from gpt.log import log
from gpt.presets import FINETUNE
from gpt.runs.directory import by_name, is_run, read_config
from gpt.suits import Suit, rate_for, suit_for
from gpt.tracking.progress import duration
from gpt.training.budget import (
    BY_HEART,
    EVALUATED_OF_LEARNED,
    EVALUATIONS,
    Asked,
    epochs_words,
    laid_over,
    longest_window,
    per_epoch,
    require_few_epochs,
    source_lines,
    steps_in,
    within_limit,
)
from gpt.training.forecast import Forecast
from gpt.training.schedule import SCALED
from gpt.training.start import fit_to_dataset, training_loader
from gpt.training.validation import evaluations_in, measured_in, validation_windows

EVALUATED = {"evaluation.every", "evaluation.per_epoch"}
LEAST_STEPS = 8  # in an epoch: of less text, batches become smaller and not fewer
LORA_SEQUENCES = 32  # in a batch of adapters, which learn less from larger ones
WARMUP, LEAST_WARMUP = 0.03, 5  # of the steps; steps
MOST_SAMPLING = 0.1  # of the time
SAMPLED = 60  # tokens that are learned from in the time that one is drawn, about, on a CPU
LEAST_SAMPLE = 16  # tokens; a shorter sample shows nothing
TRIAL_SECONDS = 0.2
RATES = ("learning_rate", "muon_learning_rate")
# What a run that was trained by Muon, or has n-grams, keeps of its optimizer.
OPTIMIZER = (
    *("name", *RATES, *(f"{kind}_lr_scale" for kind in SCALED), "muon_momentum", "newton_schulz_iterations"),
    *("beta1", "beta2", "weight_decay", "muon_cautious_decay"),
)


def plan(config: TrainConfig, asked: Asked, dataset: Dataset, world: World, timed: bool = True) -> TrainConfig:
    """Set what the user of a new fine-tuning has not named, and say what was chosen and why, and the time it takes.

    Raises InputError where weights and data cannot go together, or a split is shorter than the least window.
    """
    if config.init_from == "scratch":
        raise InputError(f"preset {FINETUNE}: is for trained weights; name a run or a model by `init_from`")
    weights_context = config.model.context_length
    suit = suit_for(config.init_from, dataset.train.tokens)
    config = fit_to_dataset(_shaped(config, asked, dataset, world, suit), dataset)
    loader = training_loader(config, dataset)
    epoch = loader.windows / config.batch_sequences  # in steps
    if config.evaluation.per_epoch and asked.settings & EVALUATED != {"evaluation.every"}:
        config, asked = per_epoch(config, asked, epoch)
    most = suit.lora_epochs if config.lora.rank else suit.most_epochs(config.model)
    with_length = partial(_with_length, dataset.train.tokens)
    if asked.minutes is not None:
        config = laid_over(config, _rates(config, asked, config.steps), asked)  # Muon's steps take longer than AdamW's
        _, config = steps_in(asked, config, dataset, world, 0, with_length)
    elif asked.epochs is not None:
        config = with_length(config, max(1, round(asked.epochs * epoch)), asked)
    elif "steps" in asked.settings:
        config = with_length(config, config.steps, asked)
    else:
        steps = within_limit(max(EVALUATIONS, math.ceil(most * epoch)), config, dataset, loader)
        config = with_length(config, max(1, steps), asked)
    require_few_epochs(config, dataset, loader)
    lines = [*_words(config, asked, dataset, epoch, most, weights_context), *source_lines(config, dataset)]
    log.info("\n".join([*lines, _time_here(config, dataset, world)] if timed else lines))
    return config


def _shaped(config: TrainConfig, asked: Asked, dataset: Dataset, world: World, suit: Suit) -> TrainConfig:
    """Fit windows and batch to the text: windows that both splits can fill, and LEAST_STEPS batches in an epoch."""
    tokens, context_length = dataset.train.tokens, config.model.context_length
    changes: dict[str, Any] = {}
    if "model.context_length" not in asked.settings:
        fewest = min(dataset.shortest - 1, max(SHORTEST_CONTEXT, tokens // LEAST_STEPS))
        if fewest < context_length:
            changes["model.context_length"] = context_length = longest_window(fewest)
    own = _trained_with(config, asked)
    batch_tokens = min(suit.batch_tokens, own.batch_tokens) if own else suit.batch_tokens
    sequences = min(batch_tokens, tokens // LEAST_STEPS) // context_length
    if config.lora.rank:
        sequences = min(sequences, LORA_SEQUENCES)
        changes |= {"model.dropout": 0.0, "optimizer.weight_decay": 0.0}
    shared = max(1, sequences // world.size) * world.size  # among the processes, equally
    changes["batch_tokens"] = shared * context_length
    return laid_over(config, changes, asked)


def _trained_with(config: TrainConfig, asked: Asked) -> TrainConfig | None:
    """Read the settings of the run that the weights are of, where its optimizer goes on; None where a new one begins.

    The rates of the table are for GPT-2's weights and AdamW. Weights that Muon trained, and rows of n-grams, of which
    few move in a step, learn at rates ten times as high.
    """
    if config.lora.rank or "optimizer.name" in asked.settings:
        return None
    own = whole_weights(config.init_from)
    return own if own and (own.optimizer.name == "muon" or own.model.ngram > 1) else None


def whole_weights(name: str | Path) -> TrainConfig | None:
    """Read the settings by which all weights of a run were trained: of adapters, those of the run that they are put on.

    None where that is no run.
    """
    if not is_run(path := by_name(name)):
        return None
    config = read_config(path)
    return whole_weights(config.init_from) if config.lora.rank else config


def _rates(config: TrainConfig, asked: Asked, steps: int) -> dict[str, Any]:
    """Choose the optimizer and its peak rates."""
    own = _trained_with(config, asked)
    if own is None:
        return {"optimizer.learning_rate": rate_for(weight_count(config.model), config.lora.rank > 0, steps)}
    kept = {name: getattr(own.optimizer, name) for name in OPTIMIZER}
    if (share := _slower(config, own)) < 1:
        kept |= {name: float(f"{share * kept[name]:.2g}") for name in RATES}
    return {f"optimizer.{name}": value for name, value in kept.items()}


def _slower(config: TrainConfig, own: TrainConfig) -> float:
    """Give the share of a rate that smaller batches than the run's own bear: all of it down to a quarter of them.

    Below, in proportion: of GPT-2's 6e-4 and half a million tokens 3.8e-5 for 8,192, near what others tune it with.
    """
    return min(1.0, 4 * config.batch_tokens / own.batch_tokens)


def _with_length(tokens: int, config: TrainConfig, steps: int, asked: Asked, evaluations: int = 0) -> TrainConfig:
    """Set the steps, and what hangs on their number: rate, warm-up, and how much each evaluation predicts and shows.

    A length that the user has named is trained to its end, and not stopped early. `tokens` are those of the training
    split; `evaluations` counts for nothing here, as epochs say how many there are.
    """
    changes = {**_rates(config, asked, steps), "optimizer.warmup_steps": max(LEAST_WARMUP, round(WARMUP * steps))}
    if asked.length:
        changes["early_stopping_patience"] = None
    config = dataclasses.replace(laid_over(config, changes, asked), steps=steps)
    times, learned = evaluations_in(config, steps), steps * config.batch_tokens
    share = EVALUATED_OF_LEARNED * learned / (times + measured_in(config, tokens, steps))
    shown = int(MOST_SAMPLING * learned / (SAMPLED * times))
    limits = {
        "evaluation.tokens": min(config.evaluation.tokens, max(config.model.context_length, int(share))),
        "evaluation.sample_tokens": min(config.evaluation.sample_tokens, shown) if shown >= LEAST_SAMPLE else 0,
    }
    return laid_over(config, limits, asked)


def _words(
    config: TrainConfig, asked: Asked, dataset: Dataset, epoch: float, most: float, weights_context: int
) -> list[str]:
    """Say what was chosen, and why."""
    context_length, tokens = config.model.context_length, dataset.train.tokens
    epochs = config.steps / epoch
    reason = "as asked for" if asked.length else "as suits so much text"
    windows = f"{config.batch_sequences} {'window' if config.batch_sequences == 1 else 'windows'}"
    lines = [
        f"{tokens:,} tokens to learn from, {dataset.validation.tokens:,} to validate: {epochs_words(epochs)}, "
        f"{reason}; {config.steps:,} steps of {config.batch_tokens:,} tokens, {windows} of "
        f"{context_length:,}; {epoch:.3g} steps an epoch"
    ]
    if epochs > BY_HEART * most:
        lines.append(f"warning: {epochs_words(epochs)}: it will learn the text by heart; try `epochs` {most:g}")
    if context_length < weights_context:
        why = "as asked for" if "model.context_length" in asked.settings else "as the text is so short"
        lines.append(
            f"windows of {context_length:,} tokens, {why}: the run has that context, its weights {weights_context:,}"
        )
    return [*lines, _rate_words(config, asked), *_evaluation_words(config, dataset)]


def _rate_words(config: TrainConfig, asked: Asked) -> str:
    """Say how fast which weights move, and what they are held back by."""
    optimizer, size = config.optimizer, weight_count(config.model)
    rate, kind = f"rate {optimizer.learning_rate:g}", "adapters on weights" if config.lora.rank else "weights"
    named = [f"optimizer.{name}" in asked.settings for name in RATES[: 1 + (optimizer.name == "muon")]]
    if optimizer.name == "muon":
        first, second = (" (as asked for)" if each and not all(named) else "" for each in named)
        rate += f"{first}, Muon's {optimizer.muon_learning_rate:g}{second},"
    why = f"for {kind} of {size:,} parameters"
    counts = parameters(config.model)
    why += "".join(f", and {counts[name]:,} of {kind}" for name, kind in TABLES.items() if name in counts)
    if own := _trained_with(config, asked):
        share = _slower(config, own)
        why = f"as {config.init_from} was trained{f', × {share:.2g} for smaller batches' if share < 1 else ''}"
    if all(named):
        why = "as asked for"
    return (
        f"{rate} at its peak, {why}; {optimizer.warmup_steps} steps of warm-up, then {optimizer.schedule} to "
        f"{optimizer.min_lr_ratio:g}; dropout {config.model.dropout:g}, weight decay {optimizer.weight_decay:g}"
    )


def _evaluation_words(config: TrainConfig, dataset: Dataset) -> list[str]:
    """Say when it is evaluated, on what, and when that ends it."""
    evaluation, windows = config.evaluation, validation_windows(config, dataset)
    part = "the whole validation split"
    if not windows.is_complete:
        part = f"{windows.targets:,} tokens of the validation split, as all would take longer than the training"
    first = "before the first step and " if evaluation.at_start else ""
    often = f"every {evaluation.every} steps" if evaluation.every else "at the end"
    lines = [f"evaluated {first}{often}, on {part}"]
    if evaluation.train_split:
        lines[0] += "; once an epoch also on as many windows of the training split"
    if config.early_stopping_patience:
        errors = "standard error" if evaluation.min_gain == 1 else "standard errors"
        down = f"; then goes back to the best, from which the rate falls to 0 in {config.cooldown:.0%} of its steps"
        lines.append(
            f"stops after {config.early_stopping_patience} evaluations without a new best, which must beat the one "
            f"before by {evaluation.min_gain:g} {errors} of their difference{down if config.cooldown else ''}"
        )
    return lines


def _time_here(config: TrainConfig, dataset: Dataset, world: World) -> str:
    """Say about how long it takes here to the last step, by a trial; without the compiler, which would take longer."""
    seconds = Forecast(dataclasses.replace(config, compile="off"), dataset, world).seconds(TRIAL_SECONDS)
    if seconds is None:
        return "time: not known, as a trial would not fit into the free memory"
    training, evaluating = world.broadcast(seconds)
    early = " if nothing stops it early" if config.early_stopping_patience else ""
    return f"time here: about {duration(training + evaluating)}{early}, of which {duration(evaluating)} evaluations"
