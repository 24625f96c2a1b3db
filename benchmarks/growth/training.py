"""Training: time per token by context, width and depth, and the memory of a process by its micro-batch.

The models are GPT-2's, with heads of 64 numbers and the vocabulary of the default corpus. Each step learns from as many
random tokens; how fast training is does not depend on what it reads.

    python -m benchmarks.growth.training SEQUENCES

is a process that makes two steps with so many sequences at a time. Prints one JSON line: its peak in bytes, and what
was forecast.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.common import measured
from benchmarks.growth.curves import Curve, in_turns
from benchmarks.steps import build
from gpt.analysis.cost import flops_per_token
from gpt.config import TrainConfig
from gpt.dataset.loader import Batch
from gpt.distributed.world import World
from gpt.memory import peak_memory
from gpt.model.config import ModelConfig
from gpt.presets import preset
from gpt.training.forecast import Forecast
from gpt.training.state import TrainState
from gpt.training.trainer import Trainer

TOKENS = 2048  # of each step
AT_LEAST = 0.4  # seconds of steps in each run
HEAD, VOCABULARY = 64, 2048


def shape(n_layer: int = 4, n_embd: int = 256, context_length: int = 256) -> ModelConfig:
    """Give GPT-2 in another size."""
    return ModelConfig(
        n_layer=n_layer,
        n_head=max(1, n_embd // HEAD),
        n_embd=n_embd,
        context_length=context_length,
        vocab_size=VOCABULARY,
    )


MODELS: dict[str, dict[int, ModelConfig]] = {
    "context": {size: shape(n_embd=128, context_length=size) for size in (64, 128, 256, 512, 1024)},
    "width": {size: shape(n_embd=size) for size in (64, 128, 256, 384, 512, 768)},
    "depth": {size: shape(n_layer=size) for size in (1, 2, 4, 8, 12)},
}
MICRO_BATCHES, MEMORY_SHAPE = (1, 2, 4, 8, 16, 32), shape()
PASSES = 2  # of each step whose memory is measured: a single one leaves nothing of the one before between its tensors


def settings(model: ModelConfig, tokens: int, sequences: int) -> TrainConfig:
    """Give exact GPT-2's settings for so many tokens a step, so many sequences at a time, without the compiler."""
    return replace(
        preset("gpt2"), model=model, batch_tokens=tokens, micro_batch_size=sequences, device="cpu", compile="off"
    )


def random_batch(model: ModelConfig, rows: int) -> Batch:
    """Give so many sequences of random tokens."""
    ids = torch.randint(model.vocab_size, (rows, model.context_length + 1))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


class Steps:
    """A new model, and what it takes to train it."""

    def __init__(self, trainer: Trainer) -> None:
        """Make the first step, which takes memory that the later ones have."""
        self.trainer, self.state = trainer, TrainState()
        self.one()

    def one(self) -> float:
        """Make a step; its seconds, without those in which the trainer measures the speed of matrices."""
        record = self.trainer.step(self.state, random_batch(self.trainer.config.model, self.trainer.rows))
        return self.trainer.config.batch_tokens / record["tokens_per_s"]

    def microseconds(self) -> float:
        """Make steps for a moment, at least one: the median of their microseconds per token."""
        seconds = [self.one()]
        while sum(seconds) < AT_LEAST:
            seconds.append(self.one())
        return 1e6 * median(seconds) / self.trainer.config.batch_tokens


def executed_flops(model: ModelConfig) -> float:
    """Count the floating-point operations per token that are done: a token sees half of the context on average.

    `flops_per_token` follows the literature and counts what the mask hides as well.
    """
    return flops_per_token(replace(model, context_length=max(1, model.context_length // 2)))


def training(runs: int) -> dict[str, Curve]:
    """Time per token as one of context, width and depth grows, beside floating-point operations."""
    return {f"training by {grows}": _curve(grows, models, runs) for grows, models in MODELS.items()}


def _curve(grows: str, models: Mapping[int, ModelConfig], runs: int) -> Curve:
    work: dict[float, Callable[[], float]] = {}
    for size, model in models.items():
        rows = TOKENS // model.context_length
        work[size] = Steps(build(settings(model, TOKENS, rows))).microseconds
    found = in_turns(work, runs, f"training by {grows}, µs per token")
    return Curve(
        grows=grows,
        unit="µs per token",
        theory="floating-point operations, without those that the causal mask spares",
        sizes=[*models],
        measured=[*found.values()],
        counts=[executed_flops(model) for model in models.values()],
        through=max(models),
    )


def memory(runs: int) -> dict[str, Curve]:
    """Peak memory by the sequences that are learned from at a time, two times a step, beside a dry run's forecast."""
    forecasts: dict[int, float] = {}

    def megabytes(sequences: int) -> float:
        command = [sys.executable, "-m", "benchmarks.growth.training", str(sequences)]
        figures = json.loads(measured(command, Path.cwd()).output.splitlines()[-1])
        forecasts[sequences] = figures["forecast"] / 1e6
        return figures["peak"] / 1e6

    work: dict[float, Callable[[], float]] = {size: partial(megabytes, size) for size in MICRO_BATCHES}
    found = in_turns(work, runs, "memory by micro-batch, MB")
    curve = Curve(
        grows="sequences at a time",
        unit="MB at the peak",
        theory="forecast of `--dry-run`",
        sizes=[*MICRO_BATCHES],
        measured=[*found.values()],
        counts=[forecasts[size] for size in MICRO_BATCHES],
    )
    return {"memory by micro-batch": curve}


def main() -> None:
    sequences = int(sys.argv[1])
    config = settings(MEMORY_SHAPE, PASSES * sequences * MEMORY_SHAPE.context_length, sequences)
    forecast = Forecast(config, None, World("cpu")).memory(sequences).peak  # of the program as it is before it begins
    Steps(build(config)).one()
    print(json.dumps({"peak": peak_memory("cpu"), "forecast": forecast}))


if __name__ == "__main__":
    main()
