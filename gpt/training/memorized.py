"""What a fine-tuning says at its end of what it has learned: that of gpt memorized, in short and in bounded time."""

from functools import partial
from pathlib import Path

from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.errors import InputError
from gpt.evaluation.memorization import Memorization, Sides
from gpt.evaluation.passages import FEWEST_PIECES, LENGTH, MOST, Passages, passage_length
from gpt.evaluation.verdict import sentence
from gpt.evaluation.words import Row
from gpt.generation.sampling import SamplingConfig, draw_logprob
from gpt.memory import is_out_of_memory
from gpt.runs.directory import quoted
from gpt.runs.growing import beginning
from gpt.runs.load import LoadedRun
from gpt.training.state import TrainState

SECONDS, SHARE = 5.0, 0.05  # which it may take: these, or that part of the training if that is more
FORWARD = 3.0  # a step of training takes about as long as so many forward passes
PASSES = 4  # two models, two splits


def memorized_rows(run: Path, config: TrainConfig, state: TrainState, tuned: LoadedRun, dataset: Dataset) -> list[Row]:
    """Say whether the best checkpoint has learned the text or memorized it, beside what its weights began with.

    It takes as many passages as the training was fast enough for, and a few at the least. Where it cannot be told, the
    row says why.
    """
    more = f"gpt memorized --run {quoted(run)}"
    try:
        found = _examined(config, tuned, dataset, state)
    except Exception as error:  # the training has ended well, whatever becomes of its base, its data or of memory
        if not (isinstance(error, InputError | OSError) or is_out_of_memory(error)):
            raise
        return [("memorized", f"not known ({error or 'out of memory'}); {more}")]
    read = [side.tuned.measured.windows for side in (found.train, found.validation)]
    counts = f"by {len(read[0]):,} and {len(read[1]):,} passages"
    is_little = found.verdict == "too little text" and not found.evidence.alike
    if is_little and not all(windows.is_complete for windows in read):
        return [("memorized", f"not known {counts}, as many as a short look takes; {more} reads up to {MOST:,}")]
    gained = f"gained {found.train.gain.value:.3f} on training and {found.validation.gain.value:.3f} on validation text"
    return [("memorized", sentence(found)), ("", f"{gained}, nats per token, {counts}; more: {more}")]


def passages_in_time(state: TrainState, config: TrainConfig, length: int) -> int:
    """Tell how many passages of so many tokens can be read of each split in time, by the pace of the training.

    Some 6,000 tokens in all are read in any case, enough for a standard error: the pace of a training of few steps,
    which had to be begun and evaluated as well, says little.
    """
    tokens_per_s = FORWARD * state.step * config.batch_tokens / max(state.elapsed_s, 1e-9)  # tokens a second
    in_time = int(max(SECONDS, SHARE * state.elapsed_s) * tokens_per_s / PASSES)
    return min(MOST, max(FEWEST_PIECES * LENGTH, in_time) // length)


def _examined(config: TrainConfig, tuned: LoadedRun, dataset: Dataset, state: TrainState) -> Memorization:
    device = tuned.model.device.type
    base = beginning(config, dataset.tokenizer, device)
    context, drawn = config.model.context_length, partial(draw_logprob, sampling=SamplingConfig())
    most = passages_in_time(state, config, passage_length((dataset.train, dataset.validation), context))
    passages = Passages(dataset, context, device, drawn, most, config.document_mask)
    sides = [
        Sides(passages.read(base.model, split), passages.read(tuned.model, split))
        for split in (passages.train, passages.validation)
    ]
    return Memorization(
        *sides,
        step=tuned.state["step"],
        base=base.source,
        prompt=passages.length - passages.suffix,
        suffix=passages.suffix,
        by_frequency=passages.by_frequency,
    )
