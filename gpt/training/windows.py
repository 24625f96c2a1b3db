"""What of a validation split a training evaluates: each time, and at its end."""

from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.evaluation.windows import Windows

FORWARD = 1 / 3  # of the time that a token takes to be learned from


def validation_windows(config: TrainConfig, dataset: Dataset, complete: bool = False) -> Windows:
    """Choose what an evaluation predicts: as much of the validation split as the budget allows, or all of it."""
    budget = None if complete else config.evaluation.tokens
    return Windows(dataset.validation, config.model.context_length, dataset.tokenizer.end_of_text, tokens=budget)


def evaluates_completely(config: TrainConfig, dataset: Dataset, steps: int | None = None) -> bool:
    """Whether the last weights are evaluated on the complete split where each evaluation predicts a part of it.

    Not where that would take longer than all training, of so many steps, by default the config's: a small model on a
    large corpus, or one that stopped early. `gpt eval` does it on request.
    """
    if dataset.validation.tokens - 1 <= max(config.evaluation.tokens, config.model.context_length):
        return False
    learned = (config.steps if steps is None else steps) * config.batch_tokens
    return FORWARD * dataset.validation.tokens <= learned
