"""How long a run trains: steps, epochs or minutes as asked for, else what a text of this size bears."""

import dataclasses
import math
import sys
from bisect import bisect_right
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

from gpt.config import TrainConfig, nearest_multiple
from gpt.config_io import overlay, to_dict
from gpt.dataset.dataset import SHORTEST_CONTEXT, Dataset
from gpt.dataset.loader import Loader
from gpt.device import choose_dtype
from gpt.distributed.world import World
from gpt.errors import InputError, bounded, check_limits
from gpt.log import log
from gpt.presets import NANO_DEEP, SMALL_CORPUS
from gpt.suits import OFTEN, Suit, preset_for, suit_for, weight_decay
from gpt.training.continuation import steps_with
from gpt.training.forecast import measure_timings, trial_sequences
from gpt.training.micro_batch import MicroBatch
from gpt.training.start import training_loader
from gpt.training.validation import FORWARD, evaluations_in, validation_windows, windows_in

EVALUATIONS = 10  # at least, where nobody says how often: the first must not come after the best
MOST_EVALUATING = 0.25  # of the time; rather than more, evaluations predict less, or there are fewer
EVALUATED_OF_LEARNED = MOST_EVALUATING / (1 - MOST_EVALUATING) / FORWARD  # tokens that are predicted in that time
MOST_EPOCHS = 4.0  # of a dataset of a mixture: beyond, a repeat is worth less and less (Muennighoff et al. 2023)
BY_HEART = 2.0  # times the epochs that suit a text: from there on, a warning
WARMUP = 0.1  # of the steps at most
UNSHAPED = ("model.dropout", "model.context_length", "model.vocab_size")  # settings that leave the shape as it is
LEAST_EVALUATED = 200_000  # tokens, seconds of a small model's time


@dataclass(frozen=True)
class Asked:
    """What a run's user has named of its length and shape. Raises InputError for two lengths, or none above 0."""

    settings: Set[str] = frozenset()
    """Settings from flags and from `config`, as 'model.dropout'."""
    preset: bool = False
    epochs: float | None = bounded(None, gt=0)
    minutes: float | None = bounded(None, gt=0)
    rate_jump: bool = False
    """Whether a finished run may go on from its end although its learning rate jumps up."""

    def __post_init__(self) -> None:
        lengths = [name for name, given in self._lengths().items() if given]
        if len(lengths) > 1:
            raise InputError(f"`{lengths[0]}` and `{lengths[1]}`: each says how long to train; give one of them")
        check_limits(self)

    def _lengths(self) -> dict[str, bool]:
        given = {"epochs": self.epochs, "minutes": self.minutes}
        return {"steps": "steps" in self.settings} | {name: value is not None for name, value in given.items()}

    @property
    def length(self) -> bool:
        """Tell whether the user said how long to train."""
        return any(self._lengths().values())


def suited(config: TrainConfig, asked: Asked, dataset: Dataset, device: str) -> TrainConfig:
    """Fit a new run's shape to the dataset, in whatever its user has not named.

    Without a preset, take the one for its size; always take a context that both splits can fill.
    """
    changes: dict[str, Any] = _forgetting(config, dataset) if config.preset == SMALL_CORPUS else {}
    if not asked.preset:
        before, _ = preset_for(device, config.init_from)
        often = _may_be_read_often(config, asked, dataset)
        after, reason = preset_for(device, config.init_from, dataset.train.tokens, often)
        if after.preset != before.preset:
            log.info(f"preset {after.preset}: {reason}")
            changes = {}  # they were for the other
        flat = _flat(before)
        changes |= {name: value for name, value in _flat(after).items() if value != flat[name]}
    context_length = changes.get("model.context_length", config.model.context_length)
    longest = dataset.shortest - 1
    if "model.context_length" not in asked.settings and longest < context_length:
        changes["model.context_length"] = context_length = longest_window(longest)
    else:
        context_length = config.model.context_length if "model.context_length" in asked.settings else context_length
    changes["batch_tokens"] = nearest_multiple(changes.get("batch_tokens", config.batch_tokens), context_length)
    return laid_over(config, changes, asked)


