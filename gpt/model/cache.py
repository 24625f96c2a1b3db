"""What decoding keeps of the positions read so far: their keys and values, block by block.

A cache stores, and hands out segments to attend to; it knows no attention. `KVCache` holds sequences of one length,
`Lookahead` reads of one several ids at once, `RaggedBatch` reads several sequences together. `StaticCache` holds them
in tensors of fixed shape, whose lengths are tensors too, so that a compiler sees the same program at every step.

Letters in shapes: L blocks, B sequences, T new positions, S positions in all, D head width, K heads of keys and values.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gpt.errors import InputError
from gpt.model.attention import Segment, causal_mask, visible
from gpt.model.config import ModelConfig
from gpt.model.ngrams import NO_TOKEN

ALIGNMENT = 16  # positions: keys, values and scores are read from a multiple of this to another
SMALLEST_BUCKET = 128  # positions that `StaticCache` reads at the least


class KVBlock:
    """Memory for some sequences side by side, taken at once; it is freed with the last cache that lies in it.

    `store` (L, 2, B, K, S, D) has the keys and then the values of each block, where S is the capacity rounded up, and
    `ids` (B, capacity) the tokens.
    """

    def __init__(
        self,
        config: ModelConfig,
        capacity: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        sequences: int = 1,
    ) -> None:
        """Take memory for `capacity` positions of each sequence, or as many as the context has, if that is less."""
        self.capacity, self.sequences = min(capacity or config.context_length, config.context_length), sequences
        heads = config.n_kv_head or config.n_head
        shape = (config.n_layer, 2, sequences, heads, _round_up(self.capacity), config.head_dim)
        # Zeros, for what is masked is still multiplied: by 0, which must not meet a NaN.
        self.store = torch.zeros(shape, device=device, dtype=dtype)
        self.ids = torch.zeros(sequences, self.capacity, device=device, dtype=torch.int64)
        self._masks: dict[int, Tensor] = {}

    def mask(self, seen: int) -> Tensor:
        """Give a mask of so many positions that are seen, and ALIGNMENT hidden ones on either side: parts of it serve.

        (ALIGNMENT + seen + ALIGNMENT,).
        """
        if seen not in self._masks:
            hidden = self.store.new_full((ALIGNMENT,), -torch.inf)
            self._masks[seen] = torch.cat([hidden, self.store.new_zeros(seen), hidden])
        return self._masks[seen]


class KVCache:
    """Sequences of one length, mostly one: `sequences` of a memory block, from its sequence number `first` on.

    The first `length` positions are filled, the others zero or forgotten.
    """

    def __init__(self, block: KVBlock, first: int = 0, sequences: int = 1, length: int = 0) -> None:
        self.length = length
        self.ahead = 0  # positions behind these that are filled, too, with what may turn out to be right
        self.masks: dict[tuple[int, int | None], tuple[int, Tensor]] = {}  # of a step, by position and window
        self._bind(block, first, sequences)

    def _bind(self, block: KVBlock, first: int, sequences: int) -> None:
        self.block, self.first, self.sequences = block, first, sequences
        self.store, self.ids = block.store.narrow(2, first, sequences), block.ids.narrow(0, first, sequences)
        self.layers = [(self.store[layer, 0], self.store[layer, 1]) for layer in range(len(self.store))]  # (B, K, S, D)

    @property
    def room(self) -> int:
        """Tell how many more positions fit."""
        return self.block.capacity - self.length

    def positions(self, T: int) -> Tensor:
        """Give where T new tokens of each sequence stand, (B, T). Raises InputError if there is no room for them."""
        end = self.length + T
        if end > self.block.capacity:
            raise InputError(f"{end} positions do not fit into the cache, which has room for {self.block.capacity}")
        self.masks.clear()
        return torch.arange(self.length, end, device=self.ids.device).expand(self.sequences, T)

    def ids_before(self, reach: int, at: int | None = None) -> Tensor:
        """Give the last ids before a position, by default those read, (B, reach), NO_TOKEN where there are none."""
        at = self.length if at is None else at
        known = self.ids[:, max(0, at - reach) : at]
        return torch.nn.functional.pad(known, (reach - known.size(1), 0), value=NO_TOKEN)

    def append(self, layer: int, key: Tensor, value: Tensor, sliding_window: int | None) -> list[Segment]:
        """Store keys and values (B, K, T, D); of one new position give one segment, of more one for each sequence."""
        past, T = self.length, key.size(2)
        keys, values = self.layers[layer]
        keys.narrow(2, past, T).copy_(key)
        values.narrow(2, past, T).copy_(value)
        if T == 1:
            return [self.segment(layer, past, sliding_window)]
        keys, values = (part.narrow(2, 0, past + T) for part in (keys, values))
        mask = causal_mask(T, past + T, sliding_window, key.device)
        # Each alone, as a fused kernel's threads would share the work otherwise than they do for one.
        return [Segment(*row, mask, past) for row in zip(keys.split(1), values.split(1), strict=True)]

    def segment(self, layer: int, at: int, sliding_window: int | None) -> Segment:
        """Give what one query at a position attends to, whose key and value are stored."""
        start, mask = self.masks.get((at, sliding_window)) or self._mask(at, sliding_window)
        keys, values = (part.narrow(2, start, len(mask)) for part in self.layers[layer])
        return Segment(keys, values, mask, at, start)

    def _mask(self, newest: int, sliding_window: int | None) -> tuple[int, Tensor]:
        """Find where a query at the newest position begins to read, and what it sees from there on, in all blocks."""
        first = 0 if sliding_window is None else max(0, newest + 1 - sliding_window)
        start = first // ALIGNMENT * ALIGNMENT
        seen = newest + 1 - first if first else self.block.capacity
        begin = ALIGNMENT + seen - (newest + 1 - start)
        mask = self.block.mask(seen).narrow(0, begin, _round_up(newest + 1) - start)
        self.masks[newest, sliding_window] = start, mask
        return start, mask

    def advance(self, ids: Tensor) -> None:
        """Count the positions of (B, T) ids as read."""
        self.ids[:, self.length : self.length + ids.size(1)] = ids
        self.length += ids.size(1)

    def move_to(self, other: "KVCache") -> None:
        """Take the other's place from now on."""
        other.copy_from(self, self.length + self.ahead)
        self._bind(other.block, other.first, other.sequences)

    def copy_from(self, other: "KVCache", length: int) -> None:
        """Take over the first positions that another cache of the same model has read."""
        self.store[..., :length, :] = other.store[..., :length, :]
        self.ids[:, :length] = other.ids[:, :length]
        self.length = length


