"""Prefill, then decode: token ids to token ids, through a cache of keys and values. It knows nothing of text.

Letters in shapes: B samples, T positions, V vocabulary.
"""

import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gpt.config import SamplingConfig
from gpt.errors import InputError
from gpt.generation.sampling import sample, sample_generators
from gpt.model.attention import KVCache
from gpt.model.transformer import GPT

Notify = Callable[[str], None]


def generate(
    model: GPT,
    ids: Sequence[int],
    *,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int | None = None,
    end_of_text: int | None = None,
    vocab_size: int | None = None,
    notify: Notify = warnings.warn,
) -> Iterator[int]:
    """Continue a prompt of at least one token id, yielding each new id as it is drawn.

    Ends after `max_tokens`, or before the id `end_of_text`, which is not yielded. Ids from `vocab_size` on, which a
    padded model has and its tokenizer has not, are never drawn. When the context is full, the
    oldest half of it is dropped and the rest read again; `notify` is told so once. The model should be in
    evaluation mode. Raises InputError for an empty prompt, ids out of range, or settings out of range.
    """
    sampling = SamplingConfig(max_tokens=max_tokens, temperature=temperature, top_k=top_k, seed=seed)
    for tokens in generate_batch(model, ids, 1, sampling, end_of_text, vocab_size, notify):
        assert tokens[0] is not None
        yield tokens[0]


@torch.no_grad()  # not inference_mode: what fully_shard gathers in it could not be trained on afterwards
def generate_batch(
    model: GPT,
    ids: Sequence[int],
    samples: int,
    sampling: SamplingConfig,
    end_of_text: int | None = None,
    vocab_size: int | None = None,
    notify: Notify = warnings.warn,
) -> Iterator[list[int | None]]:
    """Several continuations of one prompt at once: each step yields a new id per sample, None for those that ended.

    Sample i is the same at any number of samples. Otherwise as `generate`.
    """
    prompt = _checked_prompt(model, ids)
    generators = sample_generators(secrets.randbits(62) if sampling.seed is None else sampling.seed, samples)
    context = model.config.context
    notified = False
    if len(prompt) > context:
        notify(f"the prompt has {len(prompt):,} tokens and the model sees {context:,}: the oldest are dropped")
        prompt, notified = prompt[-context:], True
    logits, cache = prefill(model, prompt.unsqueeze(0))
    logits, cache = logits.expand(samples, -1), cache.repeat(samples)
    tokens = prompt.expand(samples, -1)  # (B, T): all that was read and drawn, the oldest dropped
    ended = [False] * samples
    for drawn_before in range(sampling.max_tokens):
        if not torch.isfinite(logits).all():
            raise InputError("the model's logits are not finite: its weights are damaged or its training diverged")
        drawn = sample(logits[:, :vocab_size], sampling.temperature, sampling.top_k, generators).to(
            tokens.device
        )  # (B,)
        ended = [done or token == end_of_text for done, token in zip(ended, drawn.tolist(), strict=True)]
        if all(ended):
            return
        yield [None if done else token for done, token in zip(ended, drawn.tolist(), strict=True)]
        if drawn_before + 1 == sampling.max_tokens:
            return
        tokens = torch.cat([tokens, drawn.unsqueeze(1)], dim=1)
        if cache.length < context:
            logits = decode(model, drawn, cache)
            continue
        if not notified:
            notify(f"the context of {context:,} tokens is full: the oldest half is dropped, and the rest read again")
            notified = True
        tokens = tokens[:, tokens.size(1) - max(1, context - context // 2) :]
        logits, cache = prefill(model, tokens)


def prefill(model: GPT, tokens: Tensor) -> tuple[Tensor, KVCache]:
    """Read whole sequences (B, T) into a new cache; the logits after their last token, (B, V)."""
    cache = KVCache(model.config, tokens.size(0), tokens.device, model.token_embedding.weight.dtype)
    return model(tokens, cache, last=True), cache


def decode(model: GPT, tokens: Tensor, cache: KVCache) -> Tensor:
    """Read one more token per sequence, (B,); the logits after it, (B, V)."""
    return model(tokens.unsqueeze(1), cache, last=True)


def _checked_prompt(model: GPT, ids: Sequence[int]) -> Tensor:
    prompt = torch.as_tensor(ids, dtype=torch.int64, device=model.token_embedding.weight.device)
    if prompt.dim() != 1 or len(prompt) == 0:
        raise InputError(
            f"the prompt must be a flat sequence of at least one token id; its shape is {tuple(prompt.shape)}"
        )
    if prompt.min() < 0 or prompt.max() >= model.config.vocab_size:
        raise InputError(
            f"the prompt has ids from {prompt.min()} to {prompt.max()}; the vocabulary has {model.config.vocab_size}"
        )
    return prompt
