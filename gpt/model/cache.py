"""What decoding keeps of the positions read so far: their keys and values, block by block.

`KVCache` holds one sequence, `RaggedBatch` several of different lengths, `StaticCache` several in tensors of fixed
shape, whose lengths are tensors too, so that a compiler sees the same program at every step.

Letters in shapes: B sequences, T new positions, S positions in all, H heads, D head width, K heads of keys and values.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gpt.errors import InputError
from gpt.model.attention import attend, attend_one, dot_product
from gpt.model.config import ModelConfig
from gpt.model.ngrams import NO_TOKEN

ALIGNMENT = 16  # positions: keys, values and scores are read from a multiple of this to another
SMALLEST_BUCKET = 128  # positions that `StaticCache` reads at the least


class Cache(Protocol):
    """What a model asks of a cache: where new tokens stand, and what they attend to."""

    def positions(self, T: int) -> Tensor:
        """Where T new tokens of each sequence stand, (B, T) int64. Raises InputError if there is no room for them."""
        ...

    def ids_before(self, reach: int) -> Tensor:
        """The last ids read, (B, reach), NO_TOKEN where there are none."""
        ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, sliding_window: int | None) -> Tensor:
        """Store keys and values (B, K, T, D) behind the others, and attend to all: (B, H, T, D) → (B, H, T, D)."""
        ...

    def advance(self, ids: Tensor) -> None:
        """Count the positions of (B, T) ids as read, after the last block."""
        ...


class KVCache:
    """Sequences of one length, mostly one; memory for `capacity` positions of each is taken once.

    `store` has (L, 2, B, K, S, D), the keys and then the values of L blocks, where S is the capacity rounded up, and
    `ids` (B, capacity); the first `length` positions are filled, the others zero or forgotten.
    """

    def __init__(
        self,
        config: ModelConfig,
        capacity: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        sequences: int = 1,
    ) -> None:
        self.capacity = min(capacity or config.context_length, config.context_length)
        heads = config.n_kv_head or config.n_head
        shape = (config.n_layer, 2, sequences, heads, _round_up(self.capacity), config.head_dim)
        # Zeros, for what is masked is still multiplied: by 0, which must not meet a NaN.
        self._bind(torch.zeros(shape, device=device, dtype=dtype))
        self.ids = torch.empty(sequences, self.capacity, device=device, dtype=torch.int64)

    def _bind(self, store: Tensor) -> None:
        self.store, self.length = store, 0
        self.layers = [(store[layer, 0], store[layer, 1]) for layer in range(len(store))]
        self.base, self.offset = self, 0
        self.masks: dict[int | None, tuple[int, Tensor]] = {}

    def view(self, start: int, sequences: int = 1) -> "KVCache":
        """Some of the sequences, in the same memory, which is free when no part is left."""
        view = object.__new__(KVCache)
        view._bind(self.store.narrow(2, start, sequences))
        view.capacity, view.ids = self.capacity, self.ids.narrow(0, start, sequences)
        view.length, view.base, view.offset = self.length, self.base, self.offset + start
        return view

    def positions(self, T: int) -> Tensor:
        end = self.length + T
        if end > self.capacity:
            raise InputError(f"{end} positions do not fit into the cache, which has room for {self.capacity}")
        self.masks.clear()
        return torch.arange(self.length, end, device=self.ids.device).expand(self.store.size(2), T)

    def ids_before(self, reach: int) -> Tensor:
        known = self.ids[:, max(0, self.length - reach) : self.length]
        return torch.nn.functional.pad(known, (reach - known.size(1), 0), value=NO_TOKEN)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, sliding_window: int | None) -> Tensor:
        past, T = self.length, key.size(2)
        keys, values = self.layers[layer]
        keys.narrow(2, past, T).copy_(key)
        values.narrow(2, past, T).copy_(value)
        if T == 1:
            start, mask = self.masks.get(sliding_window) or self._mask(sliding_window)
            return attend_one(query, *(part.narrow(2, start, len(mask)) for part in (keys, values)), mask)
        keys, values = (part.narrow(2, 0, past + T) for part in (keys, values))
        parts = zip(query.split(1), keys.split(1), values.split(1), strict=True)  # alone, as threads share the work
        return torch.cat([attend(*part, past, sliding_window) for part in parts])

    def _mask(self, sliding_window: int | None) -> tuple[int, Tensor]:
        """Where the newest position begins to read, and what it sees from there on; the same for all blocks."""
        length = self.length + 1
        first = 0 if sliding_window is None else max(0, length - sliding_window)
        start = first // ALIGNMENT * ALIGNMENT
        mask = self.store.new_full((_round_up(length) - start,), -torch.inf)
        mask[first - start : length - start] = 0
        self.masks[sliding_window] = start, mask
        return start, mask

    def advance(self, ids: Tensor) -> None:
        self.ids[:, self.length : self.length + ids.size(1)] = ids
        self.length += ids.size(1)

    def move_to(self, other: "KVCache") -> None:
        """Be in the other's place from now on."""
        other.copy_from(self, self.length)
        self._bind(other.store)
        self.length, self.ids, self.base, self.offset = other.length, other.ids, other.base, other.offset

    def copy_from(self, other: "KVCache", length: int) -> None:
        """Take over the first positions that another cache of the same model has read."""
        self.store[..., :length, :] = other.store[..., :length, :]
        self.ids[:, :length] = other.ids[:, :length]
        self.length = length


