"""A vocabulary that grows by special tokens: the rows of embedding and head that weights lack for them."""

import dataclasses

import torch
from torch import Tensor

from gpt.errors import InputError
from gpt.model.transformer import empty_model
from gpt.runs.load import LoadedRun
from gpt.text.added import extends
from gpt.text.tokenizer import Tokenizer

VOCABULARIES = ("token_embedding.weight", "lm_head.weight")  # which have a row for each id


def with_mean_rows(weights: dict[str, Tensor], known: int, size: int) -> dict[str, Tensor]:
    """Give ids from `known` to before `size` the mean of the rows of the others, in the embedding and a head alike.

    A row by chance could be larger than all others, and win every draw before it has learned anything.
    """
    rows = {name: weights[name][:known] for name in VOCABULARIES if name in weights}
    means = {name: old.float().mean(0, keepdim=True).to(old.dtype) for name, old in rows.items()}
    return weights | {name: torch.cat([old, means[name].expand(size - known, -1)]) for name, old in rows.items()}


def grown(loaded: LoadedRun, tokenizer: Tokenizer) -> LoadedRun:
    """Give a model rows for the special tokens that a tokenizer has more than its own; else give it as it is."""
    try:
        own = loaded.tokenizer
    except InputError:  # said where tokenizers are compared
        return loaded
    if own.vocab_size == tokenizer.vocab_size or not extends(tokenizer, own):
        return loaded
    config = dataclasses.replace(loaded.config, vocab_size=tokenizer.vocab_size)
    model = empty_model(config)
    weights = with_mean_rows(loaded.model.state_dict(), own.vocab_size, tokenizer.vocab_size)
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(any(parameter.requires_grad for parameter in loaded.model.parameters()))
    model.to(next(loaded.model.parameters()).device)  # what is no weight, too
    return dataclasses.replace(loaded, model=model.eval())
