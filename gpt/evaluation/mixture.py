"""Validation splits of several datasets, evaluated in one pass: the loss on each, and that of all by their weights.

The figures of all are those of the mixture that is learned from. A source's tokens count so much that together they
have its weight, and as its weight is no chance, the errors are reckoned within each source.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from torch import Tensor

from gpt.dataset.dataset import WeightedSource
from gpt.dataset.shards import Split
from gpt.evaluation.loss import Evaluation, summarize
from gpt.evaluation.windows import Windows


class MixedWindows(Windows):
    """The windows of several sources, one source after the other; none has text of two."""

    def __init__(
        self,
        split: Split,
        sources: Sequence[WeightedSource],
        context_length: int,
        end_of_text: int | None = None,
        tokens: int | None = None,
        document_mask: bool = False,
        parts: list[Windows] | None = None,
    ) -> None:
        """Lay windows on `split`, the sources' validation splits one after the other.

        `tokens` is the budget of all: each source gets the same part of it, so that its own loss is known well, too.
        `document_mask` is that of `Windows`. `parts` are the windows of each source where they are laid already, on
        what `split` then holds.
        """
        super().__init__(split, context_length, end_of_text, document_mask=document_mask)
        share = None if tokens is None else tokens // len(sources)
        self.sources = sources
        self.parts = parts or [
            Windows(source.dataset.validation, context_length, end_of_text, tokens=share, document_mask=document_mask)
            for source in sources
        ]
        self.with_masks = [
            source.name for source, part in zip(sources, self.parts, strict=True) if part.split.is_masked
        ]
        self.source_weights = np.array([float(source.weight) for source in sources])
        self.places = np.cumsum([0] + [part.split.tokens for part in self.parts])  # where the splits begin and end
        self.whole = sum(part.whole for part in self.parts)
        self.is_complete = all(part.is_complete for part in self.parts)
        self.begins, self.firsts, self.lasts = (
            np.concatenate([getattr(part, name) + place for part, place in zip(self.parts, self.places, strict=False)])
            for name in ("begins", "firsts", "lasts")
        )

    def within(self, tokens: int) -> int:
        """Count the windows that a budget of tokens for all sources is enough for."""
        return sum(part.within(tokens // len(self.parts)) for part in self.parts)

    def budget_of(self, windows: int) -> int:
        """Give a budget of tokens for all sources that is enough for so many windows."""
        largest = len(self.parts) * max(part.split.tokens for part in self.parts)
        return 1 + bisect_left(range(1, largest), windows, key=self.within)

    def like(self, split: Split) -> "MixedWindows":
        """Lay as many windows on the sources' splits of the name of another one, which it holds one after the other."""
        splits = [getattr(source.dataset, split.name) for source in self.sources]
        parts = [part.like(own) for part, own in zip(self.parts, splits, strict=True)]
        return MixedWindows(
            split, self.sources, self.context_length, self.end_of_text, document_mask=self.document_mask, parts=parts
        )

    @property
    def answers_only(self) -> bool:
        """Tell whether only what is learned is predicted of every source."""
        return len(self.with_masks) == len(self.parts)

    @property
    def answers_of(self) -> str:
        """Name the sources of which that is so, where it is not so of all."""
        return "" if self.answers_only else ", ".join(self.with_masks)

    @property
    def split_tokens(self) -> int:
        """Tokens of all splits that can be predicted, and one, as of each."""
        return 1 + sum(part.split_tokens - 1 for part in self.parts)

    def require_targets(self, option: str = "tokens", what: str = "windows") -> None:
        """Raise InputError if nothing is predicted of a source."""
        for part in self.parts:
            part.require_targets(option, what)

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
