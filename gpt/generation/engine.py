"""Requests in, tokens out: many sequences are continued at once. The engine knows nothing of text.

A step either reads waiting prompts (prefill), or one more id of every sequence under way (decode), and draws what
follows. The scheduler decides which, the runner reads them, and `sample` of sampling.py draws.

Letters in shapes: B sequences, V vocabulary.
"""

import contextlib
import secrets
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor

from gpt.choices import Overflow
from gpt.errors import InputError, OutOfMemory
from gpt.generation.lookups import Corpus
from gpt.generation.runner import CompiledRunner, ModelRunner
from gpt.generation.sampling import SamplingConfig, sample
from gpt.generation.scheduler import FinishReason, Request, Scheduler
from gpt.generation.speculation import Speculation
from gpt.generation.truncation import require_room
from gpt.memory import is_out_of_memory
from gpt.model.loss import token_logprobs
from gpt.model.prepack import keeps_bits
from gpt.model.transformer import GPT

WORTH_GUESSING = 64  # new tokens: to read a new number of rows at once must be tried first, for some steps' time
LESS_MEMORY = "use a smaller `batch`, a shorter prompt or `max_tokens`, or another `device`"


@dataclass(frozen=True)
class Token:
    """What a step drew for a request."""

    request: Request = field(repr=False)
    id: int
    logprob: float | None = None
    """Natural logarithm of its probability by the model alone, before any setting; if the request asked for it."""
    top_logprobs: tuple[tuple[int, float], ...] = ()
    """The likeliest ids and their log-probabilities, the likeliest first."""