def _forgetting(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """Choose gpt2-small-corpus's weight decay by what is read most often; trained weights are not to be forgotten."""
    if config.init_from != "scratch":
        return {}
    model = dataclasses.replace(config.model, vocab_size=dataset.tokenizer.vocab_size)
    tokens = min(source.dataset.train.tokens / float(source.weight) for source in dataset.sources)
    return {"optimizer.weight_decay": weight_decay(dataclasses.replace(config, model=model), tokens)}


def _may_be_read_often(config: TrainConfig, asked: Asked, dataset: Dataset) -> bool:
    """Tell whether a small text may get the model that reads it often: not one of several, nor where the user asks for
    another shape, or for fewer epochs."""
    tokens, named = dataset.train.tokens, asked.settings
    suit = suit_for(config.init_from, tokens, NANO_DEEP)
    batch = config.batch_tokens if "batch_tokens" in named else suit.batch_tokens
    most = [asked.epochs, config.max_epochs, config.steps * batch / tokens if "steps" in named else None]
    shaped = any(name.startswith("model.") and name not in UNSHAPED for name in named)
    return len(dataset.sources) == 1 and not shaped and all(epochs is None or epochs > OFTEN for epochs in most)


def longest_window(tokens: int) -> int:
    """Choose a window for a split in which so many tokens can be predicted: a power of two, the least one at least."""
    return max(SHORTEST_CONTEXT, 1 << tokens.bit_length() - 1)


def budgeted(config: TrainConfig, asked: Asked, dataset: Dataset, world: World, done: int | None = None) -> TrainConfig:
    """Set the steps and evaluations that the user asked for, or else those that suit the size of the text.

    `done`: the steps of a run that is resumed. It keeps its own, unless epochs are named (of the whole run), or
    minutes where it is finished (more of them). Says what was chosen, and whether that is too much for the text.
    """
    loader = training_loader(config, dataset)
    epoch = loader.windows / config.batch_sequences  # in steps
    suit, steps = suit_for(config.init_from, dataset.train.tokens, config.preset), config.steps
    if "evaluation.per_epoch" in asked.settings:
        config, asked = per_epoch(config, asked, epoch)
    if asked.epochs is not None:
        steps = round(asked.epochs * epoch)
    elif asked.minutes is not None:
        if done is not None and done < config.steps:
            log.info(f"`minutes`: the run stands at step {done:,} of {steps:,}, which it goes on to first")
            return config
        steps, config = steps_in(asked, config, dataset, world, done or 0, _with_length)
        if done:
            steps = steps_with(steps, done, config, world, asked.rate_jump)
    elif done is None and not asked.length:
        steps = min(steps, max(EVALUATIONS, math.ceil(suit.most_epochs(config.model) * epoch)))
        steps = within_limit(steps, config, dataset, loader)
    if done is None and asked.minutes is None:
        config = _with_length(config, max(1, steps), asked)
    else:
        config = dataclasses.replace(config, steps=max(1, steps))
    require_few_epochs(config, dataset, loader)
    if done is None or asked.length:
        log.info("\n".join([*_words(config, epoch, suit, dataset, done), *source_lines(config, dataset)]))
    return config


def _limit(config: TrainConfig, dataset: Dataset) -> float:
    """Give how often a dataset may be read at most."""
    return config.max_epochs or (MOST_EPOCHS if len(dataset.sources) > 1 else math.inf)


def within_limit(steps: int, config: TrainConfig, dataset: Dataset, loader: Loader) -> int:
    """Give so many steps, or the most in which no dataset is read more often than it may be; 0 if not even one."""
    limit, tried = _limit(config, dataset), min(steps, sys.maxsize - 1)
    return steps if limit == math.inf else bisect_right(range(1, tried + 1), limit, key=lambda n: max(loader.epochs(n)))


def require_few_epochs(config: TrainConfig, dataset: Dataset, loader: Loader) -> None:
    """Raise InputError if a dataset would be read more often than it may be."""
    if (most := within_limit(config.steps, config, dataset, loader)) == config.steps:
        return
    times, source = max(zip(loader.epochs(config.steps), dataset.sources, strict=True), key=lambda pair: pair[0])
    fewer = f"`steps` {most}, " if most else ""
    smaller = "a smaller weight, " if len(dataset.sources) > 1 else ""
    raise InputError(
        f"`steps` {config.steps:,}: {source.dataset.path} would be read {times_words(times)} times, and at most "
        f"{_limit(config, dataset):g} are allowed: use {fewer}{smaller}more text, or `max_epochs` {math.ceil(times)}"
    )


def epochs_words(epochs: float) -> str:
    return f"{epochs:.3g} {'epoch' if f'{epochs:.3g}' == '1' else 'epochs'}"


def times_words(times: float) -> str:
    return f"{times:,.0f}" if times >= 100 else f"{times:.3g}"


def source_lines(config: TrainConfig, dataset: Dataset) -> list[str]:
    """Say what share each source of a mixture has, and how often it is read, a line each; of one alone nothing."""
    if len(dataset.sources) == 1:
        return []
    loader = training_loader(config, dataset)
    total = sum(config.datasets.values())
    note = [] if total == 1 else [f"the weights add up to {float(total):g}; their proportions count"]
    return note + [
        f"{source.name} is read {times_words(times)} times: {float(source.weight):.1%} of all tokens, of its "
        f"{source.dataset.train.tokens:,}"
        for source, times in zip(dataset.sources, loader.epochs(config.steps), strict=True)
    ]


def _with_length(config: TrainConfig, steps: int, asked: Asked, evaluations: int = EVALUATIONS) -> TrainConfig:
    """Set a new run's steps, and what suits them in whatever its user has not named.

    That is the warm-up, at least so many evaluations, and how much each of them predicts: all together take a quarter
    of the time at most, but where a number of steps or epochs is named, none less than LEAST_EVALUATED tokens.
    """
    changes: dict[str, Any] = {}
    every = max(1, steps // evaluations)
    if steps != config.steps or not asked.preset:
        changes["evaluation.every"] = every
        changes["optimizer.warmup_steps"] = min(config.optimizer.warmup_steps, max(1, round(WARMUP * steps)))
    elif config.evaluation.every and "steps" not in asked.settings:
        changes["evaluation.every"] = min(config.evaluation.every, every)
    config = dataclasses.replace(laid_over(config, changes, asked), steps=steps)
    share = EVALUATED_OF_LEARNED * steps * config.batch_tokens / evaluations_in(config, steps)
    least = LEAST_EVALUATED if asked.length and asked.minutes is None else config.model.context_length
    return laid_over(config, {"evaluation.tokens": min(config.evaluation.tokens, max(least, int(share)))}, asked)


def per_epoch(config: TrainConfig, asked: Asked, epoch: float) -> tuple[TrainConfig, Asked]:
    """Set how often a run is evaluated whose epoch has so many steps, as though its user had named it.

    Raises InputError for two ways to say it.
    """
    if {"evaluation.per_epoch", "evaluation.every"} <= asked.settings:
        raise InputError("`evaluation.per_epoch` and `evaluation.every`: each says how often; give one of them")
    assert config.evaluation.per_epoch
    every = max(1, round(epoch / config.evaluation.per_epoch))
    config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, every=every))
    return config, dataclasses.replace(asked, settings=asked.settings | {"evaluation.every"})


