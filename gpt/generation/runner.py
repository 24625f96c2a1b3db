"""The model, and what it has read of each request: eagerly, each with a cache of its own length, or compiled, in slots.

The scheduler decides what is read, and when.

Letters in shapes: B sequences, T ids of each, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt.compiler import ROUNDING, Compiled
from gpt.generation.scheduler import Request
from gpt.model.cache import KVBlock, KVCache, RaggedBatch, StaticCache
from gpt.model.transformer import GPT


@dataclass(frozen=True)
class _Prefill:
    """A context that was just read, for requests that have the same one."""

    context: tuple[int, ...]
    cache: KVCache
    logits: Tensor
    """After it, (1, V)."""


class ModelRunner:
    """Takes memory for requests when they are first read, as much as they can need, until they are forgotten."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.caches: dict[Request, KVCache] = {}  # of the requests that were read
        self.prompt_tokens = 0  # read by `prefill` so far
        self._newest: _Prefill | None = None
        self.blocks: dict[KVBlock, list[KVCache]] = {}  # the parts in use of memory that was taken together

    def new_caches(self, positions: int, sequences: int) -> list[KVCache]:
        """Make empty caches, side by side, for at most so many positions each, or as many as the context has."""
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
            for part, other in zip(parts, together, strict=True):
                part.move_to(other)
            self.blocks[together[0].block] = parts

    def prefill(self, requests: Sequence[Request]) -> Tensor:
        """Read the contexts of requests, all of one length and equal ones once; give the logits after them, (B, V).

        What was read of them before is given up first.
        """
        for request in requests:
            self.forget(request)
        caches = self.new_caches(requests[0].positions, len(requests))
        self.caches |= zip(requests, caches, strict=True)
        contexts = [tuple(request.context_ids) for request in requests]
        known = {} if self._newest is None else {self._newest.context: self._newest}
        unread: dict[tuple[int, ...], KVCache] = {}
        for context, cache in zip(contexts, caches, strict=True):
            if context not in known:
                unread.setdefault(context, cache)
        if unread:
            ids = torch.tensor(list(unread), device=self.model.device)  # (B, T)
            self.prompt_tokens += ids.numel()
            rows = self.model(ids, _together(list(unread.values())), last=True).split(1)
            for (context, cache), logits in zip(unread.items(), rows, strict=True):
                known[context] = _Prefill(context, cache, logits)
        prefills = [known[context] for context in contexts]
        for cache, prefill in zip(caches, prefills, strict=True):
            if cache is not prefill.cache:
                cache.copy_from(prefill.cache, len(prefill.context))
        self._newest = prefills[-1]
        return torch.cat([prefill.logits for prefill in prefills])

    def decode(self, requests: Sequence[Request]) -> Tensor:
        """Read the newest id of each request; give the logits after it, (B, V)."""
        ids = torch.tensor([request.context_ids[-1:] for request in requests], device=self.model.device)  # (B, 1)
        return self.model(ids, _together([self.caches[request] for request in requests]), last=True)

    def forget(self, request: Request) -> None:
        """Give up the memory of what was read of a request, if anything was."""
        cache = self.caches.pop(request, None)
        if cache is None:
            return
        if self._newest is not None and self._newest.cache is cache:
            self._newest = None
        self.release(cache)


def _together(caches: list[KVCache]) -> KVCache | RaggedBatch:
    return caches[0] if len(caches) == 1 else RaggedBatch(caches)


class CompiledRunner(ModelRunner):
    """The same for `slots` sequences in memory taken once, by one compiled program, or CUDA graph, for all of them."""

    def __init__(self, model: GPT, slots: int) -> None:
        """Raise CompilerFailed, as `decode` does, where torch.compile does not work."""
        super().__init__(model)
        self.slots = StaticCache(model.config, slots, model.device, model.dtype)
        self.free = list(range(slots))
        self.slot_of: dict[KVCache, int] = {}
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
        numbers = [self.free.pop() for _ in range(sequences)]
        caches = [self.slots.slot(number) for number in numbers]
        self.slot_of |= zip(caches, numbers, strict=True)
        return caches

    def release(self, cache: KVCache) -> None:
        self.free.append(self.slot_of.pop(cache))

    def decode(self, requests: Sequence[Request]) -> Tensor:
        slots = [self.slot_of[self.caches[request]] for request in requests]
        tokens = torch.zeros(self.slots.rows.size(0), 1, dtype=torch.int64)
        tokens[slots, 0] = torch.tensor([request.context_ids[-1] for request in requests])
        # Every slot is written to: those of other sequences behind what they have, which they will write over.
        self.slots.begin_step({slot: cache.length for cache, slot in self.slot_of.items()})
        logits = self.step(tokens.to(self.model.device), variant=self.slots.read)
        for request in requests:
            self.caches[request].length += 1
        return logits[slots]
