"""One optimizer step.

A step accumulates gradients over micro-batches and processes, judges and clips them, sets the learning rate and steps
the optimizer. All of it follows from (config, step, batch, weights, optimizer state): dropout is a function of seed
and step, so a resumed run repeats an undisturbed one bit for bit.

Letters in shapes: B sequences of this process, T tokens of context.
"""

import contextlib
import math
import time
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor

from gpt.choices import IGNORE_INDEX
from gpt.config import TrainConfig
from gpt.dataset.loader import Batch
from gpt.device import autocast, choose_dtype, choose_products, reseed
from gpt.distributed.parallel import needs_rehearsal, parallelize, rebuild, sync_gradients
from gpt.distributed.world import World
from gpt.errors import InputError
from gpt.hashing import mix, row_hashes
from gpt.log import log
from gpt.memory import is_out_of_memory, release_memory, retain_freed_memory
from gpt.model.transformer import GPT
from gpt.tracking.jsonl import Metrics
from gpt.training.exact import conditions, is_exact
from gpt.training.guard import NO_TARGETS, GradientGuard, LossScale
from gpt.training.micro_batch import MicroBatch, compiled_loss, without_compiler
from gpt.training.optimizer import Optimizer, clip_gradients, unscale_gradients
from gpt.training.sources import source_losses
from gpt.training.state import TrainState
from gpt.training.utilization import Utilization

# Bytes. Tensors from this size on are given back at once: with adapters on a large model they are a third of the peak.
ADAPTERS_MAP_FROM = 4 << 20

MicroBatches = list[tuple[int, tuple[Tensor, ...]]]  # numbered: inputs, targets, and documents where they are told


class StepFailed(InputError):
    """A step that cannot be done, as all processes know; weights and optimizer are as they were before it."""


