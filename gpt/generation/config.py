"""How the next token is drawn."""

import math
from dataclasses import dataclass
from typing import get_args

from gpt.choices import Overflow
from gpt.errors import require


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn: the settings apply in the order in which they stand here."""

    max_tokens: int = 200
    """New tokens per sample, at the most."""
    repetition_penalty: float = 1.0
    """Makes ids that the text already has less likely, above 1; divides their logits, or multiplies negative ones."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = 50
    """Draw among the k likeliest tokens; above the vocabulary means all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens whose probabilities add up to this."""
    min_p: float = 0.0
    """Draw among the tokens that have at least this share of the likeliest one's probability."""
    seed: int | None = None
    """Seed of the draws; without one every call draws afresh."""
    overflow: Overflow = "slide"
    """When the context is full: refuse beforehand (error), read the newest half again (slide), or the first quarter
    and the newer half of the rest (keep-prefix)."""

    def __post_init__(self) -> None:
        require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        require(
            0.001 <= self.repetition_penalty <= 1000,
            "repetition_penalty",
            self.repetition_penalty,
            "from 0.001 to 1000 (1 changes nothing)",
        )
        require(
            0 <= self.temperature < math.inf, "temperature", self.temperature, "0 (greedy) or a finite number above 0"
        )
        require(self.top_k >= 1, "top_k", self.top_k, "at least 1 (a number above the vocabulary means all)")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1 (which means all)")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "from 0 (which means all) to 1")
        require(self.seed is None or 0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")
        require(self.overflow in get_args(Overflow), "overflow", self.overflow, " or ".join(get_args(Overflow)))
