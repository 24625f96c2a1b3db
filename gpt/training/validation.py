"""How a training evaluates its model as it goes, and once more at its end."""

from typing import TYPE_CHECKING

from torch import Tensor

from gpt.config import Config
from gpt.evaluation.compare import Measured, loss_difference
from gpt.evaluation.loss import Evaluation, summarize, window_sums
from gpt.evaluation.windows import Windows
from gpt.tokens.dataset import Dataset
from gpt.training.metrics import Record, evaluation_record
from gpt.training.report import sample_text
from gpt.training.signals import StopRequest
from gpt.training.state import save

if TYPE_CHECKING:
    from gpt.training.trainer import Trainer


def validation_windows(config: Config, dataset: Dataset, complete: bool = False) -> Windows:
    """Choose what an evaluation predicts: as much of the validation split as the budget allows, or all of it."""
    budget = None if complete else config.evaluation.tokens
    return Windows(dataset.validation, config.model.context, dataset.tokenizer.end_of_text, tokens=budget)


def evaluate(trainer: "Trainer", record: Record, stop: StopRequest) -> Evaluation | None:
    """Evaluate on the windows of the budget and add the result to the step's record.

    None if a signal cut it short; the record is then kept, to be completed when the run goes on.
    """
    sums = _sums(trainer, trainer.windows, stop)
    trainer.unevaluated = record if sums is None else None
    if sums is None:
        return None
    if trainer.config.evaluation.sample_tokens:
        tokens = trainer.config.evaluation.sample_tokens
        record["sample"] = sample_text(trainer.model, trainer.dataset, tokens, trainer.world)
    result = summarize(sums, trainer.windows)
    trainer.evaluation, trainer.last_loss = result, result.loss
    trainer.evaluations += 1
    if result.loss < trainer.best_loss:
        before, now = trainer.best_sums, Measured(sums.numpy(), trainer.windows)
        trainer.gain = None if before is None else loss_difference(Measured(before.numpy(), trainer.windows), now)
        trainer.best_sums = sums
    record |= evaluation_record(result)
    return result


def evaluate_at_the_end(trainer: "Trainer", record: Record, stop: StopRequest) -> None:
    """Evaluate the last weights on the complete split, too, if it is the end and the budget was less than that.

    The figure stands by itself: no best loss is compared with it.
    """
    at_the_end = trainer.step == trainer.config.steps or trainer.stopped_early
    if trainer.windows.is_complete or not at_the_end:
        return
    save(trainer)  # what follows can take hours, which a kill is not to cost
    windows = validation_windows(trainer.config, trainer.dataset, complete=True)
    trainer.say(f"evaluating on the complete validation split: {windows.split.tokens:,} tokens")
    sums = _sums(trainer, windows, stop)
    if sums is None:
        trainer.say("stopped before that was done; `gpt eval` does it, too")
        return
    trainer.complete_evaluation = summarize(sums, windows)
    record |= evaluation_record(trainer.complete_evaluation, "complete_")


def _sums(trainer: "Trainer", windows: Windows, stop: StopRequest) -> Tensor | None:
    """Add up each piece over all processes; None if a signal cut it short."""
    world = trainer.world
    sums = window_sums(
        trainer.model,
        windows,
        trainer.dataset.tokenizer.byte_lengths(),
        trainer.device,
        trainer.dtype,
        trainer.micro_batch.size,
        (world.rank, world.size),
        stop=lambda: world.any(stop.is_set()),
    )
    world.reshard(trainer.model)
    return None if sums is None else world.sum_tensor(sums)
