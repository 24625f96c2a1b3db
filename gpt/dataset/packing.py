"""Windows that begin at documents, so that none is cut but where it is longer than a window.

1. A document's targets are its tokens and the end-of-text that ends it; before the first stands the end-of-text of the
   document before, as it stands before a text that is sampled or scored. So each token of the split but its first is a
   target once, and nothing is cropped away.
2. A document of more than T targets is cut into windows of T. What remains of it, its tail, is at most one piece.
3. Tails and short documents are put together into windows by best-fit decreasing (Ding et al. 2024, "Fewer Truncations
   Improve Language Modeling"): the longest first, each where it leaves the least room.

It follows from the lengths of the documents alone, and is found once, when the split is opened, by going through it.
In memory it takes 20 to 35 bytes for each document, in each process, and twice that while it is found: of 150 million
documents, the whole of a web corpus of 100 billion tokens, 3 to 5 GB.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from gpt.dataset.order import Shuffled, Spans
from gpt.dataset.shards import Split
from gpt.log import log

TOGETHER = 1 << 22  # pieces that are packed at a time: more would hardly fill windows better, and take memory
Pieces = tuple[np.ndarray, np.ndarray]  # the token before the first target, and the number of targets, of each


class Packed(Shuffled):
    """Samples that begin at documents; the same windows each epoch, in another order."""

    def __init__(self, split: Split, context_length: int, seed: int, end_of_text: int) -> None:
        """Go through the split, where that has not been done. Raises InputError if a shard cannot be read."""
        self.packing = packing_of(split, context_length, end_of_text)
        super().__init__(split, context_length, seed, len(self.packing))

    def cut(self, windows: np.ndarray, epoch: int) -> list[Spans]:
        """Say where these windows are: in one piece for each document."""
        return [self.packing.spans(window) for window in windows.tolist()]


class Packing:
    """Which pieces of documents each window of a split has."""

    def __init__(self, split: Split, context_length: int, end_of_text: int) -> None:
        self.context_length = context_length
        whole: list[Pieces] = []  # of documents that fill windows, and how many
        packed: list[Pieces] = []  # in the order of windows
        sizes: list[np.ndarray] = []  # pieces in each window
        for begins, lengths in _batches(documents(split, end_of_text)):
            filled, left = np.divmod(lengths, context_length)
            whole.append((begins[filled > 0], filled[filled > 0]))
            starts, tails = (begins + filled * context_length)[left > 0], left[left > 0].astype(np.int32)
            windows = best_fit(tails, context_length)
            order = np.argsort(windows, kind="stable")
            packed.append((starts[order], tails[order]))
            sizes.append(np.bincount(windows))
        self._starts, self._counts = (np.concatenate(column) for column in zip(*whole, strict=True))
        self._before = np.append(0, np.cumsum(self._counts))  # windows of the documents before each
        self._piece_starts, self._piece_lengths = (np.concatenate(column) for column in zip(*packed, strict=True))
        self._pieces = np.append(0, np.cumsum(np.concatenate(sizes)))  # before each window of several

    def __len__(self) -> int:
        return int(self._before[-1]) + len(self._pieces) - 1

    def spans(self, window: int) -> Spans:
        """Return where a window's pieces stand, in the order of the split."""
        several = window - int(self._before[-1])
        if several < 0:
            document = int(np.searchsorted(self._before, window, side="right")) - 1
            nth = window - int(self._before[document])
            return [(int(self._starts[document]) + nth * self.context_length, self.context_length)]
        pieces = slice(self._pieces[several], self._pieces[several + 1])
        return [*zip(self._piece_starts[pieces].tolist(), self._piece_lengths[pieces].tolist(), strict=True)]


@lru_cache(maxsize=32)
def packing_of(split: Split, context_length: int, end_of_text: int) -> Packing:
    """Pack a split, once for all who ask, and say how well its windows are filled."""
    packing = Packing(split, context_length, end_of_text)
    empty = 1 - (split.tokens - 1) / (len(packing) * context_length)
    log.info(f"{split.name}: {len(packing):,} windows that begin at documents; {empty:.2%} of their places are empty")
    return packing


def documents(split: Split, end_of_text: int) -> Iterator[Pieces]:
    """Yield the documents of a split that have targets, some at a time. Raises InputError if a shard cannot be read."""
    last = 0
    for start, ids in split.chunks():
        bounds = np.append(last, start + np.flatnonzero(ids == end_of_text))
        yield _pieces(bounds)
        last = int(bounds[-1])
    yield _pieces(np.array([last, split.tokens - 1]))


def _pieces(bounds: np.ndarray) -> Pieces:
    lengths = np.diff(bounds)
    return bounds[:-1][lengths > 0], lengths[lengths > 0]


def _batches(parts: Iterator[Pieces]) -> Iterator[Pieces]:
    """Gather parts until there are enough to be packed together."""
    gathered: list[Pieces] = []
    for part in parts:
        gathered.append(part)
        if sum(len(starts) for starts, _ in gathered) >= TOGETHER:
            yield _together(gathered)
            gathered = []
    if gathered:
        yield _together(gathered)


def _together(parts: list[Pieces]) -> Pieces:
    starts, lengths = (np.concatenate(column) for column in zip(*parts, strict=True))
    return starts, lengths


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Put pieces into bins by best-fit decreasing: (N,) lengths from 1 to `capacity` → the number of each one's bin.

    Pieces of one length are placed together, and so are bins with the same room: it takes as many steps as there are
    lengths, and some, however many pieces there are.
    """
    lengths = lengths.astype(np.int64)
    order = np.argsort(-lengths, kind="stable")
    kinds, begins = np.unique(-lengths[order], return_index=True)  # the longest first
    bins, opened = np.empty(len(lengths), dtype=np.int64), 0
    rooms: list[int] = []  # in rising order, those that some bins have
    having = defaultdict[int, list[np.ndarray]](list)  # bins, by their room

    def put_back(numbers: np.ndarray, room: int) -> None:
        if len(numbers) and room:
            if not having[room]:
                insort(rooms, room)
            having[room].append(numbers)

    for length, alike in zip((-kinds).tolist(), np.split(order, begins)[1:], strict=True):
        pieces = alike
        while len(pieces):
            best = bisect_left(rooms, length)
            room = rooms.pop(best) if best < len(rooms) else capacity
            each = room // length
            if room < capacity:
                there = np.concatenate(having.pop(room))
            else:  # none has room
                there = np.arange(opened, opened - (-len(pieces) // each))
                opened += len(there)
            used = there[: -(-len(pieces) // each)]
            placed, pieces = pieces[: len(used) * each], pieces[len(used) * each :]
            bins[placed] = np.repeat(used, each)[: len(placed)]
            put_back(used[:-1], room - each * length)
            put_back(used[-1:], room - (len(placed) - (len(used) - 1) * each) * length)
            put_back(there[len(used) :], room)
    return bins
