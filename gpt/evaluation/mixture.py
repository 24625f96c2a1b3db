"""Validation splits of several datasets, evaluated in one pass: the loss on each, and that of all by their weights.

The figures of all are those of the mixture that is learned from. A source's tokens count so much that together they
have its weight, and as its weight is no chance, the errors are reckoned within each source.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from torch import Tensor

from gpt.dataset.dataset import Source
from gpt.dataset.shards import Split
from gpt.evaluation.loss import Evaluation, summarize
from gpt.evaluation.windows import Windows


class MixedWindows(Windows):
    """The windows of several sources, one source after the other; none has text of two."""

    def __init__(
        self,
        split: Split,
        sources: Sequence[Source],
        context_length: int,
        end_of_text: int | None = None,
        tokens: int | None = None,
    ) -> None:
        """Lay windows on `split`, the sources' validation splits one after the other.

        `tokens` is the budget of all: each source gets the same part of it, so that its own loss is known well, too.
        """
        share = None if tokens is None else max(1, tokens // len(sources))
        self.split, self.end_of_text = split, end_of_text
        self.context_length = self.stride = context_length
        self.parts = [
            Windows(source.dataset.validation, context_length, end_of_text, tokens=share) for source in sources
        ]
        self.source_weights = np.array([float(source.weight) for source in sources])
        self.places = np.cumsum([0] + [part.split.tokens for part in self.parts])  # where the splits begin and end
        self.whole = sum(part.whole for part in self.parts)
        self.is_complete = all(part.is_complete for part in self.parts)
        self.begins, self.firsts, self.lasts = (
            np.concatenate([getattr(part, name) + place for part, place in zip(self.parts, self.places, strict=False)])
            for name in ("begins", "firsts", "lasts")
        )

    @property
    def split_tokens(self) -> int:
        """Tokens of all splits, of each after the first one but the one that cannot be predicted."""
        return self.split.tokens - len(self.parts) + 1

    @cached_property
    def _ends(self) -> np.ndarray:
        """The ends of documents; the last one of a source ends with it."""
        return np.union1d(super()._ends, self.places[1:] - 1)

    @cached_property
    def strata(self) -> np.ndarray:
        """The number of each piece's source, (P,)."""
        return np.searchsorted(self.places, self.starts, side="right") - 1

    def weighted(self, sums: np.ndarray) -> np.ndarray:
        """Multiply the sums of pieces, (P, 3), so that the tokens of each source are its weight of all tokens."""
        tokens = np.bincount(self.strata, sums[:, 1])
        return sums * (self.source_weights / tokens * tokens.sum())[self.strata, None]

    def of_sources(self, sums: Tensor) -> list[Evaluation]:
        """Compute the figures of each source by itself."""
        return [summarize(sums[self.strata == number], part) for number, part in enumerate(self.parts)]
