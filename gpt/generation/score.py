"""How likely a model finds a text, token by token."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gpt.errors import InputError
from gpt.generation.sampling import log_probabilities
from gpt.model.transformer import GPT
from gpt.tokens.tokenizer import Tokenizer

ROWS = 64  # positions whose logits are held at a time


@dataclass(frozen=True)
class Alternative:
    """A token that could follow, and the natural logarithm of its probability."""

    id: int
    text: str
    log_probability: float


@dataclass(frozen=True)
class TokenScore:
    """A token, how likely the model found it, and what it found likeliest, in falling order."""

    id: int
    text: str
    log_probability: float | None
    """Natural; None for a text's first token, which nothing precedes."""
    alternatives: list[Alternative] = field(default_factory=list)


def token_score(
    tokenizer: Tokenizer, id: int, log_probability: float | None, alternatives: Iterable[tuple[int, float]] = ()
) -> TokenScore:
    others = [Alternative(other, tokenizer.token_text(other), value) for other, value in alternatives]
    return TokenScore(id, tokenizer.token_text(id), log_probability, others)


@torch.no_grad()
def score_ids(model: GPT, tokenizer: Tokenizer, ids: list[int], alternatives: int = 0) -> list[TokenScore]:
    """Each id's log-probability after those before it; the first has none. Of a text longer than the context, each
    token is seen with at least half a context before it.

    Raises InputError if the model's logits are not finite.
    """
    scores = [token_score(tokenizer, ids[0], None)] if ids else []
    context = model.config.context
    while len(scores) < len(ids):
        begin = max(0, len(scores) - max(1, context - context // 2)) if len(scores) > 1 else 0
        inputs = torch.tensor([ids[begin : min(len(ids) - 1, begin + context)]], device=model.device)
        hidden = model.hidden(inputs)[0, len(scores) - 1 - begin :]  # (T, C), after the last one scored
        for part in hidden.split(ROWS):
            scores += _scores(model.head(part), tokenizer, ids[len(scores) : len(scores) + len(part)], alternatives)
    return scores


def _scores(logits: Tensor, tokenizer: Tokenizer, ids: list[int], alternatives: int) -> list[TokenScore]:
    """Of ids that follow the positions of logits (T, V)."""
    if not torch.isfinite(logits).all():
        raise InputError("the model's logits are not finite: its weights are damaged or its training diverged")
    logits = logits[:, : tokenizer.vocab_size]
    own, likeliest, values = log_probabilities(logits, torch.tensor(ids), alternatives)
    rows = zip(ids, own.tolist(), likeliest.tolist(), values.tolist(), strict=True)
    return [token_score(tokenizer, id, value, zip(others, numbers, strict=True)) for id, value, others, numbers in rows]


def score_text(model: GPT, tokenizer: Tokenizer, text: str, alternatives: int = 0) -> list[TokenScore]:
    """The scores of a text that begins a document: after end-of-text, where the tokenizer has one.

    Raises InputError as `score_ids`, and for what the tokenizer cannot encode.
    """
    ids = tokenizer.encode(text)
    if tokenizer.end_of_text is None:
        return score_ids(model, tokenizer, ids, alternatives)
    return score_ids(model, tokenizer, [tokenizer.end_of_text, *ids], alternatives)[1:]
