"""The training loop.

A step reads its batch, accumulates gradients over micro-batches and processes, judges and clips them, sets the
learning rate and steps the optimizer. Everything a step does follows from (config, step, weights, optimizer state):
the data order and the dropout are functions of seed and step, so a resumed run repeats an undisturbed one bit for bit.

Letters in shapes: B sequences, T tokens of context.
"""

import math
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gpt.choices import IGNORE_INDEX
from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.dataset.loader import Loader
from gpt.device import autocast, choose_dtype
from gpt.distributed.world import World
from gpt.evaluation.compare import Difference
from gpt.evaluation.loss import Evaluation
from gpt.hashing import mix, row_hashes
from gpt.log import log
from gpt.malloc import retain_freed_memory
from gpt.model.transformer import GPT
from gpt.tracking.jsonl import MetricsFile, Record
from gpt.tracking.progress import Clock, ProgressDisplay
from gpt.tracking.wandb import WandbLog
from gpt.training.exact import is_exact
from gpt.training.gradients import clip_gradients, gradient_norm
from gpt.training.guard import MOST_SKIPPED, NO_TARGETS, GradientGuard, LossScale, diverged_at
from gpt.training.micro_batch import MicroBatch
from gpt.training.optimizer import Optimizer
from gpt.training.overfitting import OverfittingWatch
from gpt.training.passes import compiled_passes, give_way, move_weights
from gpt.training.profile import step_profiler
from gpt.training.resume import save, unsaved_steps
from gpt.training.schedule import branch_point, lr_multiplier
from gpt.training.signals import StopRequest
from gpt.training.utilization import Utilization
from gpt.training.validation import evaluate
from gpt.training.windows import validation_windows


