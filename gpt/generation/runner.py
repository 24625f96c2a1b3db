"""The model, and what it has read of each request: eagerly, each with a cache of its own length, or compiled, in slots.

The scheduler decides what is read, and when.

Letters in shapes: B sequences, T ids of each, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from gpt.compiler import ROUNDING, Compiled
from gpt.generation.scheduler import Request
from gpt.generation.speculation import Speculation
from gpt.model.cache import KVBlock, KVCache, Lookahead, RaggedBatch, StaticCache
from gpt.model.transformer import GPT


@dataclass(frozen=True)
class _Prefill:
    """A context that was just read, for requests that have the same one."""

    context: tuple[int, ...]
    cache: KVCache
    logits: Tensor
    """After it, (1, V)."""


class _Foreseen(NamedTuple):
    """What was read of a request beyond its newest id."""

    ids: list[int]
    """Guesses of what is drawn next."""
    logits: Tensor
    """After each of them, (N, V)."""


class ModelRunner:
    """Takes memory for requests when they are first read, as much as they can need, until they are forgotten.

    With a `speculation`, it reads guesses of what is drawn next along with a request's newest id.
    """

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.speculation: Speculation | None = None
        self._ahead: dict[Request, _Foreseen] = {}
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
            self._give_up(request)
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
        newest, caches = [request.context_ids[-1] for request in requests], [self.caches[r] for r in requests]
        if self.speculation is None:
            return self._read(newest, caches)
        begun = self.speculation.clock()
        guesses = self.speculation.guesses(requests, [cache.room - 1 for cache in caches])
        found, count = self.speculation.clock(), sum(map(len, guesses))
        logits = self._read_along(requests, newest, caches, guesses) if count else self._read(newest, caches)
        self.speculation.took(len(newest) + count, self.speculation.clock() - found, count, found - begun)
        return logits

    def _read_along(
        self, requests: Sequence[Request], newest: list[int], caches: Sequence[KVCache], guesses: list[list[int]]
    ) -> Tensor:
        """Read guesses along with the newest ids; what comes after guesses is kept."""
        ids = [[id, *some] for id, some in zip(newest, guesses, strict=True)]
        ahead = [Lookahead(cache, own) if len(own) > 1 else cache for cache, own in zip(caches, ids, strict=True)]
        rows = self._read(list(chain.from_iterable(ids)), ahead).split([len(own) for own in ids])
        for request, some, logits in zip(requests, guesses, rows, strict=True):
            if some:
                self._ahead[request] = _Foreseen(some, logits[1:])
        return torch.cat([logits[:1] for logits in rows])

    def _read(self, ids: list[int], caches: Sequence[KVCache | Lookahead]) -> Tensor:
        """Read one id for each row of caches; give the logits after it, (B, V)."""
        read = torch.tensor(ids, device=self.model.device).unsqueeze(1)  # (B, 1)
        return self.model(read, _together(caches), last=True)

    def foreseen(self, requests: Sequence[Request]) -> tuple[list[Request], list[Tensor]]:
        """Find the requests whose newest id was read already, as a guess; and the logits after it, (1, V) each."""
        known, rows = [], []
        for request in [request for request in requests if request in self._ahead] if self._ahead else ():
            assert self.speculation is not None
            ids, logits = self._ahead.pop(request)
            right = ids[0] == request.context_ids[-1]
            self.speculation.judged(request, right)
            cache = self.caches[request]
            cache.ahead = cache.ahead - 1 if right else 0
            if right:
                cache.length += 1
                known.append(request)
                rows.append(logits[:1])
                if len(ids) > 1:
                    self._ahead[request] = _Foreseen(ids[1:], logits[1:])
        return known, rows

    def forget(self, request: Request) -> None:
        """Give up the memory of what was read of a request, if anything was, and what is known of its text."""
        self._give_up(request)
        if self.speculation is not None:
            self.speculation.forget(request)

    def _give_up(self, request: Request) -> None:
        """Give up the memory of what was read of a request."""
        cache = self.caches.pop(request, None)
        if cache is None:
            return
        self._ahead.pop(request, None)
        if self._newest is not None and self._newest.cache is cache:
            self._newest = None
        self.release(cache)


def _together(caches: Sequence[KVCache | Lookahead]) -> KVCache | Lookahead | RaggedBatch:
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
