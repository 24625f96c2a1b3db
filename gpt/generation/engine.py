"""Requests in, tokens out: many sequences are continued at once, through caches of keys and values.

A step either reads one waiting prompt (prefill), or one token of every sequence under way (decode), and draws what
follows. A sequence that ends makes room for the next one. It knows nothing of text.

Letters in shapes: B sequences, V vocabulary.
"""

import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpt.errors import InputError, OutOfMemory
from gpt.generation.config import SamplingConfig
from gpt.generation.request import FinishReason, Request, Token
from gpt.generation.runner import CompiledRunner, ModelRunner
from gpt.generation.sampling import sample, token_logprobs
from gpt.generation.truncation import REMEDY, require_room, truncate, truncate_prompt, truncation_notice
from gpt.log import log
from gpt.memory import is_out_of_memory
from gpt.model.cache import KVCache
from gpt.model.transformer import GPT

PROMPT_TOKENS = 512  # after so many at the most, if a prompt is no longer, the sequences under way have their turn
LESS_MEMORY = "use a smaller `batch`, a shorter prompt or `max_tokens`, or another `device`"


@dataclass(frozen=True)
class _Reading:
    """A prompt that was just read, for the requests that have the same one."""

    context_ids: tuple[int, ...]
    cache: KVCache
    logits: Tensor