class Trainer:
    """Moves the weights of `model` by one batch after the other."""

    def __init__(self, model: GPT, config: TrainConfig, world: World | None = None) -> None:
        """Set up training; without a `world`, by this process alone, on the model's device.

        Raise InputError if the processes cannot share the batch equally, if `compile` is on and does not work, or if
        `float32_matmul_precision` asks for what the processor does not do.
        """
        self.world = world = world or World(model.device.type)
        self.model, self.config = model, config
        self.device, self.dtype = world.device, choose_dtype(config.dtype, world.device)
        self.products = choose_products(config.float32_matmul_precision, world.device, config.compile == "on")
        retain_freed_memory(world.device, config.recompute == "none", ADAPTERS_MAP_FROM if config.lora.rank else None)
        self.first_row, self.rows = world.local_rows(config.batch_sequences)
        self.reduction = "rows" if isinstance(config.data, tuple) else "sum"  # of losses; a row is of one source
        self.row_losses = torch.zeros(self.rows)  # of this process, in the newest step
        model.set_recompute(config.recompute)
        self.parallel_model = parallelize(model, config.parallel, world, self.dtype)
        self.optimizer = Optimizer(model, config.optimizer, world)  # of the parameters as they are then
        self.rehearsed = not needs_rehearsal(self.parallel_model)
        self.compiled = compiled_loss(self.loss, config, world, self.dtype)
        self.micro_batch = MicroBatch(config, world, self.dtype)
        self.guard = GradientGuard(config.optimizer.skip_spikes, clips=config.optimizer.gradient_clip > 0)
        self.scale = LossScale(self.dtype)
        self.utilization = Utilization(config, world, self.dtype)
        model.train()

    def step(self, state: TrainState, batch: Batch) -> Metrics:
        """Do the next optimizer step, count it in `state`, and return its record.

        `batch` has this process's rows of the step's batch. The loss is the mean over all targets, however they are
        divided. A batch without a usable gradient is skipped: weights and optimizer stay as they are.
        Raises StepFailed where memory or the compiler leave no way to do it.
        """
        start = time.perf_counter()
        factor = state.lr_factor(self.config)
        self.optimizer.set_lr_factor(factor)
        samples = range(self.config.batch_sequences * state.step, self.config.batch_sequences * (state.step + 1))
        hashes = torch.from_numpy(row_hashes(samples[self.first_row :][: self.rows], *batch.tensors)).sum()
        counted, hashed = self.world.sum_tensor(torch.stack([(batch.targets != IGNORE_INDEX).sum(), hashes])).tolist()
        loss, norm = self.gradient(state.step, batch, counted) if counted else (0.0, 0.0)
        before = self.guard.state_dict(), self.scale.state_dict()
        fault = self.guard.judge(loss, norm) if counted else NO_TARGETS
        if fault is None:
            self.scale.accept()
            clip_gradients(self.model, self.config.optimizer.gradient_clip, norm)
            with self._undone(*before):
                self._move_weights(state.step)
        else:
            log.warning(f"step {state.step + 1}: batch skipped (samples {samples[0]} to {samples[-1]}): {fault}")
        self.model.zero_grad(set_to_none=True)
        self.world.hurry()
        state.count_step()
        tokens_per_s = self.config.batch_tokens / (time.perf_counter() - start)
        record: Metrics = {
            "step": state.step,
            "tokens": state.step * self.config.batch_tokens,
            "train_loss": loss if math.isfinite(loss) else None,
            **(source_losses(batch, self.row_losses, counted, self.world) if self.reduction == "rows" else {}),
            "learning_rate": factor * self.config.optimizer.learning_rate,
            "gradient_norm": norm if math.isfinite(norm) else None,
            "batch_hash": f"{hashed % 2**64:016x}",
            "tokens_per_s": tokens_per_s,
            "mfu": self.utilization.share(tokens_per_s),
            **self.compiled.figures(),
            "exact": is_exact(self.config.exact, self.device),
        }
        return record if fault is None else record | {"skipped": fault, "samples": [*samples]}

    def gradient(self, step: int, batch: Batch, count: float) -> tuple[float, float]:
        """Leave the gradient of the step's batch in the parameters; return its loss and its norm, equal on all ranks.

        `count` is the number of targets that count, on all ranks together.
        Begun anew with half the micro-batch where memory runs out, and with half the scale where float16 overflows.
        """
        scale_before = self.scale.state_dict()
        while True:
            parts = [*enumerate(zip(*(t.split(self.micro_batch.size) for t in batch.tensors), strict=True))]
            losses = (
                self.accumulate(step, parts, count) if self.rehearsed or self._rehearse(step, parts, count) else None
            )
            if losses is None:
                self._give_way(step, batch, count)
                continue
            if self.reduction == "rows":
                self.row_losses = torch.cat([loss[1:] for loss in losses]).cpu()
            norm = unscale_gradients(self.model, self.scale.value)  # waits for a GPU, so that the losses need not
            loss, norm = self.world.sum(float(sum(loss.view(-1)[0] for loss in losses)), norm / self.world.size)
            if math.isfinite(norm) or not math.isfinite(loss):
                return loss, norm
            if not self.scale.lower():
                self.scale.load_state_dict(scale_before)  # it was not the scale
                return loss, norm

    def accumulate(self, step: int, parts: MicroBatches, count: float, send: bool = True) -> list[Tensor] | None:
        """Add up this rank's gradients over numbered micro-batches, and send them with the last, unless not `send`.

        Returns what each micro-batch has of the loss, with reduction rows that of its rows after it; None if memory ran
        out on any rank, or the compiler failed.
        """
        world, model, losses = self.world, self.parallel_model, []
        model.zero_grad(set_to_none=True)
        for number, part in parts:
            is_last = send and number == parts[-1][0]
            with self.micro_batch.catch_failure() as failure, sync_gradients(model, is_last), self.products():
                # Reseeded here, dropout has no history: nothing of it needs to be saved.
                reseed(self.device, mix(self.config.seed, step, number, world.rank))
                loss = self.micro_batch_loss(*map(self._there, part)) / count
                if not is_last:
                    losses.append(self._backward(loss))
            if failure.failed:
                break
        if self.micro_batch.failed(failure, model, step + 1):  # asked before anything is sent, which others wait for
            return None
        if send:
            with self.micro_batch.catch_failure() as failure, sync_gradients(model, True), self.products():
                losses.append(self._backward(loss))
            if failure.failed:
                self.micro_batch.require_no_peers(failure, step + 1)
                return None
        return losses

    def _there(self, ids: Tensor) -> Tensor:
        """Bring ids to the device; a GPU goes on with its work meanwhile where they are in pinned memory."""
        return ids.to(self.device, non_blocking=self.device == "cuda")

    def _backward(self, loss: Tensor) -> Tensor:
        with self.compiled.watch():
            (loss.view(-1)[0] * (self.world.size * self.scale.value)).backward()  # the ranks' gradients are averaged
        return loss.detach()

    @property
    def micro_batch_loss(self) -> Callable[..., Tensor]:
        """The loss of a micro-batch, compiled or as it is."""
        return self.compiled if self.compiled.works else self.loss

    def loss(self, inputs: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Sum the losses of sequences, of (B, T) ids and as many targets, and the documents that are kept apart.

        As `GPT.forward` has it, () or with reduction rows (1 + B,).
        """
        with autocast(self.device, self.dtype):
            return self.parallel_model(inputs, targets=targets, documents=documents, reduction=self.reduction)

    def _rehearse(self, step: int, parts: MicroBatches, count: float) -> bool:
        """Go through one micro-batch of each size, without sending and with it; False if that failed."""
        one_of_each_size = list({len(part[0]): (number, part) for number, part in parts}.values())
        for send in (False, True):
            if self.accumulate(step, one_of_each_size, count, send) is None:
                return False
        self.rehearsed = True
        return True

    # ---- where memory or the compiler fails ----

    @contextlib.contextmanager
    def _undone(self, guard: dict[str, Any], scale: dict[str, Any]) -> Generator[None]:
        """A context in which a step that cannot be done leaves guard and scale as they were, for what is saved then."""
        try:
            yield
        except StepFailed:
            self.guard.load_state_dict(guard)
            self.scale.load_state_dict(scale)
            raise

    def _give_way(self, step: int, batch: Batch, count: float) -> None:
        """Prepare to do a step's passes again: without the compiler if it was that, else with less at a time.

        Called by all ranks. Raises StepFailed where nothing is left to give way.
        """
        self.model.zero_grad(set_to_none=True)
        with _known_to_all():
            if not without_compiler(self.compiled, self.world):
                self.micro_batch.halve(step + 1)
        self.compiled.forget()
        one = [(0, tuple(tensor[:1] for tensor in batch.tensors))]
        self.parallel_model = rebuild(
            self.model, self.parallel_model, self.world, lambda: self.accumulate(step, one, count)
        )
        self.rehearsed = not needs_rehearsal(self.parallel_model)

    def _move_weights(self, step: int) -> None:
        """Step the optimizer, once more where memory ran out and no other rank has to be asked for its part again.

        Its state, most of what it needs, is taken at the first step of a process, by all ranks or none.
        Raises StepFailed where there is not enough, or InputError if this rank may be alone with that.
        """
        if not self.optimizer.has_state and self.world.any(not self._with_patience(self.optimizer.allocate, tries=2)):
            raise StepFailed(_too_little(step + 1))
        # Not again where Muon needs other ranks, which would not send their part again.
        if not self._with_patience(self.optimizer.step, tries=1 if self.world.size > 1 and self.optimizer.muons else 2):
            raise (InputError if self.world.size > 1 else StepFailed)(_too_little(step + 1))

    def _with_patience(self, call: Callable[[], None], tries: int) -> bool:
        """Tell whether it succeeds, at the last try at least, with what was held without need given back before."""
        for _ in range(tries):
            try:
                call()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return True
            release_memory(self.device)
        return False

    # ---- its part of a checkpoint ----

    def state_dict(self) -> dict[str, Any]:
        """Give what the coming steps depend on beside weights, moments and TrainState, ready for JSON."""
        return {
            "guard": self.guard.state_dict(),
            "loss_scale": self.scale.state_dict(),
            "micro_batch": self.micro_batch.state_dict(),
            "conditions": conditions(self.config, self.world, self.dtype),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.guard.load_state_dict(state["guard"])
        self.scale.load_state_dict(state["loss_scale"])
        self.micro_batch.load_state_dict(state["micro_batch"])


@contextlib.contextmanager
def _known_to_all() -> Generator[None]:
    """Turn an InputError, which all ranks meet alike in this context, into StepFailed."""
    try:
        yield
    except InputError as error:
        raise StepFailed(str(error)) from error


def _too_little(step: int) -> str:
    return (
        f"step {step}: out of memory in the optimizer, which needs its state and its update beside weights and "
        "gradients: use a smaller model, or several processes with `parallel` fsdp"
    )
