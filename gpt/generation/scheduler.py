"""Which requests are read next, and when each has ended. It has no tensors, and knows neither a model nor text."""

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Literal

import torch

from gpt.generation.sampling import SamplingConfig, sample_generator
from gpt.generation.truncation import ON_OVERFLOW, truncate, truncate_prompt, truncation_notice
from gpt.log import log

FinishReason = Literal["", "stop", "length", "cancelled"]  # spelled as in concurrent.futures
# Read in a row before sequences under way have their turn; a longer prompt is read whole. A GPU, which reads so many in
# the time of a few of its steps, would otherwise never have as many sequences under way as it can continue at once.
PROMPT_TOKENS, PROMPT_TOKENS_ON_CUDA = 512, 8192


@dataclass(eq=False, repr=False)
class Request:
    """One sequence that an engine continues. It owns the reason why its text ended."""

    prompt: list[int]
    sampling: SamplingConfig
    """Without its seed, so that requests with equal settings are drawn together."""
    seed: int
    top_logprobs: int | None = None
    """How many of the likeliest ids each token tells, with log-probabilities; None for neither."""
    sample: int = 0
    """Its number among the samples of the seed."""
    output_ids: list[int] = field(default_factory=list)
    """The new ids so far."""
    finish_reason: FinishReason = ""
    """'' while it goes on, then 'stop' (end-of-text, or whoever reads it has seen its end), 'length' (max_tokens), or
    'cancelled'."""
    context_ids: list[int] = field(default_factory=list)
    """What the model sees of prompt and new ids; its last one is not read yet, unless none was drawn."""

    @cached_property
    def generator(self) -> torch.Generator:
        """Make its random numbers at the first draw, for they are the largest part of a request that waits."""
        return sample_generator(self.seed, self.sample)

    @property
    def positions(self) -> int:
        """Tell how many positions a cache that is filled anew needs, at the most: the last id drawn is never read."""
        return len(self.context_ids) + self.sampling.max_tokens - len(self.output_ids) - 1

    def __repr__(self) -> str:
        state = self.finish_reason or ("running" if self.context_ids else "waiting")
        return f"Request({len(self.prompt)} prompt ids, {len(self.output_ids)} new ones, {state})"


class Scheduler:
    """Up to `max_batch` requests run at once; the others wait in the order in which they came."""

    def __init__(self, max_batch: int, context_length: int, end_of_text: int | None, device: str = "cpu") -> None:
        self.max_batch, self.context_length, self.end_of_text = max_batch, context_length, end_of_text
        self.prompt_tokens = PROMPT_TOKENS_ON_CUDA if device == "cuda" else PROMPT_TOKENS
        self.stop_ids = {end_of_text}  # and others that end a text as that does
        self.waiting: OrderedDict[Request, None] = OrderedDict()  # a queue that any request can leave at once
        self.running: list[Request] = []
        self._tokens_before = 0  # read in prompts when the requests under way last had their turn

    @property
    def is_idle(self) -> bool:
        """Tell whether no request waits or runs."""
        return not self.waiting and not self.running

    def schedule(self, prompt_tokens: int) -> tuple[list[list[Request]], list[Request]]:
        """Choose what the next step reads: the whole contexts of groups of requests, each group's together, and one
        more id of other requests. `prompt_tokens` is how many were read in whole contexts so far."""
        patient = prompt_tokens - self._tokens_before < self.prompt_tokens or not self.running
        if self.waiting and patient and len(self.running) < self.max_batch:
            return [self._admit()], []
        self._tokens_before = prompt_tokens
        full = [request for request in self.running if len(request.context_ids) > self.context_length]
        ready = [request for request in self.running if len(request.context_ids) <= self.context_length]
        for request in full:
            overflow = request.sampling.overflow
            request.context_ids = truncate(request.context_ids, self.context_length, overflow)
            log.warning_once(f"the context of {self.context_length:,} tokens is full: {ON_OVERFLOW[overflow]}")
        return [[request] for request in full], ready

    def _admit(self) -> list[Request]:
        """Start the next request, and those right behind it that are as long: they are read together."""
        first = next(iter(self.waiting))
        most = min(self.max_batch - len(self.running), max(1, self.prompt_tokens // len(first.prompt)))
        alike = takewhile(lambda request: _length(request) == _length(first), self.waiting)
        requests = [request for _, request in zip(range(most), alike, strict=False)]
        for request in requests:
            del self.waiting[request]
            request.context_ids = list(request.prompt)
            if len(request.prompt) > self.context_length:
                overflow = request.sampling.overflow
                request.context_ids = truncate_prompt(request.prompt, self.context_length, overflow)
                log.warning_once(truncation_notice(len(request.prompt), self.context_length, overflow))
        self.running += requests
        return requests

    def append(self, request: Request, id: int) -> bool:
        """Add a drawn id to a request, which may end it; False for a stop id, which is no part of what was drawn."""
        if id in self.stop_ids:
            self.finish(request, "stop")
            return False
        request.output_ids.append(id)
        request.context_ids.append(id)
        if len(request.output_ids) == request.sampling.max_tokens:
            self.finish(request, "length")
        return True

    def finish(self, request: Request, reason: FinishReason) -> None:
        """End a request. To cancel one that has ended changes nothing."""
        if reason != "cancelled" or not request.finish_reason:
            request.finish_reason = reason
        if request in self.running:
            self.running.remove(request)
        self.waiting.pop(request, None)


def _length(request: Request) -> tuple[int, int]:
    return len(request.prompt), request.sampling.max_tokens
