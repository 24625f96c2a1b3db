"""Guesses of what a text goes on with: what followed the longest stretch that ends as it does now.

It is looked for earlier in the same text (Saxena 2023, "Prompt lookup decoding"), and in a corpus, such as the one
that the model was trained on (He et al. 2023, "REST: retrieval-based speculative decoding").
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from gpt.dataset.suffix_array import suffix_order

MOST = 15  # ids of a guess
LONGEST = 16  # ids of a stretch that are compared
PLACES = 8  # in a text, at which a stretch is compared
LOOKED_AT = 32  # of the places in a corpus: the id that follows most of them is the best guess
PATIENCE = 40.0  # seconds of decoding, after which it is a small part to sort a corpus of some million ids

Guess = tuple[list[int], int]  # ids that may follow, and the length of the stretch that they rest on; ([], 0) for none


class TextLookup:
    """What followed earlier in the same text."""

    def __init__(self) -> None:
        self.read = 1  # pairs of ids that end before this place are known
        self.after: dict[tuple[int, int], int] = {}  # the newest place behind each pair of ids
        self.before: dict[int, int] = {}  # and from each such place to the one before it

    def __call__(self, ids: Sequence[int]) -> Guess:
        """Guess what followed the longest stretch, of two ids at the least, that ends the text and stands in it."""
        end = len(ids)
        for place in range(self.read + 1, end):  # the pair that ends the text is not looked up in itself
            pair = ids[place - 2], ids[place - 1]
            if pair in self.after:
                self.before[place] = self.after[pair]
            self.after[pair] = place
        self.read = max(self.read, end - 1)
        place = self.after.get((ids[-2], ids[-1])) if end > 1 else None
        best, length = 0, 0
        for _ in range(PLACES):
            if place is None:
                break
            common = 2
            while common < min(LONGEST, place) and ids[place - 1 - common] == ids[end - 1 - common]:
                common += 1
            if common > length:
                best, length = place, common
            place = self.before.get(place)
        return (list(ids[best : best + MOST]), length) if length else ([], 0)


class CorpusLookup:
    """What followed the same stretch most often in a corpus.

    Its places are sorted by what stands before them, read backwards: so those that end with the longest stretch that
    ends a text, too, lie side by side, and are found by halving.
    """

    def __init__(self, ids: np.ndarray) -> None:
        """Take a corpus of token ids, (N,): some 0.4 µs each of one core, and 8 bytes each to keep."""
        places = len(ids) - suffix_order(ids[::-1])  # each behind the stretch that it is sorted by
        self.begins = [0, *np.cumsum(np.bincount(ids)).tolist()]  # of the places behind each id
        self.places, self.ids = places.astype(np.int32).data, np.ascontiguousarray(ids, dtype=np.int32).data

    def __call__(self, ids: Sequence[int]) -> Guess:
        """Guess what follows a text, by the longest stretch of up to LONGEST ids that ends it; ([], 0) for nothing."""
        ending = list(ids[: -LONGEST - 1 : -1])  # its end, read backwards
        if not ending or ending[0] >= len(self.begins) - 1:
            return [], 0
        first, last = self.begins[ending[0]], self.begins[ending[0] + 1]
        at = self._first(ending, first, last)
        length = max((self._common(ending, i) for i in (at - 1, at) if first <= i < last), default=0)
        if not length:
            return [], 0
        low = self._first(ending[:length], first, at)
        high = self._first([*ending[: length - 1], ending[length - 1] + 1], at, last)
        step = max(1, (high - low) // LOOKED_AT)
        places = [place for place in self.places[low:high:step] if place < len(self.ids)]
        if not places:
            return [], 0
        [(favorite, _)] = Counter(self.ids[place] for place in places).most_common(1)
        best = next(place for place in places if self.ids[place] == favorite)
        return self.ids[best : best + MOST].tolist(), length

    def _common(self, ending: list[int], i: int) -> int:
        """Count the ids that stand alike before a place and at the end of a text."""
        place, length = self.places[i], 0
        while length < min(len(ending), place) and self.ids[place - 1 - length] == ending[length]:
            length += 1
        return length

    def _first(self, ending: list[int], low: int, high: int) -> int:
        """Find the first place before which, read backwards, stands nothing that comes before `ending`."""
        while low < high:
            middle = (low + high) // 2
            place = self.places[middle]
            before = self.ids[max(0, place - len(ending)) : place].tolist()[::-1]
            if before < ending:
                low = middle + 1
            else:
                high = middle
        return low


class Corpus:
    """A corpus that is looked up once it has been read and sorted, in a thread: when that is about to pay."""

    def __init__(self, read: Callable[[], np.ndarray], patience: float = PATIENCE) -> None:
        """Take what reads its ids, (N,), none if they cannot be had; `patience` in seconds."""
        self.read, self.patience, self.spent = read, patience, 0.0
        self.lookup: CorpusLookup | None = None
        self.thread: threading.Thread | None = None

    def __call__(self, ids: Sequence[int]) -> Guess:
        """Guess what follows a text."""
        return self.lookup(ids) if self.lookup else ([], 0)

    def waited(self, seconds: float) -> None:
        """Count time that was spent on reading tokens; after enough of it, begin to read and sort."""
        self.spent += seconds
        if self.spent >= self.patience and self.thread is None:
            self.thread = threading.Thread(target=self._sort, name="corpus", daemon=True)
            self.thread.start()

    def _sort(self) -> None:
        # Nobody waits for it: what fails leaves guesses out. As a program ends, no thread can be started any more.
        with contextlib.suppress(OSError, MemoryError, RuntimeError):
            ids = self.read()
            if len(ids):
                self.lookup = CorpusLookup(ids)