class Trainer:
    """Trains `model` on `dataset` as `config` says, and keeps `run` on disk up to date."""

    def __init__(self, config: TrainConfig, model: GPT, dataset: Dataset, run: Path, world: World) -> None:
        """Raises InputError if the processes cannot share the batch equally."""
        self.config, self.model, self.dataset, self.run, self.world = config, model, dataset, run, world
        self.device, self.dtype = world.device, choose_dtype(config.dtype, world.device)
        self.exact = is_exact(config.exact, self.device)
        retain_freed_memory(world.device, keep=config.recompute == "none")
        self.loader = Loader(dataset.train, config.batch_sequences, config.model.context_length, config.seed)
        self.rows = world.local_rows(config.batch_sequences)
        model.set_recompute(config.recompute)
        self.parallel_model = world.parallelize(model, config.parallel)
        self.rehearsed = not world.rehearses(self.parallel_model)
        self.forward = self.compiled = compiled_passes(self._loss, config, world, self.dtype)
        self.optimizer = Optimizer(model, config.optimizer)
        self.micro_batch = MicroBatch(config, world, self.dtype)
        self.guard = GradientGuard(config.optimizer.skip_spikes, clips=config.optimizer.gradient_clip > 0)
        self.scale = LossScale(self.dtype)
        self.step = self.saved_step = 0  # steps done, and saved
        self.elapsed = 0.0  # seconds of training, those before a resume included
        self.windows = validation_windows(config, dataset)  # that each evaluation predicts
        self.evaluation: Evaluation | None = None  # of the weights as they are now
        self.complete_evaluation: Evaluation | None = None  # of the last weights, where the budget is less than all
        self.evaluations = 0
        self.best_sums: Tensor | None = None  # of this process's best evaluation
        self.gain: Difference | None = None  # of it on the best one before
        self.unevaluated: Record | None = None  # of a step of whose evaluations one was cut short
        self.record: Record | None = None  # of the newest step
        self.best_loss = math.inf
        self.last_loss: float | None = None  # the newest validation loss, for the eye
        self.evaluations_since_best = 0  # in a row, since the best one
        self.overfitting = OverfittingWatch()
        self.utilization = Utilization(config.model, world, self.dtype)

    # ---- the loop ----

    def fit(self, display: ProgressDisplay, stop: StopRequest, profile: bool = False) -> bool:
        """Train, and save; with `profile`, also trace a few steps.

        True if the training is finished: by its last step, or early. False if `stop` or `stop_at` ended it before.
        Raises InputError if batch after batch had to be skipped, and OSError if the end of it cannot be saved.
        """
        config, world = self.config, self.world
        last = min(config.steps, config.stop_at or config.steps)
        branch, save_due, sinks = branch_point(config.steps, config.optimizer), False, []
        if world.is_main:
            finished_steps = self.step - 1 if self.unevaluated else self.step
            wandb = WandbLog(config, self.run, lambda: self.saved_step)
            sinks = [MetricsFile(self.run, finished_steps), wandb]
        clock = Clock(self.step, self.elapsed)
        self.model.train()
        with (
            stop.orderly(partial(unsaved_steps, self) if world.is_main else None),
            display,
            step_profiler(self.run, profile and world.is_main, self.device) as profiled,
        ):
            while (self.unevaluated or (self.step < last and not self.stopped_early)) and not world.any(stop.is_set()):
                record = self.record = self.unevaluated or self.train_step()
                record["elapsed_s"] = self.elapsed = clock.elapsed()
                is_best = False
                if self.unevaluated or self.step == config.steps or due(self.step, config.evaluation.every):
                    is_best = evaluate(self, record, stop)
                    if self.unevaluated:
                        break
                if self.evaluation or "skipped" in record or self.step == last or due(self.step, config.log_every):
                    for sink in sinks:
                        sink.write(record)
                left, warning = clock.seconds_left(self.step, last), self.overfitting.hear(record)
                display.update(record, self.last_loss, left, warning)
                if self.guard.skipped_in_a_row == MOST_SKIPPED:
                    break
                save_due |= is_best or self.complete_evaluation is not None
                save_due |= self.step in (last, branch) or due(self.step, config.checkpoint.every)
                if save_due and (is_best or not self.guard.skipped_in_a_row):  # weights that gave a finite loss
                    save(self)
                    save_due = False
                profiled()
            diverged = self.guard.skipped_in_a_row == MOST_SKIPPED
            if self.saved_step < self.step and not diverged:
                save(self, must=True)
        for sink in sinks:
            sink.close()
        if self.stopped_early:
            patience = config.early_stopping_patience
            log.info(f"stopped early: {patience} evaluations in a row without a new best validation loss")
        if diverged:
            raise diverged_at(self.step, self.run)
        return (self.step == config.steps or self.stopped_early) and not self.unevaluated

    @property
    def stopped_early(self) -> bool:
        """Whether as many evaluations in a row as early_stopping_patience asks for brought no new best loss."""
        return (
            self.config.early_stopping_patience is not None
            and self.evaluations_since_best >= self.config.early_stopping_patience
        )

    @property
    def at_the_end(self) -> bool:
        """Whether no step is left to be done."""
        return self.step == self.config.steps or self.stopped_early

    def train_step(self) -> Record:
        """One optimizer step; the loss is the mean over all targets of the batch, however it is divided.

        A batch without a usable gradient is skipped: weights and optimizer stay as they are.
        """
        start = time.perf_counter()
        rate = lr_multiplier(self.step, self.config.steps, self.config.optimizer)
        self.optimizer.set_lr(rate)
        samples = self.loader.samples(self.step)
        batch = self.loader.batch(self.step, *self.rows)  # (B / processes, T)
        inputs, targets = batch.inputs, batch.targets
        first, count = self.rows
        hashes = row_hashes(samples[first : first + count], inputs, targets).sum()
        (counted,) = self.world.sum(int((targets != IGNORE_INDEX).sum()))
        loss, norm = self.gradient(inputs, targets, counted) if counted else (0.0, 0.0)
        fault = self.guard.judge(loss, norm) if counted else NO_TARGETS
        if fault is None:
            self.scale.accept()
            clip_gradients(self.model, self.config.optimizer.gradient_clip, norm)
            move_weights(self)
        else:
            log.warning(f"step {self.step + 1}: batch skipped (samples {samples[0]} to {samples[-1]}): {fault}")
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        self.world.hurry()
        self.evaluation = self.complete_evaluation = None
        tokens_per_s = self.config.batch_tokens / (time.perf_counter() - start)
        record: Record = {
            "step": self.step,
            "tokens": self.step * self.config.batch_tokens,
            "epoch": self.step * self.config.batch_sequences / self.loader.windows,
            "train_loss": loss if math.isfinite(loss) else None,
            "learning_rate": rate * self.config.optimizer.learning_rate,
            "gradient_norm": norm if math.isfinite(norm) else None,
            "batch_hash": f"{int(self.world.sum_tensor(hashes)) % 2**64:016x}",
            "tokens_per_s": tokens_per_s,
            "mfu": self.utilization.share(tokens_per_s),
            **self.compiled.figures(),
            "exact": self.exact,
        }
        return record if fault is None else record | {"skipped": fault, "samples": list(samples)}

    def gradient(self, inputs: Tensor, targets: Tensor, count: float) -> tuple[float, float]:
        """Leave the gradient of the step's batch in the parameters; returns its loss and its norm, equal on all ranks.

        `count` is the number of targets that count, on all ranks together.

        Begun anew with half the micro-batch where memory runs out, and with half the scale where float16 overflows.
        """
        scale_before = self.scale.state_dict()
        while True:
            total = self.accumulate(inputs, targets, count)
            if total is None:
                self.model.zero_grad(set_to_none=True)
                give_way(self)
                self.parallel_model = self.world.rebuild(
                    self.model, self.parallel_model, lambda: self.accumulate(inputs[:1], targets[:1], count)
                )
                self.rehearsed = not self.world.rehearses(self.parallel_model)
                continue
            own_norm = gradient_norm(self.model, self.scale.value)
            loss, norm = self.world.sum(float(total), own_norm / self.world.size)
            if math.isfinite(norm) or not math.isfinite(loss):
                return loss, norm
            if not self.scale.lower():
                self.scale.load_state_dict(scale_before)  # it was not the scale
                return loss, norm

    def accumulate(self, inputs: Tensor, targets: Tensor, count: float) -> Tensor | None:
        """Add up this rank's gradients over its micro-batches, and send them with the last.

        Returns this rank's part of the loss; None if memory ran out on any rank.
        """
        size = self.micro_batch.size
        parts = list(enumerate(zip(inputs.split(size), targets.split(size), strict=True)))
        if not self.rehearsed:
            one_of_each_size = list({len(x): (number, (x, y)) for number, (x, y) in parts}.values())
            for sent in (False, True):
                if self._passes(one_of_each_size, count, sent) is None:
                    return None
            self.rehearsed = True
        return self._passes(parts, count)

    def _passes(self, parts: list[tuple[int, tuple[Tensor, Tensor]]], count: float, sent: bool = True) -> Tensor | None:
        """`accumulate` for numbered micro-batches; with `sent` false, the gradients stay here."""
        world, model = self.world, self.parallel_model
        total, last = torch.zeros((), device=self.device), parts[-1:] if sent else []
        model.zero_grad(set_to_none=True)

        def forward(micro_step: int, part: tuple[Tensor, Tensor]) -> Tensor:
            # Reseeded here, dropout has no history: nothing of it needs to be saved.
            torch.manual_seed(mix(self.config.seed, self.step, micro_step, world.rank))
            x, y = (tensor.to(self.device) for tensor in part)
            return self.forward(x, y) / count

        def backward(loss: Tensor) -> Tensor:
            with self.compiled.watch():
                (loss * (world.size * self.scale.value)).backward()  # the ranks' gradients are averaged
            return loss.detach()

        with self.micro_batch.catch_oom() as memory:
            with world.gradients(model, synchronize=False):
                for part in parts[: len(parts) - len(last)]:
                    total += backward(forward(*part))
            with world.gradients(model, synchronize=True):
                losses = [forward(*part) for part in last]
        if self.micro_batch.failed(memory, model, self.step + 1):
            return None
        with self.micro_batch.catch_oom() as memory, world.gradients(model, synchronize=True):
            total += sum(backward(loss) for loss in losses)
        if memory.failed:
            self.micro_batch.require_no_peers(memory, self.step + 1)
            return None
        return total

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            return self.parallel_model(x, targets=y)


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
