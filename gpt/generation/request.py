"""One sequence that an engine continues, and what is drawn for it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch

from gpt.generation.config import SamplingConfig
from gpt.generation.sampling import sample_generator
from gpt.model.cache import KVCache

FinishReason = Literal["", "stop", "length", "cancelled"]


@dataclass(eq=False)
class Request:
    """One sequence that an engine continues."""

    prompt: list[int]
    sampling: SamplingConfig
    """Without its seed, so that requests with equal settings are drawn together."""
    seed: int
    top_logprobs: int | None
    """How many of the likeliest ids each token tells, with log-probabilities; None for neither."""
    output_ids: list[int] = field(default_factory=list)
    """The new ids so far."""
    tokens: list["Token"] = field(default_factory=list)
    """All that was drawn, with the end-of-text that ended it, if one did."""
    finish_reason: FinishReason = ""
    """'' while it goes on, then 'stop' (end-of-text), 'length' (max_tokens), or 'cancelled'."""
    context_ids: list[int] = field(default_factory=list)
    """What the model sees of prompt and new ids; its last one is not read yet, unless none was drawn."""
    cache: KVCache | None = None
    """Of what was read; None before and afterwards."""
    sample: int = 0
    """Its number among the samples of the seed."""

    @cached_property
    def generator(self) -> torch.Generator:
        """Made at the first draw: it is the largest part of a request that waits."""
        return sample_generator(self.seed, self.sample)


@dataclass(frozen=True)
class Token:
    """What a step drew for a request."""

    request: Request
    id: int | None
    """None if the request ended by end-of-text, which is no part of it."""
    logprob: float | None = None
    """Natural logarithm of its probability by the model alone, before any setting; if the request asked for it."""
    top_logprobs: tuple[tuple[int, float], ...] = ()
    """The likeliest ids and their log-probabilities, the likeliest first."""
