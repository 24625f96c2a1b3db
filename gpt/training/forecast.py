"""What a run will need, before it begins: memory by formula, time by a trial."""

import contextlib
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpt.analysis.cost import Memory, cost_lines, memory_lines, training_memory
from gpt.compiler import CompilerFailed
from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.device import autocast, choose_dtype, choose_products
from gpt.distributed.world import World
from gpt.memory import free_memory, is_out_of_memory, release_memory, used_memory
from gpt.terminal import duration
from gpt.training.micro_batch import MicroBatch, compiled_loss, without_compiler
from gpt.training.optimizer import Optimizer
from gpt.training.start import new_model
from gpt.training.validation import FORWARD, windows_in

TRIAL_TOKENS, TRIAL_SECONDS = 2048, 3.0
LIBRARIES = 90e6  # bytes of program text and scratch memory that a CPU's first steps bring in, and evaluation


class Forecast:
    """What a run will need here; without a dataset, what is known without one."""

    def __init__(self, config: TrainConfig, dataset: Dataset | None, world: World) -> None:
        self.config, self.dataset, self.world = config, dataset, world
        self.dtype = choose_dtype(config.dtype, world.device)
        self.micro_batch = MicroBatch(config, world, self.dtype).size
        self._program = 0 if world.device == "cuda" else int(used_memory() + LIBRARIES)

    def memory(self, sequences: int) -> Memory:
        """Forecast the memory of a step with so many sequences at a time."""
        world = self.world
        return training_memory(
            self.config, sequences, world.device, self.dtype.itemsize, world.size, world.nodes, self._program
        )

    def seconds(self, at_least: float | None = None) -> tuple[float, float] | None:
        """Forecast the time of training and of its evaluations, by a trial; None where that would not fit.

        Takes at least so many seconds, by default TRIAL_SECONDS. All processes do it together.
        """
        config, dataset, world = self.config, self.dataset, self.world
        trial = trial_sequences(config, self.micro_batch, world.device)
        if world.any(self.memory(trial).peak > free_memory(world.device) + self._program):
            return None
        timings = measure_timings(config, world, self.dtype, trial, at_least)
        windows = 0 if dataset is None else windows_in(config, dataset, config.steps)
        return config.steps * timings.step, windows * timings.window


def forecast_lines(config: TrainConfig, dataset: Dataset | None, world: World) -> list[str]:
    """Forecast a run's parameters, memory, tokens and time, a line each; takes a few seconds."""
    forecast = Forecast(config, dataset, world)
    share = config.batch_sequences // world.size
    lines = cost_lines(config) + memory_lines(forecast.memory(forecast.micro_batch))
    each = f"each of {world.size} processes: " if world.size > 1 else ""
    sequences = f"{share} sequences of {config.model.context_length} tokens, {forecast.micro_batch} at a time"
    lines.append(f"{'batch':28} {each}{sequences}")
    if dataset is not None:
        epochs = config.steps * config.batch_tokens / dataset.train.tokens
        lines.append(f"{'epochs':28} {epochs:>15.2f}")
    seconds = forecast.seconds()
    if seconds is None:
        return [*lines, f"{'time':28} not forecast: a trial would not fit into the free memory"]
    training, evaluation = seconds
    lines.append(f"{'tokens per second':28} {config.steps * config.batch_tokens / training:>15,.0f}")
    lines.append(f"{'time':28} {duration(training + evaluation):>15} of which {duration(evaluation)} evaluation")
    return lines


@dataclass(frozen=True)
class Timings:
    """How fast this machine is, in seconds."""

    step: float
    """Of an optimizer step of the whole batch, without what processes send each other, or spare each other of Muon."""
    window: float
    """Of a window of an evaluation."""


def trial_sequences(config: TrainConfig, micro_batch: int, device: str) -> int:
    return micro_batch if device == "cuda" else min(micro_batch, max(1, TRIAL_TOKENS // config.model.context_length))


def measure_timings(
    config: TrainConfig, world: World, dtype: torch.dtype, trial: int, at_least: float | None = None
) -> Timings:
    """Try a few steps of `trial` sequences, or of half as many, again and again, where memory runs out on any rank.

    Evaluations are in float32 of the highest precision: where the steps are not, passes are tried in both.
    Raises MemoryError if it runs out with a single sequence.
    """
    evaluating = replace(config, float32_matmul_precision="highest")
    while True:
        try:
            pass_seconds, step_seconds = trial_seconds(config, trial, world, dtype, at_least)
            evaluated = pass_seconds
            if config != evaluating:
                evaluated, _ = trial_seconds(evaluating, trial, world, dtype, at_least)
            break
        except MemoryError:
            if trial == 1:
                raise
        release_memory(world.device)
        trial = -(-trial // 2)
    share = config.batch_sequences // world.size
    return Timings(share / trial * pass_seconds + step_seconds, FORWARD * evaluated / trial / world.size)


def trial_seconds(
    config: TrainConfig, sequences: int, world: World, dtype: torch.dtype, at_least: float | None = None
) -> tuple[float, float]:
    """Time a forward and backward pass of some sequences, and an optimizer step, on random tokens, in seconds.

    Raise MemoryError on all ranks if what a first step takes is too much for one.
    """
    device, precision, compiled = world.device, config.float32_matmul_precision, config.compile == "on"
    model = new_model(config, device)
    model.set_recompute(config.recompute)
    optimizer = Optimizer(model, config.optimizer)
    ids = torch.randint(config.model.vocab_size, (sequences, config.model.context_length), device=device)

    def loss_of(ids: Tensor) -> Tensor:
        documents = torch.zeros_like(ids) if config.document_mask else None
        with autocast(device, dtype):
            return model(ids, targets=ids, documents=documents)

    forward, products = compiled_loss(loss_of, config, world, dtype), choose_products(precision, device, compiled)
    fits = True
    try:
        with contextlib.suppress(CompilerFailed), forward.watch(), products():
            forward(ids).backward()
        optimizer.allocate()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    without_compiler(forward, world)
    if world.any(not fits):
        raise MemoryError(f"with {sequences} sequences at a time")
    passes, steps = [], []
    end = None
    while end is None or time.perf_counter() < end:
        start = time.perf_counter()
        with products():
            loss = forward(ids) / ids.numel()
            loss.backward()
        loss.item()  # waits for the device
        middle = time.perf_counter()
        optimizer.step()
        model.zero_grad(set_to_none=True)
        next(model.parameters()).sum().item()
        passes.append(middle - start)
        steps.append(time.perf_counter() - middle)
        if end is None:
            end = time.perf_counter() + (
                TRIAL_SECONDS if at_least is None else at_least
            )  # the first is slower, and may not be the only one
    return min(passes[1:]), min(steps[1:])