class Engine:
    """Continues up to `max_batch` sequences at once; more wait for their turn.

    `submit` and `cancel` may be called between any two steps. What is drawn for a request depends on its own prompt,
    settings and seed alone, whatever is drawn beside it: to the last bit with packed weights (`load_run`) that
    keep bits and as many threads, else up to rounding. The memory of keys and values is given back as sequences end;
    of those whose prompts were read together, when half of them have.

    Ids from `vocab_size` on, which a padded model has and its tokenizer has not, are never drawn. When a text outgrows
    the context, a warning says once what is done about it. With `compiled`, decoding goes through
    torch.compile: slow to begin with, for each of a few lengths, then faster on a GPU. The model should be in
    evaluation mode. A child that was forked after torch computed with several threads hangs in its first product, as
    all of torch does there: spawn it, or call torch.set_num_threads(1) in it.
    Raises InputError for a max_batch below 1, and where `compiled` is asked for and does not work.
    """

    def __init__(
        self,
        model: GPT,
        max_batch: int = 16,
        end_of_text: int | None = None,
        vocab_size: int | None = None,
        compiled: bool = False,
    ) -> None:
        if max_batch < 1:
            raise InputError(f"max_batch is {max_batch}; it must be at least 1")
        self.model, self.max_batch = model, max_batch
        self.end_of_text, self.vocab_size = end_of_text, vocab_size
        self.decoder = CompiledRunner(model, max_batch) if compiled else ModelRunner(model)
        self.waiting: OrderedDict[Request, None] = OrderedDict()  # a queue that any request can leave at once
        self.active: list[Request] = []
        self.sample: Callable[..., Tensor] = sample  # or another way of drawing, of several processes together
        # inference_mode is faster, but what fully_shard gathers in it could not be trained on afterwards.
        trainable = any(parameter.requires_grad for parameter in model.parameters())
        self._without_gradients = torch.no_grad if trainable else torch.inference_mode
        self._newest: _Reading | None = None
        self._prompt_tokens = 0  # read since the last step that continued the sequences under way

    def submit(
        self,
        ids: Sequence[int],
        sampling: SamplingConfig | None = None,
        sample: int = 0,
        top_logprobs: int | None = None,
    ) -> Request:
        """Add a prompt of at least one token id; the draws are those of sample number `sample` of the seed.

        Raises InputError for an empty prompt, ids out of range, or more of them than `overflow` allows.
        """
        sampling = sampling or SamplingConfig()
        prompt = self._checked(ids)
        if sampling.overflow == "error":
            require_room(len(prompt), sampling.max_tokens, self.model.config.context_length)
        seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        request = Request(prompt, replace(sampling, seed=None), seed, top_logprobs, sample=sample)
        self.waiting[request] = None
        return request

    def cancel(self, request: Request) -> None:
        """Draw nothing more for a request, and give up its memory; one that is done stays as it is."""
        if not request.finish_reason:
            self._finish(request, "cancelled")

    def run(self) -> Iterator[Token]:
        """Step until all requests are done, yielding each token as it is drawn."""
        while self.waiting or self.active:
            yield from (token for token in self.step() if token.request.finish_reason != "cancelled")

    def step(self) -> list[Token]:
        """Read waiting prompts if there is room, else one token of each sequence; draw a token for each sequence read.

        If it fails, or is interrupted, all sequences under way are cancelled.
        Raises InputError if memory runs out, if the compiler fails, or if the model's logits are not finite.
        """
        try:
            return self._step()
        except BaseException as error:
            under_way = len(self.active)
            for request in [*self.active]:
                self.cancel(request)
            if is_out_of_memory(error):
                raise OutOfMemory(f"out of memory with {under_way} sequences at once: {LESS_MEMORY}") from None
            raise

    def _step(self) -> list[Token]:
        with self._without_gradients():
            patient = self._prompt_tokens < PROMPT_TOKENS or not self.active
            if self.waiting and patient and len(self.active) < self.max_batch:
                requests = self._schedule()
                return self._draw(requests, self._prefill(requests))
            self._prompt_tokens = 0
            return self._decode() if self.active else []

    def _schedule(self) -> list[Request]:
        """The next request, and those right behind it that are as long: they are read together."""
        first = next(iter(self.waiting))
        requests: list[Request] = []
        most = min(self.max_batch - len(self.active), max(1, PROMPT_TOKENS // len(first.prompt)))
        while self.waiting and len(requests) < most and _length(next(iter(self.waiting))) == _length(first):
            requests.append(self.waiting.popitem(last=False)[0])
        self.active += requests
        return requests

    def _prefill(self, requests: list[Request]) -> Tensor:
        """Read prompts of one length, equal ones once; the logits after each, (B, V)."""
        context_length = self.model.config.context_length
        for request in requests:
            request.context_ids = list(request.prompt)
            if len(request.prompt) > context_length:
                request.context_ids = truncate_prompt(request.prompt, context_length, request.sampling.overflow)
                log.warning_once(truncation_notice(len(request.prompt), context_length, request.sampling.overflow))
        caches = self.decoder.new_caches(_positions(requests[0]), len(requests))
        known = {} if self._newest is None else {tuple(self._newest.context_ids): self._newest}
        unread: dict[tuple[int, ...], KVCache] = {}
        for request, request.cache in zip(requests, caches, strict=True):
            if tuple(request.context_ids) not in known:
                unread.setdefault(tuple(request.context_ids), request.cache)
        if unread:
            self._prompt_tokens += len(unread) * len(requests[0].context_ids)
            rows = self.decoder.prefill(list(unread), list(unread.values())).split(1)
            for (context_ids, cache), logits in zip(unread.items(), rows, strict=True):
                known[context_ids] = _Reading(context_ids, cache, logits)
        readings = [known[tuple(request.context_ids)] for request in requests]
        for cache, reading in zip(caches, readings, strict=True):
            if cache is not reading.cache:
                cache.copy_from(reading.cache, len(reading.context_ids))
        again = self.waiting and next(iter(self.waiting)).prompt == requests[-1].prompt
        self._newest = readings[-1] if again else None
        return torch.cat([reading.logits for reading in readings])

    def _decode(self) -> list[Token]:
        """Read the newest token of each sequence, or a truncated sequence again where the context is full."""
        context_length = self.model.config.context_length
        full = [request for request in self.active if len(request.context_ids) > context_length]
        ready = [request for request in self.active if len(request.context_ids) <= context_length]
        logits = []
        for request in full:
            request.context_ids = truncate(request.context_ids, context_length, request.sampling.overflow)
            log.warning_once(f"the context of {context_length:,} tokens is full: {REMEDY[request.sampling.overflow]}")
            self._release(request)
            [request.cache] = self.decoder.new_caches(_positions(request), 1)
            logits.append(self.decoder.prefill([request.context_ids], [request.cache]))
        if ready:
            newest = [request.context_ids[-1] for request in ready]
            caches = [request.cache for request in ready if request.cache is not None]  # all have one
            logits.append(self.decoder.decode(newest, caches))
        return self._draw(full + ready, torch.cat(logits))

    def _draw(self, requests: list[Request], logits: Tensor) -> list[Token]:
        """A token for each request by its row of (B, V)."""
        logits = logits[:, : self.vocab_size]
        alike = defaultdict(list)  # rows by settings
        for row, request in enumerate(requests):
            alike[request.sampling].append(row)
        tokens: list[Token | None] = [None] * len(requests)
        for sampling, rows in alike.items():
            some = [requests[row] for row in rows]
            part = logits if len(rows) == len(requests) else logits[rows]
            penalty = sampling.repetition_penalty != 1
            seen = [torch.tensor(request.prompt + request.output_ids) for request in some] if penalty else ()
            drawn = self.sample(part, sampling, [request.generator for request in some], seen)
            for row, token in zip(rows, drawn.tolist(), strict=True):
                tokens[row] = self._token(requests[row], token, logits[row])
        return [token for token in tokens if token is not None]

    def _token(self, request: Request, id: int, logits: Tensor) -> Token:
        """Count a token as drawn; `logits` (V,) are those it was drawn by."""
        if id == self.end_of_text:
            self._finish(request, "stop")
            request.tokens.append(Token(request, None))
            return request.tokens[-1]
        request.output_ids.append(id)
        request.context_ids.append(id)
        if len(request.output_ids) == request.sampling.max_tokens:
            self._finish(request, "length")
        token = Token(request, id)
        if request.top_logprobs is not None:
            own, ids, values = token_logprobs(logits.unsqueeze(0), torch.tensor([id]), request.top_logprobs)
            token = Token(request, id, own.item(), tuple(zip(ids[0].tolist(), values[0].tolist(), strict=True)))
        request.tokens.append(token)
        return token

    def _finish(self, request: Request, reason: FinishReason) -> None:
        request.finish_reason = reason
        if request in self.active:
            self.active.remove(request)
        self.waiting.pop(request, None)
        self._release(request)

    def _release(self, request: Request) -> None:
        """Give back the memory of what a request has read."""
        if request.cache is not None:
            if self._newest is not None and self._newest.cache is request.cache:
                self._newest = None
            self.decoder.release(request.cache)
            request.cache = None

    def _checked(self, ids: Sequence[int]) -> list[int]:
        prompt = torch.as_tensor(ids, dtype=torch.int64)
        if prompt.dim() != 1 or len(prompt) == 0:
            raise InputError(
                f"the prompt must be a flat sequence of at least one token id; its shape is {tuple(prompt.shape)}"
            )
        if prompt.min() < 0 or prompt.max() >= self.model.config.vocab_size:
            raise InputError(
                f"the prompt has ids from {prompt.min()} to {prompt.max()}; the vocabulary has "
                f"{self.model.config.vocab_size}"
            )
        return prompt.tolist()


def _length(request: Request) -> tuple[int, int]:
    return len(request.prompt), request.sampling.max_tokens


def _positions(request: Request) -> int:
    """How many a request needs from here on, at the most."""
    return len(request.context_ids) + request.sampling.max_tokens - len(request.output_ids) - 1
