"""The training loop.

A step reads its batch, accumulates gradients over micro-batches, clips, sets the learning rate and steps the
optimizer. Everything a step does follows from (config, step, weights, optimizer state): the data order and the
dropout are functions of seed and step, so a resumed run repeats an undisturbed one bit for bit.

Letters in shapes: B sequences, T tokens of context.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt import checkpoint
from gpt.config import Config
from gpt.device import autocast
from gpt.errors import InputError
from gpt.evaluation.loss import Evaluation, evaluate, next_token_loss
from gpt.model.transformer import GPT
from gpt.run import write_config
from gpt.tokens.loader import IGNORED, Loader, mix
from gpt.tokens.shards import Dataset
from gpt.training.metrics import MetricsFile, Record, WandbLog
from gpt.training.optimizer import build_optimizer, load_optimizer_state, optimizer_state
from gpt.training.progress import ProgressDisplay
from gpt.training.schedule import learning_rate
from gpt.training.signals import StopRequest


class Trainer:
    """Trains `model` on `dataset` as `config` says, and keeps `run` on disk up to date."""

    def __init__(self, config: Config, model: GPT, dataset: Dataset, run: Path, device: str) -> None:
        self.config, self.model, self.dataset, self.run, self.device = config, model, dataset, run, device
        self.optimizer = build_optimizer(model, config.optimizer)
        self.loader = Loader(dataset.train, config.batch_sequences, config.model.context, config.seed)
        self.forward = compiled(self._loss, config, device)
        self.step = 0  # steps done
        self.elapsed = 0.0  # seconds of training, those before a resume included
        self.evaluation: Evaluation | None = None  # of the weights as they are now
        self.best_loss = math.inf
        self.last_loss: float | None = None  # the newest validation loss, for the eye
        self.wandb_id: str | None = None

    # ---- the loop ----

    def fit(self, display: ProgressDisplay) -> bool:
        """Train, and save. True if the last step was reached, False if a signal or `stop_at` ended it before."""
        config = self.config
        last = min(config.steps, config.stop_at or config.steps)
        metrics = MetricsFile(self.run, after_step=self.step)
        wandb = WandbLog(config, self.run, self.wandb_id)
        self.wandb_id = wandb.run_id
        saved = self.step
        clock = Clock(self.step, self.elapsed)
        self.model.train()
        with display, StopRequest() as stop:
            while self.step < last and not stop.is_set():
                record = self.train_step()
                record["elapsed_s"] = self.elapsed = clock.elapsed()
                is_best = False
                if self.step == config.steps or due(self.step, config.evaluation.every):
                    is_best = self.evaluate(record)
                if "val_loss" in record or self.step == last or due(self.step, config.log_every):
                    metrics.write(record)
                    wandb.write(record)
                display.update(record, self.last_loss, clock.seconds_left(self.step, last))
                if is_best or self.step == last or due(self.step, config.checkpoint.every):
                    self.save()
                    saved = self.step
            if saved < self.step:
                self.save()
        metrics.close()
        wandb.close()
        return self.step == config.steps

    def train_step(self) -> Record:
        """One optimizer step; the loss is the mean over all targets of the batch, however it is divided."""
        start = time.perf_counter()
        rate = learning_rate(self.step, self.config.steps, self.config.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = self.loader.batch(self.step)  # (B, T) each
        count = int((targets != IGNORED).sum())
        total = torch.zeros((), device=self.device)
        micro_batches = zip(inputs.split(self.config.micro_batch), targets.split(self.config.micro_batch), strict=True)
        for micro_step, (x, y) in enumerate(micro_batches):
            # Reseeded here, dropout has no history: nothing of it needs to be saved.
            torch.manual_seed(mix(self.config.seed, self.step, micro_step))
            loss = self.forward(x.to(self.device), y.to(self.device)) / count
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.gradient_clip or math.inf)
        loss, norm = float(total), float(norm)
        if not math.isfinite(loss) or not math.isfinite(norm):
            saved = checkpoint.list_checkpoints(self.run)
            kept = f"its newest checkpoint, {saved[-1].name}, is from before that" if saved else "nothing was saved yet"
            raise InputError(
                f"{self.run}: training diverged at step {self.step + 1} (loss {loss}, gradient norm {norm}); "
                f"{kept}: lower --optimizer.learning-rate, "
                "or lengthen --optimizer.warmup-steps"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.evaluation = None
        return {
            "step": self.step,
            "tokens": self.step * self.config.batch_tokens,
            "train_loss": loss,
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens_per_s": self.config.batch_tokens / (time.perf_counter() - start),
        }

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        with autocast(self.device):
            return next_token_loss(self.model(x), y)

    def evaluate(self, record: Record) -> bool:
        """Evaluate on the complete validation split and add the result to the record; True if it is the best so far."""
        lengths = self.dataset.tokenizer.byte_lengths()
        batch = self.config.micro_batch
        result = evaluate(self.model, self.dataset.validation, lengths, self.device, batch)
        self.evaluation, self.last_loss = result, result.loss
        record |= {
            "val_loss": result.loss,
            "val_loss_se": None if math.isnan(result.loss_se) else result.loss_se,
            "val_bits_per_byte": result.bits_per_byte,
        }
        is_best = result.loss < self.best_loss
        self.best_loss = min(self.best_loss, result.loss)
        return is_best

    # ---- what is kept ----

    def save(self) -> None:
        """Write a checkpoint of this moment, and remove those that are no longer kept."""
        state: dict[str, Any] = {
            "step": self.step,
            "tokens": self.step * self.config.batch_tokens,
            "elapsed_s": self.elapsed,
            "evaluation": asdict(self.evaluation) if self.evaluation else None,
            "best_validation_loss": None if math.isinf(self.best_loss) else self.best_loss,
            "last_validation_loss": self.last_loss,
            "dataset_fingerprint": self.dataset.fingerprint,
            "wandb_id": self.wandb_id,
        }
        weights = {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}
        checkpoint.save(self.run, weights, optimizer_state(self.model, self.optimizer), state)
        checkpoint.prune(self.run, self.config.checkpoint.keep)

    def resume(self) -> bool:
        """Go on from the run's newest whole checkpoint; False where it has none.

        Raises InputError if the data is not what the run was trained on, or the run is beyond the steps asked for.
        """
        saved = checkpoint.load_newest(self.run, print)
        if saved is not None:
            state = saved.state
            if state["dataset_fingerprint"] != self.dataset.fingerprint:
                raise InputError(
                    f"{self.dataset.path}: is not the dataset that {self.run} was trained on, or has changed since; "
                    "restore it, or begin a new run from these weights with --init"
                )
            if state["step"] > self.config.steps:
                raise InputError(
                    f"--steps {self.config.steps}: {self.run} has done {state['step']} steps already; "
                    "give a larger number to train on, or leave --steps out"
                )
            self.model.load_state_dict(saved.model)
            load_optimizer_state(self.model, self.optimizer, saved.optimizer)
            self.step, self.elapsed, self.last_loss = state["step"], state["elapsed_s"], state["last_validation_loss"]
            self.best_loss = math.inf if state["best_validation_loss"] is None else state["best_validation_loss"]
            self.wandb_id = state["wandb_id"]
        write_config(self.run, self.config)
        return saved is not None


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def compiled(function: Callable[..., Tensor], config: Config, device: str) -> Callable[..., Tensor]:
    """`function` through torch.compile where that is wanted; where it does not work, as it is, with one warning."""
    if config.compile == "off" or (config.compile == "auto" and device != "cuda"):
        return function
    fast = torch.compile(function)
    state = {"works": None}

    def call(*arguments: Tensor) -> Tensor:
        if state["works"] is False:
            return function(*arguments)
        try:
            result = fast(*arguments)
        except Exception as error:  # the compiler's many ways to fail: no C++ compiler, no Triton, an old GPU
            if state["works"]:
                raise
            state["works"] = False
            print(f"torch.compile does not work here ({type(error).__name__}); training goes on without it, slower")
            return function(*arguments)
        state["works"] = True
        return result

    return call


class Clock:
    """The time that training took, that of earlier processes included, and what is left by this process's own pace."""

    def __init__(self, step: int, elapsed: float) -> None:
        self.first_step, self.before, self.start = step, elapsed, time.perf_counter()

    def elapsed(self) -> float:
        return self.before + time.perf_counter() - self.start

    def seconds_left(self, step: int, last: int) -> float:
        return (time.perf_counter() - self.start) / max(1, step - self.first_step) * (last - step)
