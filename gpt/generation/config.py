"""How the next token is drawn."""

from dataclasses import dataclass
from typing import get_args

from gpt.choices import Overflow
from gpt.errors import bounded, check_limits, require


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn: the settings apply in the order in which they stand here."""

    max_tokens: int = bounded(200, ge=1)
    """New tokens per sample, at the most."""
    repetition_penalty: float = bounded(1.0, ge=0.001, le=1000, note="1 changes nothing")
    """Makes ids that the text already has less likely, above 1; divides their logits, or multiplies negative ones."""
    temperature: float = bounded(0.8, ge=0, note="0 is greedy")
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = bounded(50, ge=1, note="a number above the vocabulary means all")
    """Draw among the k likeliest tokens; above the vocabulary means all."""
    top_p: float = bounded(1.0, gt=0, le=1, note="1 means all")
    """Draw among the likeliest tokens whose probabilities add up to this."""
    min_p: float = bounded(0.0, ge=0, le=1, note="0 means all")
    """Draw among the tokens that have at least this share of the likeliest one's probability."""
    seed: int | None = bounded(None, ge=0, le=2**63 - 1)
    """Seed of the draws; without one every call draws afresh."""
    overflow: Overflow = "slide"
    """When the context is full: refuse beforehand (error), read the newest half again (slide), or the first quarter
    and the newer half of the rest (keep-prefix)."""

    def __post_init__(self) -> None:
        check_limits(self)
        require(self.overflow in get_args(Overflow), "`overflow`", self.overflow, " or ".join(get_args(Overflow)))
