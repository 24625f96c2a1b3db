"""What a run began with, and models with rows for special tokens that their own tokenizer lacks, to be compared."""

import dataclasses

from gpt.choices import WeightDtype
from gpt.config import TrainConfig
from gpt.device import Target
from gpt.errors import InputError
from gpt.model.lora import merged_weights
from gpt.model.transformer import empty_model
from gpt.runs.load import LoadedRun, Stored, build, fitted, read_base, ready
from gpt.text.added import extends
from gpt.text.tokenizer import Tokenizer


def beginning(config: TrainConfig, device: str = "cpu", dtype: WeightDtype = "float32") -> LoadedRun:
    """Load the weights that a run began with, by their hash. Raises InputError if they cannot be had any more."""
    base = read_base(config)
    return ready(build(base), base, Target.of(device, dtype, False))


def grown(loaded: LoadedRun, tokenizer: Tokenizer) -> LoadedRun:
    """Give a model rows for the special tokens that a tokenizer has more than its own; else give it as it is."""
    try:
        own = loaded.tokenizer
    except InputError:  # said where tokenizers are compared
        return loaded
    if own.vocab_size == tokenizer.vocab_size or not extends(tokenizer, own):
        return loaded
    config = dataclasses.replace(loaded.config, vocab_size=tokenizer.vocab_size)
    stored = Stored(loaded.config, merged_weights(loaded.model), {}, loaded.path, loaded.source)
    model = empty_model(config)
    model.load_state_dict(fitted(stored, config), assign=True)
    model.requires_grad_(any(parameter.requires_grad for parameter in loaded.model.parameters()))
    model.to(next(loaded.model.parameters()).device)  # what is no weight, too
    return dataclasses.replace(loaded, model=model.eval())
