"""What of the validation split a training evaluates: a part of it as it goes, and all of it at its end.

Where it is asked for, as much of the training split is evaluated in the same way, once an epoch.
"""

import math
from collections.abc import Callable

from torch import Tensor

from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.distributed.parallel import is_sharded, reshard
from gpt.errors import InputError
from gpt.evaluation.loss import summarize, sums_per_piece
from gpt.evaluation.mixture import MixedWindows
from gpt.evaluation.windows import Windows
from gpt.log import log
from gpt.tracking.jsonl import Metrics, evaluation_metrics
from gpt.training.samples import sample_text
from gpt.training.signals import StopRequest
from gpt.training.state import TrainState
from gpt.training.trainer import Trainer

FORWARD = 1 / 3  # of the time that a token takes to be learned from


def validation_windows(config: TrainConfig, dataset: Dataset, complete: bool = False) -> Windows:
    """Choose what an evaluation predicts: as much of the validation split as the budget allows, or all of it."""
    budget = None if complete else config.evaluation.tokens
    context_length, end_of_text = config.model.context_length, dataset.tokenizer.end_of_text
    if len(dataset.sources) > 1:
        return MixedWindows(
            dataset.validation, dataset.sources, context_length, end_of_text, budget, config.document_mask
        )
    return Windows(dataset.validation, context_length, end_of_text, tokens=budget, document_mask=config.document_mask)


def evaluates_completely(config: TrainConfig, dataset: Dataset, steps: int | None = None) -> bool:
    """Tell whether the last weights are evaluated on the complete split where each evaluation predicts a part of it.

    Not where that would take longer than all training, of so many steps, by default the config's: a small model on a
    large corpus, or one that stopped early. gpt eval does it on request.
    """
    if validation_windows(config, dataset).is_complete:
        return False
    learned = (config.steps if steps is None else steps) * config.batch_tokens
    return FORWARD * dataset.validation.tokens <= learned