def _words(config: TrainConfig, epoch: float, suit: Suit, dataset: Dataset, done: int | None) -> list[str]:
    """Say what was chosen for an epoch of so many steps, and whether it is too much for the text."""
    model, epochs, tokens = config.model, config.steps / epoch, f"{dataset.train.tokens:,} tokens"
    ngrams = f"n-grams of up to {model.ngram}" if model.ngram > 1 else "no n-grams"
    lines = [
        f"{tokens} to learn from: {epochs_words(epochs)}, {config.steps:,} steps{' in all' if done else ''} of "
        f"{config.batch_tokens:,} tokens; dropout {model.dropout:g}, weight decay "
        f"{config.optimizer.weight_decay:.3g}, {ngrams}"
    ]
    if epochs > BY_HEART * (most := suit.most_epochs(model)):
        fewer = max(1, round(config.steps * most / epochs))
        lines.append(
            f"warning: {epochs_words(epochs)} of {tokens}: it will learn them by heart; "
            f"try `epochs` {most:g} (`steps` {fewer})"
        )
    return lines


WithLength = Callable[[TrainConfig, int, Asked, int], TrainConfig]


def steps_in(
    asked: Asked, config: TrainConfig, dataset: Dataset, world: World, done: int, with_length: WithLength
) -> tuple[int, TrainConfig]:
    """Estimate, by a trial of seconds, how many more steps fit into the minutes, evaluations included.

    Also return the config of a new run with that length, as `with_length` makes it of so many steps and the least
    number of evaluations: fewer where those of the named size take long.
    """
    assert asked.minutes is not None
    dtype = choose_dtype(config.dtype, world.device)
    trial = trial_sequences(config, MicroBatch(config, world, dtype).size, world.device)
    timings = measure_timings(config, world, dtype, trial)
    limit, evaluations = 60 * asked.minutes + timings.step / 2, EVALUATIONS
    if "evaluation.tokens" in asked.settings:
        affordable = MOST_EVALUATING * limit / (timings.window * len(validation_windows(config, dataset)))
        evaluations = min(evaluations, max(1, int(affordable)))

    def planned(steps: int) -> TrainConfig:
        new = config if done else with_length(config, steps, asked, evaluations)
        return dataclasses.replace(new, steps=done + steps)

    def seconds(steps: int) -> float:
        plan = planned(steps)
        return steps * timings.step + windows_in(plan, dataset, steps) * timings.window

    steps, too_many = 1, 2 + int(limit / timings.step)
    while too_many - steps > 1:
        middle = (steps + too_many) // 2
        steps, too_many = (middle, too_many) if seconds(middle) <= limit else (steps, middle)
    steps, evaluations = world.broadcast((steps, evaluations))  # each process has measured; one decides
    times, more = evaluations_in(planned(steps), steps), "more " if done else ""
    log.info(
        f"`minutes` {asked.minutes:g}: {steps:,} {more}{'step' if steps == 1 else 'steps'} and {times} "
        f"{'evaluation' if times == 1 else 'evaluations'}, by a trial of this machine's speed"
    )
    return steps, planned(steps) if not done else config


def _flat(config: TrainConfig) -> dict[str, Any]:
    """Map every setting by its whole name, such as 'model.dropout'."""
    flat = {}
    for key, value in to_dict(config).items():
        flat |= {f"{key}.{name}": entry for name, entry in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def laid_over(config: TrainConfig, changes: dict[str, Any], asked: Asked) -> TrainConfig:
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in asked.settings:
            group, _, key = name.rpartition(".")
            (values.setdefault(group, {}) if group else values)[key] = value
    return overlay(config, values, "the size of the text")
