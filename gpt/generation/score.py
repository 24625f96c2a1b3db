"""How likely a model finds a text, token by token."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from gpt.log import log
from gpt.model.loss import token_logprobs
from gpt.model.transformer import GPT
from gpt.text.tokenizer import Tokenizer

POSITIONS_AT_ONCE = 64  # positions whose logits are held at a time


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
    """Add the texts of a token, and of what else was likely."""
    others = [TopLogprob(other, tokenizer.token_text(other), value) for other, value in top_logprobs]
    return TokenScore(id, tokenizer.token_text(id), logprob, others)


@torch.no_grad()
def score_ids(
    model: GPT, tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray, top_logprobs: int = 0
) -> Iterator[TokenScore]:
    """Yield each id's log-probability after those before it; the first has none.

    A text longer than the context is read in windows, so that each token is seen with at least half a context before
    it; no more than a window is held. Raises InputError if the model's logits are not finite.
    """
    context_length, done = model.config.context_length, min(1, len(ids))
    if len(ids) > context_length + 1:
        log.info(
            f"the text has {len(ids):,} tokens and the model sees {context_length:,}: it is read in windows, and each "
            f"token is seen with at least {context_length - context_length // 2:,} before it"
        )
    if done:
        yield token_score(tokenizer, int(ids[0]), None)
    while done < len(ids):
        begin = max(0, done - max(1, context_length - context_length // 2)) if done > 1 else 0
        inputs = torch.tensor(ids[begin : min(len(ids) - 1, begin + context_length)], device=model.device)
        hidden = model.hidden_states(inputs.unsqueeze(0))[0, done - 1 - begin :]  # (T, C), after the last one scored
        for part in hidden.split(POSITIONS_AT_ONCE):
            yield from _scores(model.head(part), tokenizer, ids[done : done + len(part)], top_logprobs)
            done += len(part)


def _scores(
    logits: Tensor, tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray, top_logprobs: int
) -> list[TokenScore]:
    """Score ids that follow the positions of logits (T, V)."""
    targets = torch.tensor(ids)
    own, likeliest, values = token_logprobs(logits[:, : tokenizer.vocab_size], targets, top_logprobs)
    rows = zip(targets.tolist(), own.tolist(), likeliest.tolist(), values.tolist(), strict=True)
    return [token_score(tokenizer, id, value, zip(others, numbers, strict=True)) for id, value, others, numbers in rows]


def score_text(model: GPT, tokenizer: Tokenizer, text: str, top_logprobs: int = 0) -> Iterator[TokenScore]:
    """Yield the scores of a text that begins a document: after end-of-text, where the tokenizer has one.

    Raises InputError as `score_ids`, and for what the tokenizer cannot encode.
    """
    ids = tokenizer.encode_batch([text], threads=1)[0].astype(np.int64)  # an array, as a text can be long
    if tokenizer.end_of_text is None:
        return score_ids(model, tokenizer, ids, top_logprobs)
    opened = np.concatenate([[tokenizer.end_of_text], ids])
    return islice(score_ids(model, tokenizer, opened, top_logprobs), 1, None)
