"""Several continuations of one beginning, which is read once: what a model keeps of the beginnings, and reads them by.

A model meets both as caches. `Prefixes` keeps the keys and values of rows that begin at position 0; each row of
`Branches` goes on where one of them ends, any number of rows after the same one. What pads rows on their right changes
nothing before it.

Letters in shapes: B prefixes, P positions of the longest, R branches, T new positions, D head width, K heads of keys
and values.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt.model.attention import Segment, causal_mask, visible
from gpt.model.ngrams import NO_TOKEN


class Prefixes:
    """The beginnings, (B, P) ids, which are read in one pass."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        self.layers: list[tuple[Tensor, Tensor]] = []  # keys and values, (B, K, P, D) each

    def positions(self, T: int) -> Tensor:
        """Give where the tokens stand, (B, T)."""
        return torch.arange(T, device=self.ids.device).expand(len(self.ids), T)

    def ids_before(self, reach: int) -> Tensor:
        """Give what stands before the rows, (B, reach): nothing."""
        return self.ids.new_full((len(self.ids), reach), NO_TOKEN)

    def append(self, layer: int, key: Tensor, value: Tensor, sliding_window: int | None) -> list[Segment]:
        """Keep a layer's keys and values, (B, K, T, D), and give them as one segment."""
        assert layer == len(self.layers), "layers are read in their order, and once"
        self.layers.append((key, value))
        T = key.size(2)
        return [Segment(key, value, causal_mask(T, T, sliding_window, key.device))]

    def advance(self, ids: Tensor) -> None:
        """Keep nothing more."""


class Branches:
    """What goes on after some prefixes: row r after the first `lengths[r]` positions of prefix `rows[r]`, (R,) each.

    They are read in one pass, and keep nothing.
    """

    def __init__(self, prefixes: Prefixes, rows: Tensor, lengths: Tensor, context_length: int) -> None:
        self.prefixes, self.rows, self.lengths, self.context_length = prefixes, rows, lengths, context_length
        self.read = int(lengths.max())  # positions that are read of each prefix
        self.masks: dict[int | None, Tensor] = {}  # by window

    def positions(self, T: int) -> Tensor:
        """Give where the tokens stand, (R, T); those that only pad a row stay within the context."""
        return self._at(T).clamp(max=self.context_length - 1)

    def _at(self, T: int) -> Tensor:
        return self.lengths.unsqueeze(1) + torch.arange(T, device=self.lengths.device)

    def ids_before(self, reach: int) -> Tensor:
        """Give the last ids of the prefixes, (R, reach), NO_TOKEN where there are none."""
        at = self.lengths.unsqueeze(1) - torch.arange(reach, 0, -1, device=self.lengths.device)  # (R, reach)
        return torch.where(at < 0, NO_TOKEN, self.prefixes.ids[self.rows].gather(1, at.clamp(min=0)))

    def append(self, layer: int, key: Tensor, value: Tensor, sliding_window: int | None) -> list[Segment]:
        """Put keys and values, (R, K, T, D), behind those of each row's prefix, and give all as one segment."""
        T = key.size(2)
        places = self._at(T)[:, None, :, None].expand_as(key)  # (R, K, T, D)
        keys, values = (
            F.pad(kept[self.rows, :, : self.read], (0, 0, 0, T)).scatter_(2, places, new)  # (R, K, P + T, D)
            for kept, new in zip(self.prefixes.layers[layer], (key, value), strict=True)
        )
        if sliding_window not in self.masks:
            seen = visible(self._at(T).unsqueeze(2), torch.arange(self.read + T, device=key.device), sliding_window)
            self.masks[sliding_window] = seen.unsqueeze(1)  # (R, 1, T, P + T)
        return [Segment(keys, values, self.masks[sliding_window], self.lengths.unsqueeze(1))]

    def advance(self, ids: Tensor) -> None:
        """Keep nothing."""
