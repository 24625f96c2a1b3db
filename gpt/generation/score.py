"""How likely a model finds a text, token by token."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gpt.errors import InputError
from gpt.generation.sampling import token_logprobs
from gpt.model.transformer import GPT
from gpt.text.tokenizer import Tokenizer

ROWS = 64  # positions whose logits are held at a time


@dataclass(frozen=True)
class TopLogprob:
    """A token that could follow, and the natural logarithm of its probability."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TokenScore:
    """A token, how likely the model found it, and what it found likeliest, in falling order."""

    id: int
    text: str
    logprob: float | None
    """Natural; None for a text's first token, which nothing precedes."""
    top_logprobs: list[TopLogprob] = field(default_factory=list)


def token_score(
    tokenizer: Tokenizer, id: int, logprob: float | None, top_logprobs: Iterable[tuple[int, float]] = ()
) -> TokenScore:
    others = [TopLogprob(other, tokenizer.token_text(other), value) for other, value in top_logprobs]
    return TokenScore(id, tokenizer.token_text(id), logprob, others)


@torch.no_grad()
def score_ids(model: GPT, tokenizer: Tokenizer, ids: list[int], top_logprobs: int = 0) -> list[TokenScore]:
    """Each id's log-probability after those before it; the first has none. Of a text longer than the context, each
    token is seen with at least half a context before it.

    Raises InputError if the model's logits are not finite.
    """
    scores = [token_score(tokenizer, ids[0], None)] if ids else []
    context_length = model.config.context_length
    while len(scores) < len(ids):
        begin = max(0, len(scores) - max(1, context_length - context_length // 2)) if len(scores) > 1 else 0
        inputs = torch.tensor([ids[begin : min(len(ids) - 1, begin + context_length)]], device=model.device)
        hidden = model.hidden_states(inputs)[0, len(scores) - 1 - begin :]  # (T, C), after the last one scored
        for part in hidden.split(ROWS):
            scores += _scores(model.head(part), tokenizer, ids[len(scores) : len(scores) + len(part)], top_logprobs)
    return scores


def _scores(logits: Tensor, tokenizer: Tokenizer, ids: list[int], top_logprobs: int) -> list[TokenScore]:
    """Of ids that follow the positions of logits (T, V)."""
    if not torch.isfinite(logits).all():
        raise InputError("the model's logits are not finite: its weights are damaged or its training diverged")
    logits = logits[:, : tokenizer.vocab_size]
    own, likeliest, values = token_logprobs(logits, torch.tensor(ids), top_logprobs)
    rows = zip(ids, own.tolist(), likeliest.tolist(), values.tolist(), strict=True)
    return [token_score(tokenizer, id, value, zip(others, numbers, strict=True)) for id, value, others, numbers in rows]


def score_text(model: GPT, tokenizer: Tokenizer, text: str, top_logprobs: int = 0) -> list[TokenScore]:
    """The scores of a text that begins a document: after end-of-text, where the tokenizer has one.

    Raises InputError as `score_ids`, and for what the tokenizer cannot encode.
    """
    ids = tokenizer.encode(text)
    if tokenizer.end_of_text is None:
        return score_ids(model, tokenizer, ids, top_logprobs)
    return score_ids(model, tokenizer, [tokenizer.end_of_text, *ids], top_logprobs)[1:]
