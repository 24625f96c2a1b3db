"""What a run began with, with rows for special tokens that its own tokenizer lacks, to be compared."""

import dataclasses

from gpt.choices import WeightDtype
from gpt.config import TrainConfig
from gpt.device import Target
from gpt.errors import InputError
from gpt.runs.load import LoadedRun, StoredModel, as_whole, build, fitted, load_tokenizer, read_base, read_source, ready
from gpt.text.added import extends
from gpt.text.tokenizer import Tokenizer


def beginning(
    config: TrainConfig,
    tokenizer: Tokenizer,
    device: str = "cpu",
    dtype: WeightDtype = "float32",
    base: str | None = None,
) -> LoadedRun:
    """Load the weights that a run began with, by their hash, or those of `base`, with adapters merged.

    They get rows for the special tokens that a tokenizer has more than their own. Raises InputError if they cannot be
    had any more.
    """
    stored = _grown(read_base(config) if base is None else as_whole(read_source(base)), tokenizer)
    return ready(build(stored), stored, Target.of(device, dtype, False))


def _grown(stored: StoredModel, tokenizer: Tokenizer) -> StoredModel:
    try:
        own = load_tokenizer(stored.path)
    except InputError:  # said where tokenizers are compared
        return stored
    if own.vocab_size == tokenizer.vocab_size or not extends(tokenizer, own):
        return stored
    config = dataclasses.replace(stored.config, vocab_size=tokenizer.vocab_size)
    return dataclasses.replace(stored, config=config, weights=fitted(stored, config))