class Lookahead:
    """The next id of a sequence, and some that may follow it, each a row of its own: as if those before it were read.

    What a row attends to is what it attends to if it is read alone. Afterwards the first is counted as read, and the
    others are `ahead` in the cache.
    """

    def __init__(self, cache: KVCache, ids: Sequence[int]) -> None:
        """Take the cache of one sequence, with room for the ids."""
        self.cache, self.sequences = cache, len(ids)
        self.stored = range(cache.length, cache.length + len(ids))
        cache.ids[0, cache.length : self.stored.stop] = torch.tensor(ids, device=cache.ids.device)

    def positions(self, T: int) -> Tensor:
        """Give where the ids stand, (B, 1)."""
        assert T == 1, "each id is a row"
        return self.cache.positions(self.sequences).t()

    def ids_before(self, reach: int) -> Tensor:
        """Give the last ids before each row, (B, reach), NO_TOKEN where there are none."""
        return torch.cat([self.cache.ids_before(reach, at) for at in self.stored])

    def append(self, layer: int, key: Tensor, value: Tensor, sliding_window: int | None) -> list[Segment]:
        """Store keys and values (B, K, 1, D) behind each other; give one segment for each row."""
        for store, part in zip(self.cache.layers[layer], (key, value), strict=True):
            store[0].narrow(1, self.stored.start, self.sequences).copy_(part.squeeze(2).transpose(0, 1))
        return [self.cache.segment(layer, at, sliding_window) for at in self.stored]

    def advance(self, ids: Tensor) -> None:
        """Count the first id as read."""
        self.cache.length += 1
        self.cache.ahead = self.sequences - 1


