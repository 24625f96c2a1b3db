"""What a fine-tuning says at its end of what it has learned: that of gpt memorized, in short and in bounded time."""

from functools import partial
from pathlib import Path

from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.errors import InputError
from gpt.evaluation.memorization import Memorization, Sides
from gpt.evaluation.passages import FEWEST_PIECES, LENGTH, MOST, Passages
from gpt.evaluation.verdict import sentence
from gpt.evaluation.words import Row
from gpt.generation.sampling import SamplingConfig, draw_logprob
from gpt.memory import is_out_of_memory
from gpt.runs.directory import quoted
from gpt.runs.growing import beginning, grown
from gpt.runs.load import LoadedRun
from gpt.training.state import TrainState

SECONDS, SHARE = 5.0, 0.05  # which it may take: these, or that part of the training if that is more
FORWARD = 3.0  # a step of training takes about as long as so many forward passes
READINGS = 4  # two models, two splits


def memorized_rows(run: Path, config: TrainConfig, state: TrainState, tuned: LoadedRun, dataset: Dataset) -> list[Row]:
    """Say whether the best checkpoint has learned the text or memorized it, beside what its weights began with.

    It takes as many passages as the training was fast enough for. Where it cannot be told, the row says why.
    """
    more = f"gpt memorized --run {quoted(run)}"
    most = passages_in_time(state, config)
    if most < FEWEST_PIECES:
        return [("memorized", f"left out, as it would take longer than {SHARE:.0%} of the training; {more}")]
    try:
        found = _examined(config, tuned, dataset, most)
    except Exception as error:  # the training has ended well, whatever becomes of its base, its data or of memory
        if not (isinstance(error, InputError | OSError) or is_out_of_memory(error)):
            raise
        return [("memorized", f"not known ({error or 'out of memory'}); {more}")]
    gained = f"gained {found.train.gain.value:.3f} on training and {found.validation.gain.value:.3f} on validation text"
    counts = f"by {len(found.train.tuned.measured.windows):,} and {len(found.validation.tuned.measured.windows):,}"
    return [("memorized", sentence(found)), ("", f"{gained}, nats per token, {counts} passages; more: {more}")]


def passages_in_time(state: TrainState, config: TrainConfig) -> int:
    """Tell how many passages of each split can be read in the time that is allowed, by the pace of the training."""
    pace = FORWARD * state.step * config.batch_tokens / max(state.elapsed_s, 1e-9)  # tokens a second
    return min(MOST, int(max(SECONDS, SHARE * state.elapsed_s) * pace / (READINGS * LENGTH)))


def _examined(config: TrainConfig, tuned: LoadedRun, dataset: Dataset, most: int) -> Memorization:
    device = tuned.model.device.type
    base = grown(beginning(config, device), dataset.tokenizer)
    context, drawn = config.model.context_length, partial(draw_logprob, sampling=SamplingConfig())
    passages = Passages(dataset, context, device, drawn, most, config.document_mask)
    sides = [
        Sides(passages.read(base.model, split), passages.read(tuned.model, split))
        for split in (passages.train, passages.validation)
    ]
    prompt = passages.length - passages.suffix
    return Memorization(*sides, step=tuned.state["step"], base=base.source, prompt=prompt, suffix=passages.suffix)
