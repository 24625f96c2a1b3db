"""N-gram models of token ids: modified Kneser–Ney smoothing, interpolated (Chen and Goodman 1999).

1. The runs of 1 … n ids that stand in a text are numbered: a run by the number of all but its last id, and that id.
2. Of the longest runs their occurrences are counted, of shorter ones the different ids that stand before them.
3. A probability is a run's discounted count, and the share of what was discounted times that of the next shorter run.

Letters in shapes: N ids of the text, Q ids that are predicted, U different runs of one length.
"""

from dataclasses import dataclass

import numpy as np

NONE = -1  # the number of a run that does not stand in the text


@dataclass(frozen=True)
class _Runs:
    """The runs of one length that stand in a text."""

    keys: np.ndarray
    """(U,) int64, rising: each the number of all but the last id, times the vocabulary, and the last id."""
    occurrences: np.ndarray
    """(U,) how often each stands there."""
    preceded: np.ndarray
    """(U,) how many different ids stand before each; of the longest runs, which nobody asks, zeros."""

    def numbers(self, keys: np.ndarray) -> np.ndarray:
        """Find the number of each key, (Q,); NONE where it is not there."""
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, NONE)


@dataclass(frozen=True)
class _Smoothed:
    """The counts of runs of one length, discounted, and what each run that they go on from leaves over, (U of it,)."""

    discounted: np.ndarray
    total: np.ndarray
    left_over: np.ndarray


class NgramCounts:
    """The runs of up to `order` ids in a text, from which models of each order up to it are made."""

    def __init__(self, ids: np.ndarray, vocab_size: int, order: int) -> None:
        """Count the runs of `ids`, (N,) with N at least `order`."""
        assert len(ids) >= order, "a text shorter than a run has none"
        self.vocab_size, self.order = vocab_size, order
        ids = ids.astype(np.int64)
        self._runs: list[_Runs] = []
        numbers, keys, occurrences = np.zeros(len(ids) + 1, dtype=np.int64), np.zeros(1, dtype=np.int64), None
        for length in range(1, order + 1):
            those = numbers[: len(ids) - length + 1] * vocab_size + ids[length - 1 :]
            found, firsts, inverse, counts = _different(those)
            if occurrences is not None:  # each different longer run has a first id that stands before the shorter one
                preceded = np.bincount(numbers[firsts + 1], minlength=len(keys))
                self._runs.append(_Runs(keys, occurrences, preceded))
            numbers, keys, occurrences = inverse, found, counts
        assert occurrences is not None
        self._runs.append(_Runs(keys, occurrences, np.zeros(len(keys), dtype=np.int64)))

    def probabilities(self, ids: np.ndarray, order: int) -> np.ndarray:
        """Give the probability of each id after those before it, (Q,), by the model of an order up to the counted one.

        Those of all ids of the vocabulary add up to 1.
        """
        ids = ids.astype(np.int64)
        found = np.full(len(ids), 1 / self.vocab_size)
        before = np.zeros(len(ids), dtype=np.int64)  # the number of the run of length − 1 ids before each
        for length in range(1, order + 1):
            runs, smoothed = self._runs[length - 1], self._smoothed(length, length == order)
            keys = before * self.vocab_size + ids
            numbers = np.where(before == NONE, NONE, runs.numbers(keys))
            known = (before != NONE) & (smoothed.total[before] > 0)
            shares = np.where(numbers == NONE, 0.0, smoothed.discounted[numbers]) + smoothed.left_over[before] * found
            found = np.where(known, shares / np.maximum(smoothed.total[before], 1), found)
            before = np.append(NONE, numbers[:-1])  # what ends here stands before the next id
        return found

    def _smoothed(self, length: int, longest: bool) -> _Smoothed:
        runs = self._runs[length - 1]
        counts = runs.occurrences if longest else runs.preceded
        discounts = _discounts(counts)[np.minimum(counts, 3)]
        after = runs.keys // self.vocab_size  # the number of the run that each goes on from
        size = 1 if length == 1 else len(self._runs[length - 2].keys)
        total = np.bincount(after, weights=counts, minlength=size)
        return _Smoothed(counts - discounts, total, np.bincount(after, weights=discounts, minlength=size))


def _different(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Give the different keys in rising order, where each stands once, the number of each key, and the counts."""
    order = np.argsort(keys)
    ordered = keys[order]
    begins = np.append(True, ordered[1:] != ordered[:-1])
    inverse = np.empty(len(keys), dtype=np.int64)
    inverse[order] = np.cumsum(begins) - 1
    places = np.flatnonzero(begins)
    return ordered[places], order[places], inverse, np.diff(np.append(places, len(keys)))


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Estimate what is taken from counts of 0, 1, 2, and 3 or more, (4,); of too few runs, half of the count 1."""
    one, two, three, four = (int(np.count_nonzero(counts == count)) for count in range(1, 5))
    if not (one and two):
        return np.array([0.0, 0.5, 0.5, 0.5])
    share = one / (one + 2 * two)
    taken = [1 - 2 * share * two / one, 2 - 3 * share * three / two, 3 - 4 * share * four / three if three else 0.5]
    return np.clip([0.0, *taken], 0.0, [0.0, 1.0, 2.0, 3.0])
