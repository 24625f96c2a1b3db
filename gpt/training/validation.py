"""How a training evaluates its model as it goes, and once more at its end."""

from typing import TYPE_CHECKING

from torch import Tensor

from gpt.distributed.parallel import reshard
from gpt.evaluation.compare import Measured, loss_difference
from gpt.evaluation.loss import loss_per_window, summarize
from gpt.evaluation.windows import Windows
from gpt.log import log
from gpt.tracking.jsonl import Record, evaluation_record
from gpt.training.resume import save
from gpt.training.signals import StopRequest
from gpt.training.summary import sample_text
from gpt.training.windows import evaluates_completely, validation_windows

if TYPE_CHECKING:
    from gpt.training.trainer import Trainer


def evaluate(trainer: "Trainer", record: Record, stop: StopRequest) -> bool:
    """Evaluate on the windows of the budget, at the end on the complete split, too, and add the results to the record.

    Whether the first is the best yet. Where a signal cuts one short, the record is kept as `unevaluated`: what it lacks
    is made up for when the run goes on.
    """
    trainer.unevaluated = record
    if "val_loss" not in record and not _evaluate_windows(trainer, record, stop):
        return False
    is_best = trainer.evaluation is not None and trainer.evaluation.loss < trainer.best_loss
    completes = trainer.at_the_end and evaluates_completely(trainer.config, trainer.dataset, trainer.step)
    if completes and not _evaluate_complete(trainer, record, stop):
        return is_best
    trainer.unevaluated = None
    return is_best


def _evaluate_windows(trainer: "Trainer", record: Record, stop: StopRequest) -> bool:
    """Evaluate as each evaluation is done; False if a signal cut it short."""
    sums = _sums(trainer, trainer.windows, stop)
    if sums is None:
        return False
    if trainer.config.evaluation.sample_tokens:
        tokens = trainer.config.evaluation.sample_tokens
        record["sample"] = sample_text(trainer.model, trainer.dataset, tokens, trainer.world)
    result = summarize(sums, trainer.windows)
    trainer.evaluation, trainer.last_loss = result, result.loss
    trainer.evaluations += 1
    trainer.evaluations_since_best += 1
    if result.loss < trainer.best_loss:
        trainer.evaluations_since_best = 0
        before, now = trainer.best_sums, Measured(sums.numpy(), trainer.windows)
        trainer.gain = None if before is None else loss_difference(Measured(before.numpy(), trainer.windows), now)
        trainer.best_sums = sums
    record |= evaluation_record(result)
    return True


def _evaluate_complete(trainer: "Trainer", record: Record, stop: StopRequest) -> bool:
    """Evaluate the last weights on the complete split; False if a signal cut it short.

    The figure stands by itself: no best loss is compared with it.
    """
    save(trainer)  # what follows can take hours, which a kill is not to cost
    windows = validation_windows(trainer.config, trainer.dataset, complete=True)
    log.info(f"evaluating on the complete validation split: {windows.split.tokens:,} tokens")
    sums = _sums(trainer, windows, stop)
    if sums is None:
        log.info("stopped before that was done; `resume` begins it again, and `gpt eval` does it, too")
        return False
    trainer.complete_evaluation = summarize(sums, windows)
    record |= evaluation_record(trainer.complete_evaluation, "complete_")
    return True


def _sums(trainer: "Trainer", windows: Windows, stop: StopRequest) -> Tensor | None:
    """Add up each piece over all processes; None if a signal cut it short."""
    world = trainer.world
    sums = loss_per_window(
        trainer.model,
        windows,
        trainer.dataset.tokenizer.byte_lengths(),
        trainer.device,
        trainer.dtype,
        trainer.micro_batch.size,
        (world.rank, world.size),
        stop=lambda: world.any(stop.is_set()),
    )
    reshard(trainer.model)
    return None if sums is None else world.sum_tensor(sums)