class Engine:
    """Continues up to `max_batch` sequences at once; more wait for their turn.

    `submit` and `finish` may be called between any two steps. What is drawn for a request depends on its own prompt,
    settings and seed alone, whatever is drawn beside it: to the last bit with prepacked weights (`load_run`) that
    keep bits and as many threads, else up to rounding. KV memory is released as sequences finish. Sequences
    prefilled together are compacted once half of them are done.

    Ids from `vocab_size` on, which a padded model has and its tokenizer has not, are never drawn, nor those of `never`.
    When a text outgrows the context, a warning says once what is done about it. With `compiled`, decoding goes through
    torch.compile: slow to begin with, for each of a few lengths, then faster on a GPU. With `speculative`, and weights
    that keep bits, guesses of what comes next are read along, which changes the time alone; from the first request of
    at least WORTH_GUESSING tokens on, and by a `corpus`, too, if there is one. The model should be in
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
        speculative: bool = True,
        corpus: Corpus | None = None,
    ) -> None:
        if max_batch < 1:
            raise InputError(f"max_batch is {max_batch}; it must be at least 1")
        self.model, self.max_batch, self.vocab_size = model, max_batch, vocab_size
        self.scheduler = Scheduler(max_batch, model.config.context_length, end_of_text, model.device.type)
        self.runner = CompiledRunner(model, max_batch) if compiled else ModelRunner(model)
        self.speculative = speculative and not compiled and keeps_bits(model)
        self.corpus = corpus
        self.never: list[int] = []  # ids that are not drawn
        self.sample: Callable[..., Tensor] = sample  # or another way of drawing, of several processes together
        # inference_mode is faster, but what fully_shard gathers in it could not be trained on then.
        trainable = any(parameter.requires_grad for parameter in model.parameters())
        self._without_gradients = torch.no_grad if trainable else torch.inference_mode

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
        request = Request(prompt, replace(sampling, seed=None), seed, top_logprobs, sample)
        self.scheduler.waiting[request] = None
        if self.speculative and sampling.max_tokens >= WORTH_GUESSING:
            self.runner.speculation = self.runner.speculation or Speculation(self.corpus)
        return request

    def finish(self, request: Request, reason: FinishReason) -> None:
        """Draw nothing more for a request, and give up its memory. To cancel one that has ended changes nothing."""
        self.scheduler.finish(request, reason)
        self.runner.forget(request)

    def run(self) -> Iterator[Token]:
        """Step until all requests are done, yielding each token as it is drawn."""
        while not self.scheduler.is_idle:
            yield from (token for token in self.step() if token.request.finish_reason != "cancelled")

    def step(self) -> list[Token]:
        """Draw a token for each sequence whose next one was foreseen; or read what the scheduler chooses, and draw.

        An end-of-text ends its request, and gives no Token.

        If it fails, or is interrupted, all sequences under way are cancelled.
        Raises InputError if memory runs out, if the compiler fails, or if the model's logits are not finite.
        """
        with self._all_or_nothing(), self._without_gradients():
            foreseen, rows = self.runner.foreseen(self.scheduler.running)
            if foreseen:
                return self._draw(foreseen, rows)
            prompts, running = self.scheduler.schedule(self.runner.prompt_tokens)
            logits = [self.runner.prefill(group) for group in prompts]
            logits += [self.runner.decode(running)] if running else []
            return self._draw([*chain.from_iterable(prompts), *running], logits)

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Generator[None]:
        try:
            yield
        except BaseException as error:
            under_way = [*self.scheduler.running]
            for request in under_way:
                self.finish(request, "cancelled")
            if is_out_of_memory(error):
                raise OutOfMemory(f"out of memory with {len(under_way)} sequences at once: {LESS_MEMORY}") from None
            raise

    def _draw(self, requests: list[Request], parts: list[Tensor]) -> list[Token]:
        """Draw a token for each request by its row of the parts, (B, V) in all; those of equal settings together."""
        if not requests:
            return []
        logits = torch.cat(parts)[:, : self.vocab_size]
        if self.never:
            logits = logits.index_fill(1, torch.tensor(self.never, device=logits.device), -torch.inf)
        alike = defaultdict(list)  # rows by settings
        for row, request in enumerate(requests):
            alike[request.sampling].append(row)
        ids = [0] * len(requests)
        for sampling, rows in alike.items():
            some = [requests[row] for row in rows]
            part = logits if len(rows) == len(requests) else logits[rows]
            penalty = sampling.repetition_penalty != 1
            seen = [torch.tensor(request.prompt + request.output_ids) for request in some] if penalty else ()
            sampled = self.sample(part, sampling, [request.generator for request in some], seen)
            for row, id in zip(rows, sampled.tolist(), strict=True):
                ids[row] = id
        tokens = []
        for request, id, row in zip(requests, ids, logits, strict=True):
            if self.scheduler.append(request, id):
                tokens.append(_token(request, id, row))
            if request.finish_reason:
                self.runner.forget(request)
        return tokens

    def _checked(self, ids: Sequence[int]) -> list[int]:
        if isinstance(ids, str | bytes):
            raise InputError("the prompt is text, and the engine reads token ids: encode it, by tokenizer.encode(text)")
        try:
            prompt = (given := torch.as_tensor(ids)).to(torch.int64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"the prompt must be a flat sequence of token ids ({error})") from None
        if prompt.dim() != 1 or len(prompt) == 0 or given.is_floating_point():
            raise InputError(
                f"the prompt must be a flat sequence of at least one token id; it is of the shape "
                f"{tuple(given.shape)} and of {str(given.dtype).removeprefix('torch.')}"
            )
        if prompt.min() < 0 or prompt.max() >= self.model.config.vocab_size:
            raise InputError(
                f"the prompt has ids from {prompt.min()} to {prompt.max()}; the vocabulary has "
                f"{self.model.config.vocab_size}"
            )
        return prompt.tolist()


def _token(request: Request, id: int, logits: Tensor) -> Token:
    """Make what a step gives of an id; `logits` (V,) are those it was drawn by."""
    if request.top_logprobs is None:
        return Token(request, id)
    own, ids, values = token_logprobs(logits.unsqueeze(0), torch.tensor([id]), request.top_logprobs)
    return Token(request, id, own.item(), tuple(zip(ids[0].tolist(), values[0].tolist(), strict=True)))


def generate(
    model: GPT,
    ids: Sequence[int],
    *,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    overflow: Overflow = "slide",
    seed: int | None = None,
    end_of_text: int | None = None,
    vocab_size: int | None = None,
) -> Iterator[int]:
    """Continue a prompt of at least one token id, yielding each new id as it is drawn.

    Ends after `max_tokens`, or before the id `end_of_text`, which is not yielded. The other settings are those of
    SamplingConfig; `vocab_size` and what is raised are those of Engine.
    """
    sampling = SamplingConfig(
        max_tokens=max_tokens,
        repetition_penalty=repetition_penalty,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        overflow=overflow,
    )
    engine = Engine(model, max_batch=1, end_of_text=end_of_text, vocab_size=vocab_size)
    engine.submit(ids, sampling)
    for token in engine.run():
        yield token.id
