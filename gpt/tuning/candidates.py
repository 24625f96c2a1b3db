"""What a tuning tries: the settings that it begins with, and others drawn around them by a seed."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from gpt.config import TrainConfig, nearest_multiple
from gpt.errors import InputError
from gpt.model.config import ModelConfig
from gpt.training.budget import Asked, laid_over

Axis = Literal["rates", "batch", "width", "vocabulary"]
Changes = dict[str, Any]  # settings by their whole names, such as 'model.n_embd'

RATES = (0.4, 0.7, 1.5, 2.5)  # times what a setting is: neighbors that a training can tell apart
BATCHES = (0.25, 0.5, 2.0, 4.0)
WIDTHS = (0.5, 0.75, 1.5, 2.0)
CHANGED = 0.5  # of all candidates have another value of a setting


@dataclass(frozen=True)
class Candidate:
    """The settings of a training, and what of them differs from those that the tuning begins with."""

    config: TrainConfig
    changes: Changes = field(default_factory=dict)

    @property
    def words(self) -> str:
        """Say what it changes: 'batch_tokens 1024, n_embd 192'; the vocabulary by its dataset."""
        shown = {name.rpartition(".")[2]: value for name, value in self.changes.items() if name != "model.vocab_size"}
        return ", ".join(f"{name} {_number(value)}" for name, value in shown.items()) or "the preset"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def around(
    config: TrainConfig, datasets: dict[Path, int], vary: Sequence[Axis] = get_args(Axis)
) -> list[list[Changes]]:
    """List what may be changed of a config, and into what, each by itself.

    `datasets` are the same text in several vocabularies, of so many ids each; the config's is one of them.
    Raises InputError if none of what is to be varied can be.
    """
    axes: list[list[Changes]] = []
    if "rates" in vary:
        axes += _rates(config)
    if "batch" in vary:
        axes.append(_batches(config))
    if "width" in vary:
        axes.append(_widths(config.model))
    if "vocabulary" in vary:
        others = {path: size for path, size in datasets.items() if path != config.data}
        axes.append([{"data": path, "model.vocab_size": size} for path, size in others.items()])
    axes = [axis for axis in axes if axis]
    if not axes:
        raise InputError(f"`vary` {' '.join(vary)}: leaves nothing to try; name another, or leave it out")
    return axes


def _rates(config: TrainConfig) -> list[list[Changes]]:
    """Each of the rates that the optimizer has, by itself, to two digits."""
    names = ["learning_rate", "muon_learning_rate"] if config.optimizer.name == "muon" else ["learning_rate"]
    return [
        [{f"optimizer.{name}": float(f"{getattr(config.optimizer, name) * times:.2g}")} for times in RATES]
        for name in names
    ]


def _batches(config: TrainConfig) -> list[Changes]:
    """Batches of whole sequences."""
    context_length = config.model.context_length
    sizes = [nearest_multiple(round(config.batch_tokens * times), context_length) for times in BATCHES]
    return [{"batch_tokens": size} for size in dict.fromkeys(sizes) if size != config.batch_tokens]


def _widths(model: ModelConfig) -> list[Changes]:
    """Widths of more or fewer heads of the same size, or, of a model with one head, of a larger or smaller one."""
    found: dict[int, Changes] = {}
    for times in WIDTHS:
        heads, size = max(1, round(model.n_head * times)), model.head_dim
        if model.n_head == 1:
            heads, size = 1, 2 * max(1, round(model.head_dim * times / 2))  # rotary positions turn pairs
        changes: Changes = {"model.n_embd": heads * size}
        if heads != model.n_head:
            changes["model.n_head"] = heads
        if model.n_kv_head is not None and model.n_head % model.n_kv_head == 0 and heads % model.n_kv_head:
            changes["model.n_kv_head"] = math.gcd(heads, model.n_kv_head)
        if model.n_inner is not None:
            changes["model.n_inner"] = max(1, round(model.n_inner * heads * size / model.n_embd))
        if heads * size != model.n_embd:
            found.setdefault(heads * size, changes)
    return [*found.values()]


def possible(axes: Sequence[list[Changes]]) -> int:
    """Count the candidates that there can be."""
    return math.prod(1 + len(axis) for axis in axes)


def drawn(config: TrainConfig, axes: Sequence[list[Changes]], count: int, seed: int) -> list[Candidate]:
    """Draw so many candidates, or all that there are; the first is the config itself.

    Each changes about half of what may be changed; the same seed draws the same ones, and more of them begin alike.
    """
    rng, found = random.Random(seed), {"": Candidate(config)}
    while len(found) < min(count, possible(axes)):
        changes: Changes = {}
        for axis in axes:
            if rng.random() < CHANGED:
                changes |= axis[int(rng.random() * len(axis))]
        if changes and repr(changes) not in found:
            found[repr(changes)] = Candidate(laid_over(config, changes, Asked()), changes)
    return [*found.values()]
