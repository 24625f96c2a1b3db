"""One more token of every sequence: eagerly, each with a cache of its own length, or compiled, in fixed slots.

Letters in shapes: B sequences, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gpt.compiler import ROUNDING, Compiled
from gpt.model.cache import KVBlock, KVCache, RaggedBatch, StaticCache
from gpt.model.transformer import GPT


class ModelRunner:
    """Takes memory for sequences when they begin, as much as they can need, and gives it back when they end."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.blocks: dict[KVBlock, list[KVCache]] = {}  # the parts in use of memory that was taken together

    def new_caches(self, positions: int, sequences: int) -> list[KVCache]:
        """Empty caches, side by side, for at most so many positions each, or as many as the context has."""
        block = KVBlock(self.model.config, positions, self.model.device, self.model.dtype, sequences)
        parts = [KVCache(block, i) for i in range(sequences)]
        self.blocks[block] = parts.copy()
        return parts

    def release(self, cache: KVCache) -> None:
        """Give up a cache. When half of those that were taken together are, the others move to memory of their size."""
        parts = self.blocks[cache.block]
        parts.remove(cache)
        if 2 * len(parts) > cache.block.sequences:
            return
        del self.blocks[cache.block]
        if parts:
            together = self.new_caches(cache.block.capacity, len(parts))
            for part, place in zip(parts, together, strict=True):
                part.move_to(place)
            self.blocks[together[0].block] = parts

    def prefill(self, ids: Sequence[Sequence[int]], caches: Sequence[KVCache]) -> Tensor:
        """Read T more ids of each sequence, (B, T); the logits after them, (B, V)."""
        tokens = torch.tensor(ids, device=self.model.device)
        return self.model(tokens, caches[0] if len(caches) == 1 else RaggedBatch(caches), last=True)

    def decode(self, ids: Sequence[int], caches: Sequence[KVCache]) -> Tensor:
        """Read one more id of each sequence, (B,); the logits after it, (B, V)."""
        return self.prefill([[i] for i in ids], caches)


class CompiledRunner(ModelRunner):
    """The same for `slots` sequences in memory taken once, by one compiled program, or CUDA graph, for all of them."""

    def __init__(self, model: GPT, slots: int) -> None:
        """Raises CompilerFailed, as `decode` does, where torch.compile does not work."""
        super().__init__(model)
        self.slots = StaticCache(model.config, slots, model.device, model.dtype)
        self.free = list(range(slots))
        self.place: dict[KVCache, int] = {}
        mode = None
        if model.device.type == "cuda":
            mode = "reduce-overhead"  # CUDA graphs, which may only write to memory that stays where it is
            for tensor in self.slots.tensors():
                torch._dynamo.mark_static_address(tensor)
        rounding = ROUNDING.get(model.dtype, max(ROUNDING.values()))
        self.step = Compiled(self._read_one, "on", model.device.type, mode, rounding, "leave `compile` out")
        self.step.try_out()
        self.step.require()

    def _read_one(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, self.slots, last=True)

    def new_caches(self, positions: int, sequences: int) -> list[KVCache]:
        places = [self.free.pop() for _ in range(sequences)]
        caches = [self.slots.slot(place) for place in places]
        self.place |= zip(caches, places, strict=True)
        return caches

    def release(self, cache: KVCache) -> None:
        self.free.append(self.place.pop(cache))

    def decode(self, ids: Sequence[int], caches: Sequence[KVCache]) -> Tensor:
        places = [self.place[cache] for cache in caches]
        tokens = torch.zeros(self.slots.rows.size(0), 1, dtype=torch.int64)
        tokens[places, 0] = torch.tensor(ids)
        # Every slot is written to: those of other sequences behind what they have, which they will write over.
        self.slots.begin_step({place: cache.length for cache, place in self.place.items()})
        logits = self.step(tokens.to(self.model.device), variant=self.slots.read)
        for cache in caches:
            cache.length += 1
        return logits[places]