class RaggedBatch:
    """Several sequences of different lengths, read together: each attends to its own cache alone, and to what is
    filled of it, so that none is padded and none changes another's results.

    Neighbors in memory that have the same length are one segment.
    """

    def __init__(self, caches: Sequence[KVCache | Lookahead]) -> None:
        self.caches = caches
        self.groups: list[KVCache | Lookahead] = []
        for cache in caches:
            before = self.groups[-1] if self.groups else None
            if isinstance(cache, KVCache) and isinstance(before, KVCache) and _follows(cache, before):
                together = before.sequences + cache.sequences
                self.groups[-1] = KVCache(before.block, before.first, together, before.length)
            else:
                self.groups.append(cache)
        self.sizes = [group.sequences for group in self.groups]

    def positions(self, T: int) -> Tensor:
        """Give where T new tokens of each sequence stand, (B, T). Raises InputError if there is no room for them."""
        return torch.cat([group.positions(T) for group in self.groups])

    def ids_before(self, reach: int) -> Tensor:
        """Give the last ids read, (B, reach), NO_TOKEN where there are none."""
        return torch.cat([group.ids_before(reach) for group in self.groups])

    def append(self, layer: int, key: Tensor, value: Tensor, sliding_window: int | None) -> list[Segment]:
        """Store keys and values (B, K, T, D); give the segments of each group after the other's."""
        parts = zip(self.groups, key.split(self.sizes), value.split(self.sizes), strict=True)
        return [segment for group, *part in parts for segment in group.append(layer, *part, sliding_window)]

    def advance(self, ids: Tensor) -> None:
        """Count the positions of (B, T) ids as read."""
        for cache, row in zip(self.caches, ids.split([cache.sequences for cache in self.caches]), strict=True):
            cache.advance(row)


def _follows(cache: KVCache, before: KVCache) -> bool:
    """Tell whether a cache lies right behind another in memory, and is as long."""
    return (
        cache.block is before.block and cache.first == before.first + before.sequences and cache.length == before.length
    )


class StaticCache:
    """Room for a fixed number of sequences, of which each step reads one more token.

    `block` holds their keys, values and ids; `lengths` (B,) says how far each is filled. A slot is filled through
    `slot`, a `KVCache` that lies in the same memory.
    """

    def __init__(
        self, config: ModelConfig, slots: int, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> None:
        self.block = KVBlock(config, None, device, dtype, slots)
        self.ids, self.layers = self.block.ids, KVCache(self.block, 0, slots).layers
        self.lengths = torch.zeros(slots, device=device, dtype=torch.int64)
        self.rows = torch.arange(slots, device=device)
        self.read = self.block.capacity  # positions that attention reads of each

    def tensors(self) -> list[Tensor]:
        """Give all that a step reads and writes beside the model."""
        return [self.ids, self.lengths, self.rows, *(part for pair in self.layers for part in pair)]

    def slot(self, i: int) -> KVCache:
        """Give an empty cache whose memory is slot i's."""
        return KVCache(self.block, i)

    def begin_step(self, lengths: dict[int, int]) -> None:
        """Say how many positions the slots in use have; the step writes behind them, and in all others to the first.

        As many positions are read as the longest needs, rounded up to a power of two: each number is a program.
        """
        self.lengths.zero_()
        self.lengths[list(lengths)] = torch.tensor(list(lengths.values()), device=self.lengths.device)
        self.read = SMALLEST_BUCKET
        while self.read <= max(lengths.values()):
            self.read *= 2
        self.read = min(self.read, self.block.capacity)

    def positions(self, T: int) -> Tensor:
        """Give where the new token of each sequence stands, (B, 1)."""
        assert T == 1, "slots are filled one by one, through `slot`"
        return self.lengths.unsqueeze(1)

    def ids_before(self, reach: int) -> Tensor:
        """Give the last ids read, (B, reach), NO_TOKEN where there are none."""
        positions = self.lengths.unsqueeze(1) - torch.arange(reach, 0, -1, device=self.ids.device)  # (B, reach)
        return torch.where(positions < 0, NO_TOKEN, self.ids.gather(1, positions.clamp(min=0)))

    def append(self, layer: int, key: Tensor, value: Tensor, sliding_window: int | None) -> list[Segment]:
        """Store keys and values (B, K, 1, D); give all sequences as one segment of fixed shape."""
        keys, values = self.layers[layer]
        keys[self.rows, :, self.lengths] = key[:, :, 0]
        values[self.rows, :, self.lengths] = value[:, :, 0]
        newest = self.lengths.unsqueeze(1)  # (B, 1)
        seen = visible(newest, torch.arange(self.read, device=self.ids.device), sliding_window)  # (B, S)
        return [Segment(keys[:, :, : self.read], values[:, :, : self.read], seen[:, None, None], newest)]

    def advance(self, ids: Tensor) -> None:
        """Note (B, 1) ids as read; their lengths are told by the next `begin_step`."""
        self.ids[self.rows, self.lengths] = ids[:, 0]


def _round_up(positions: int) -> int:
    return -(-positions // ALIGNMENT) * ALIGNMENT