def evaluations_in(config: TrainConfig, steps: int) -> int:
    """Count the evaluations in so many steps."""
    return config.evaluation.at_start + (-(-steps // config.evaluation.every) if config.evaluation.every else 1)


def measured_in(config: TrainConfig, train_tokens: int, steps: int) -> int:
    """Count about how many of them measure the loss on the training split, of so many tokens, too."""
    epochs = steps * config.batch_tokens / train_tokens
    times = min(evaluations_in(config, steps), config.evaluation.at_start + math.ceil(epochs))
    return times if config.evaluation.train_split else 0


def windows_in(config: TrainConfig, dataset: Dataset, steps: int) -> int:
    """Count the windows of all evaluations in so many steps, also of a complete one at the end of the config's."""
    windows = validation_windows(config, dataset)
    count = evaluations_in(config, steps) * len(windows)
    if times := measured_in(config, dataset.train.tokens, steps):
        count += times * len(windows.like(dataset.train))
    if evaluates_completely(config, dataset):
        count += len(validation_windows(config, dataset, complete=True))
    return count


class Validation:
    """Evaluates the weights of a training as it goes."""

    def __init__(self, config: TrainConfig, dataset: Dataset) -> None:
        # What each evaluation predicts, and in the training split those that measure it, too.
        self.config, self.dataset, self.windows = config, dataset, validation_windows(config, dataset)
        self.windows.require_targets("evaluation.tokens")
        self.train_windows = self._of_training() if config.evaluation.train_split else None

    def _of_training(self) -> Windows | None:
        """Lay the windows of the training split; None where nothing in them is learned, which is said."""
        windows = self.windows.like(self.dataset.train)
        try:
            windows.require_targets("evaluation.tokens")
        except InputError as error:
            log.warning(f"the loss on the training split is not measured: {error}")
            return None
        return windows

    def evaluate(
        self, trainer: Trainer, state: TrainState, record: Metrics, stop: StopRequest, save: Callable[[], None]
    ) -> None:
        """Evaluate on the windows of the budget, where it is due on those of the training split, and at the end on the
        complete split, too; add the results to the record.

        Where a signal cuts one short, the record stays `unevaluated`: what it lacks is made up for when the run goes
        on. `save` is called before the complete split is read, which can take hours.
        """
        state.unevaluated = record
        if "val_loss" not in record and not self._evaluate_windows(trainer, state, record, stop):
            return
        if self.lacks_training(state, record) and not self._evaluate_training(trainer, state, record, stop):
            return
        if state.is_over(self.config) and evaluates_completely(self.config, self.dataset, state.step):
            save()
            if not self._evaluate_complete(trainer, state, record, stop):
                return
        state.unevaluated = None

    def lacks_training(self, state: TrainState, record: Metrics) -> bool:
        """Tell whether an evaluation is to measure the loss on the training split and has not done so yet.

        So are the one before the first step, the first one after each epoch, and the last.
        """
        if self.train_windows is None or "train_split_loss" in record:
            return False
        return state.is_over(self.config) or not state.step or int(record["epoch"]) > state.epochs_measured

    def _evaluate_windows(self, trainer: Trainer, state: TrainState, record: Metrics, stop: StopRequest) -> bool:
        """Evaluate on the windows of each evaluation, and judge what came out; False if it was cut short."""
        sums = self._sums(trainer, self.windows, stop)
        if sums is None:
            return False
        tokens = self.config.evaluation.sample_tokens
        if tokens:
            record["sample"] = sample_text(trainer.model, self.dataset, tokens, trainer.world, trainer.dtype)
        result = summarize(sums, self.windows)
        state.judge(result, sums, self.windows, self.config.evaluation.min_gain)
        record |= evaluation_metrics(result) | self._by_source(sums, self.windows, "val")
        record |= {"within_error": True} if state.within_error else {}
        return True

    def _evaluate_training(self, trainer: Trainer, state: TrainState, record: Metrics, stop: StopRequest) -> bool:
        """Evaluate on the windows of the training split, which nothing is judged by; False if it was cut short."""
        assert self.train_windows is not None, "asked for"
        sums = self._sums(trainer, self.train_windows, stop)
        if sums is None:
            return False
        result = summarize(sums, self.train_windows)
        record |= evaluation_metrics(result, "train_split") | self._by_source(sums, self.train_windows, "train_split")
        state.epochs_measured = int(record["epoch"])
        return True

    def _evaluate_complete(self, trainer: Trainer, state: TrainState, record: Metrics, stop: StopRequest) -> bool:
        """Evaluate the last weights on the complete split; False if it was cut short.

        The figure stands by itself: no best loss is compared with it.
        """
        windows = validation_windows(self.config, self.dataset, complete=True)
        log.info(f"evaluating on the complete validation split: {windows.split.tokens:,} tokens")
        sums = self._sums(trainer, windows, stop)
        if sums is None:
            log.info("stopped before that was done; `resume` begins it again, and gpt eval does it, too")
            return False
        state.complete_evaluation = summarize(sums, windows)
        record |= evaluation_metrics(state.complete_evaluation, "complete_val")
        record |= self._by_source(sums, windows, "complete_val")
        return True

    def _by_source(self, sums: Tensor, windows: Windows, split: str) -> Metrics:
        """Make the entries of each source of a mixture in a record, as 'val_loss/code'; none of a dataset alone."""
        if not isinstance(windows, MixedWindows):
            return {}
        records = [evaluation_metrics(found, split) for found in windows.of_sources(sums)]
        return {
            f"{figure}/{source.name}": value
            for source, record in zip(self.dataset.sources, records, strict=True)
            for figure, value in record.items()
        }

    def _sums(self, trainer: Trainer, windows: Windows, stop: StopRequest) -> Tensor | None:
        """Add up each piece over all processes; None if it was cut short."""
        world = trainer.world
        sums = sums_per_piece(
            trainer.model,
            windows,
            self.dataset.tokenizer.byte_lengths(),
            trainer.device,
            trainer.dtype,
            trainer.micro_batch.size,
            (world.rank, world.size),
            is_sharded(trainer.model),
            stop=lambda fault: world.any(stop.is_set(fault)),
        )
        reshard(trainer.model)
        return None if sums is None else world.sum_tensor(sums)