class RaggedBatch:
    """Several sequences of different lengths, read together: each attends to its own cache alone, and to what is
    filled of it, so that none is padded and none changes another's results.

    Neighbours in memory that have the same length attend in one call.
    """

    def __init__(self, caches: Sequence[KVCache]) -> None:
        self.caches = caches
        self.groups: list[KVCache] = []
        for cache in caches:
            group = self.groups[-1] if self.groups else None
            follows = group is not None and group.base is cache.base and group.length == cache.length
            if follows and group.offset + group.store.size(2) == cache.offset:
                self.groups[-1] = group.base.view(group.offset, group.store.size(2) + 1)
                self.groups[-1].length = cache.length
            else:
                self.groups.append(cache)
        self.sizes = [group.store.size(2) for group in self.groups]

    def positions(self, T: int) -> Tensor:
        return torch.cat([group.positions(T) for group in self.groups])

    def ids_before(self, reach: int) -> Tensor:
        return torch.cat([group.ids_before(reach) for group in self.groups])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, sliding_window: int | None) -> Tensor:
        parts = zip(self.groups, *(part.split(self.sizes) for part in (query, key, value)), strict=True)
        return torch.cat([group.attend(layer, q, k, v, sliding_window) for group, q, k, v in parts])

    def advance(self, ids: Tensor) -> None:
        for cache, row in zip(self.caches, ids.split(1), strict=True):
            cache.advance(row)


class StaticCache:
    """Room for a fixed number of sequences, of which each step reads one more token.

    `whole` holds their keys, values and ids; `lengths` (B,) says how far each is filled. A slot is filled through
    `slot`, a `KVCache` that lies in the same memory.
    """

    def __init__(
        self, config: ModelConfig, slots: int, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> None:
        self.config, self.base = config, KVCache(config, None, device, dtype, slots)
        self.ids = self.base.ids.zero_()
        self.lengths = torch.zeros(slots, device=device, dtype=torch.int64)
        self.rows = torch.arange(slots, device=device)
        self.read = config.context_length  # positions that attention reads of each

    def tensors(self) -> list[Tensor]:
        """All that a step reads and writes beside the model."""
        return [self.ids, self.lengths, self.rows, *(part for pair in self.base.layers for part in pair)]

    def slot(self, i: int) -> KVCache:
        """An empty cache whose memory is slot i's."""
        return self.base.view(i)

    def begin_step(self, lengths: dict[int, int]) -> None:
        """Say how many positions the slots in use have; the step writes behind them, and in all others to the first.

        As many positions are read as the longest needs, rounded up to a power of two: each number is a program.
        """
        self.lengths.zero_()
        self.lengths[list(lengths)] = torch.tensor(list(lengths.values()), device=self.lengths.device)
        self.read = SMALLEST_BUCKET
        while self.read <= max(lengths.values()):
            self.read *= 2
        self.read = min(self.read, self.config.context_length)

    def positions(self, T: int) -> Tensor:
        assert T == 1, "slots are filled one by one, through `slot`"
        return self.lengths.unsqueeze(1)

    def ids_before(self, reach: int) -> Tensor:
        places = self.lengths.unsqueeze(1) - torch.arange(reach, 0, -1, device=self.ids.device)  # (B, reach)
        return torch.where(places < 0, NO_TOKEN, self.ids.gather(1, places.clamp(min=0)))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, sliding_window: int | None) -> Tensor:
        keys, values = self.base.layers[layer]
        keys[self.rows, :, self.lengths] = key[:, :, 0]
        values[self.rows, :, self.lengths] = value[:, :, 0]
        places, newest = torch.arange(self.read, device=self.ids.device), self.lengths.unsqueeze(1)
        seen = places <= newest  # (B, S)
        if sliding_window is not None:
            seen &= places > newest - sliding_window
        return dot_product(query, keys[:, :, : self.read], values[:, :, : self.read], seen[:, None, None])

    def advance(self, ids: Tensor) -> None:
        self.ids[self.rows, self.lengths] = ids[:, 0]


def _round_up(positions: int) -> int:
    return -(-positions // ALIGNMENT) * ALIGNMENT
