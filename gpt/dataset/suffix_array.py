"""Where any run of ids stands in a text: the places of all its suffixes, in the order of what follows.

1. A suffix array lists the places of a text so that what begins at them is in order, like the words of a dictionary.
   So a run of ids is found by halving, in some twenty looks among a million.
2. It is made by prefix doubling (Manber and Myers 1993): places are sorted by their first few ids; if they are sorted
   by their first h, then two ranks, of a place and of the one h further on, sort them by 2h. Only places that are not
   told apart yet are sorted again (Larsson and Sadakane 2007).
3. A text of any length is searched in blocks, one array at a time, so that memory is bounded. A block goes on into the
   next one by as much as the longest match can have, so that nothing is lost at its end.
4. Where only the longest stretch of each run is wanted, an array need not hold all of a block: what has no stretch in
   common with them that is longer than those found before is left out, and of a large text that is nearly all.

Ids are any whole numbers, such as those of tokens or of letters: it knows nothing of models or files. What it finds is
exact.

Letters in shapes: N ids of a text, Q ids that are looked up.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

FIRST_IDS, BLOCK_IDS = 1 << 16, 1 << 20  # of which an array is made at a time: up to some 100 MB
KEY_BITS = 64  # of the numbers that are sorted
TABLE_BITS = 22  # 4 MB
FACTOR, OTHER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
NO_ID = -1  # stands in no text: put it between runs that are looked up together
END = -2  # what follows a text, before every id and NO_ID
COMPARED = 8  # ids at once


class SuffixArray:
    """A text of ids in memory, in which runs of ids are looked up."""

    def __init__(self, ids: np.ndarray) -> None:
        """Take a text, (N,) whole numbers from 0 to 2³² − 2."""
        self.ids, self.order = ids, suffix_order(ids)
        self._padded = np.concatenate([ids.astype(np.int64), np.full(COMPARED, END)])

    def longest_matches(self, ids: np.ndarray, begins: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find for each place of `ids`, (Q,) int64, the longest run that begins there and stands in the text.

        Give its length and where it stands, (Q,) each; 0 and −1 for an id that the text lacks. Of several places of a
        longest run it is any, but always the same one. NO_ID is in no run. With `begins` only those places of `ids`.
        """
        wanted = np.concatenate([ids, np.full(COMPARED, NO_ID)])
        begins = np.arange(len(ids)) if begins is None else begins
        count = len(begins)
        lengths, places = np.zeros(count, dtype=np.int64), np.full(count, -1)
        low, high = np.zeros(count, dtype=np.int64), np.full(count, len(self.order))
        of_low, of_high = lengths.copy(), lengths.copy()  # ids in common with the suffixes around what is left
        open_ones = np.flatnonzero(low < high)
        while len(open_ones):
            middle = (low[open_ones] + high[open_ones]) // 2
            there = self.order[middle]
            common = np.minimum(of_low[open_ones], of_high[open_ones])  # which all that lie between have, too
            self._extend(wanted, begins[open_ones], there, common)
            better = common > lengths[open_ones]
            lengths[open_ones[better]], places[open_ones[better]] = common[better], there[better]
            after = self._padded[there + common] < wanted[begins[open_ones] + common]  # it comes before what is wanted
            low[open_ones[after]], of_low[open_ones[after]] = middle[after] + 1, common[after]
            high[open_ones[~after]], of_high[open_ones[~after]] = middle[~after], common[~after]
            open_ones = open_ones[low[open_ones] < high[open_ones]]
        return lengths, places

    def _extend(self, wanted: np.ndarray, places: np.ndarray, there: np.ndarray, common: np.ndarray) -> None:
        """Count how many ids follow alike at places of what is looked up and of the text, from `common` on, into it."""
        reach, left = np.arange(COMPARED), np.arange(len(places))
        while len(left):
            first, second = places[left] + common[left], there[left] + common[left]
            differ = wanted[first[:, None] + reach] != self._padded[second[:, None] + reach]  # one does: at the ends
            alike = np.where(differ.any(axis=1), differ.argmax(axis=1), COMPARED)
            common[left] += alike
            left = left[alike == COMPARED]

    def places(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Find every place where a run of at least one id stands, in rising order."""
        wanted, first, last = list(ids), 0, len(self.order)
        for offset, id in enumerate(wanted):  # what stands here has the ids before this one
            following = _Following(self._padded, self.order, offset)
            first = following.bisect(id, first, last)
            last = following.bisect(id + 1, first, last)
        return np.sort(self.order[first:last])

    def longest_ending(self, ids: np.ndarray) -> tuple[int, int]:
        """Find the longest run that ends `ids` and stands in the text: its length, and the place after it there.

        What followed then is `text[place:]`. (0, 0) if the text lacks the last id, or there is none.
        """
        lengths, places = self.longest_matches(np.asarray(ids, dtype=np.int64))
        whole = np.flatnonzero(lengths == len(lengths) - np.arange(len(lengths)))  # those that reach the end
        if not len(whole):
            return 0, 0
        length = int(lengths[whole[0]])
        return length, int(places[whole[0]]) + length


class _Following:
    """The ids that stand so far behind the suffixes, in order as far as these are alike up to there."""

    def __init__(self, padded: np.ndarray, order: np.ndarray, offset: int) -> None:
        self._padded, self._order, self._offset = padded, order, offset

    def bisect(self, id: int, low: int, high: int) -> int:
        """Find the first suffix from `low` to before `high` that has no lower id than this there; else `high`."""
        while low < high:
            middle = (low + high) // 2
            if self._padded[self._order[middle] + self._offset] < id:
                low = middle + 1
            else:
                high = middle
        return low


def suffix_order(ids: np.ndarray) -> np.ndarray:
    """Sort the places of a text by what begins at them; a text that ends comes before one that goes on. (N,) → (N,)."""
    count = len(ids)
    if not count:
        return np.empty(0, dtype=np.int64)
    bits = count.bit_length()  # of a place or a rank, which are below `count`; and of a rank and one more
    roomy = 3 * bits <= KEY_BITS
    keys, known = _first_keys(ids, 64 - bits if roomy else 64)
    ranks = np.empty(count, dtype=np.int64)
    order = np.empty(count, dtype=np.int64)
    those = open_ones = np.arange(count)  # places in `order` of suffixes that may be alike to others so far
    while True:
        if roomy:  # each key carries which one it is of: to sort numbers is faster than to sort places by numbers
            keys = np.sort(keys << np.uint64(bits) | np.arange(len(keys), dtype=np.uint64))
            those = those[(keys & np.uint64((1 << bits) - 1)).astype(np.int64)]
            keys >>= np.uint64(bits)
        else:
            sorting = np.argsort(keys)
            those, keys = those[sorting], keys[sorting]
        order[open_ones] = those
        begins = np.append(True, keys[1:] != keys[:-1])  # of groups that are alike up to `known`
        ranks[those] = open_ones[np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))]
        alike = ~(begins & np.append(begins[1:], True))
        if not alike.any():
            return order
        those, open_ones = those[alike], open_ones[alike]
        behind = those + known
        second = np.zeros(len(those), dtype=np.uint64)  # of what has ended: before all others
        second[behind < count] = ranks[behind[behind < count]] + 1
        keys = ranks[those].astype(np.uint64) << np.uint64(bits) | second
        known *= 2


def _first_keys(ids: np.ndarray, room: int) -> tuple[np.ndarray, int]:
    """Make of each place's first ids, as many as fit into so many bits, a number by which they are in order.

    Also give how many those are.
    """
    bits = (int(ids.max()) + 1).bit_length()  # 0 is behind the end
    known = room // bits
    padded = np.concatenate([ids.astype(np.uint64) + np.uint64(1), np.zeros(known, dtype=np.uint64)])
    keys = np.zeros(len(ids), dtype=np.uint64)
    for offset in range(known):
        keys = keys << np.uint64(bits) | padded[offset : offset + len(ids)]
    return keys, known


@dataclass(frozen=True)
class SharedStretch:
    """The longest stretch of a run of ids that stands in a text, too."""

    length: int
    """Ids; 0 where the text has none of the run's."""
    start: int
    """Where it begins in the run."""
    place: int
    """Where it begins in the text."""


def longest_shared(pieces: Iterable[np.ndarray], runs: Sequence[np.ndarray]) -> list[SharedStretch]:
    """Find of each run of ids, (Q,) int64, the longest stretch that stands in a text: exactly, in bounded memory.

    The text comes piece by piece, one after another, (N,) each; its places count from the beginning of the first. Of
    several stretches that are equally long it is one of them, always the same. NO_ID in a run is in no stretch.
    """
    best, room = [SharedStretch(0, 0, 0)] * len(runs), [_longest_possible(run) for run in runs]
    reach = max(room, default=0)
    for begin, ids in _blocks(pieces, reach) if reach else ():
        open_ones = [number for number, most in enumerate(room) if best[number].length < most]
        if not open_ones:
            break
        wanted = np.concatenate([np.append(runs[number], NO_ID) for number in open_ones])
        news = [1 + best[number].length for number in open_ones]  # so many ids, at the least, are news of a run
        sizes = [1 + len(runs[number]) for number in open_ones]
        kept, places, asked = _in_common(ids, wanted, np.repeat([_rounded(length) for length in news], sizes))
        lengths, there = SuffixArray(kept).longest_matches(wanted, asked)
        for number, end, size in zip(open_ones, np.cumsum(sizes).tolist(), sizes, strict=True):
            own = slice(*np.searchsorted(asked, [end - size, end]))
            if lengths[own].max(initial=0) > best[number].length:
                first = own.start + int(lengths[own].argmax())
                start, place = int(asked[first]) - (end - size), begin + int(places[there[first]])
                best[number] = SharedStretch(int(lengths[first]), start, place)
    return best


def _rounded(length: int) -> int:
    """Round down to 1, 2, 3, 4, 6, 8, 12, 16 …, so that there are few lengths."""
    return length & 3 << max(0, length.bit_length() - 2)


def _longest_possible(run: np.ndarray) -> int:
    """Count the ids of the longest part of a run that has no NO_ID."""
    return int(np.diff(np.flatnonzero(np.concatenate([[NO_ID], run, [NO_ID]]) == NO_ID)).max()) - 1


def _blocks(pieces: Iterable[np.ndarray], reach: int) -> Iterator[tuple[int, np.ndarray]]:
    """Join pieces to blocks, each with `reach` ids of the next one: yield its beginning and ids.

    The first is a short one, after which much of the others is no news.
    """
    begin, size, parts, count = 0, FIRST_IDS, list[np.ndarray](), 0
    for piece in pieces:
        parts, count = [*parts, piece], count + len(piece)
        while count >= size + reach:
            held = np.concatenate(parts)
            yield begin, held[: size + reach]
            parts, begin, count, size = [held[size:]], begin + size, count - size, BLOCK_IDS
    if count:
        yield begin, np.concatenate(parts)


def _in_common(ids: np.ndarray, wanted: np.ndarray, least: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leave out of a text, and of what is looked up, (Q,), what is in no stretch that they share.

    A stretch has so many ids at the least as `least` says for each place that is looked up, (Q,). Give what is left of
    the text, with an id that is nowhere else in each gap; the places of it in the text; and the places of `wanted` at
    which such a stretch may begin. A hash decides, by which too much may be kept, and nothing is lost.
    """
    changes = np.zeros(len(ids) + 1, dtype=np.int64)  # in how many such stretches an id is, from each id to the next
    asked = np.zeros(len(wanted), dtype=bool)
    lengths = np.unique(least).tolist()
    for n, of_text, of_wanted in zip(lengths, _gram_hashes(ids, lengths), _gram_hashes(wanted, lengths), strict=True):
        own = np.flatnonzero(least[: len(of_wanted)] == n)
        begins = _among(of_text, of_wanted[own])
        changes[begins] += 1
        changes[begins + n] -= 1
        asked[own[_among(of_wanted[own], of_text[begins])]] = True
    covered = np.cumsum(changes[:-1]) > 0
    places = np.flatnonzero(covered | np.append(False, covered[:-1]))
    stranger = max(ids.max(initial=0), wanted.max()) + 1
    return np.where(covered[places], ids[places], stranger), places, np.flatnonzero(asked)


def _among(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Find the places of hashes that are among others, (N,); a table of bits of these spares most of the search."""
    table, shift = np.zeros(1 << TABLE_BITS, dtype=bool), np.uint64(64 - TABLE_BITS)
    table[others >> shift] = True
    likely = np.flatnonzero(table[hashes >> shift])
    ordered = np.append(np.sort(others), np.uint64(0))
    found = ordered[np.searchsorted(ordered[:-1], hashes[likely])]
    return likely[found == hashes[likely]]


def _gram_hashes(ids: np.ndarray, lengths: list[int]) -> Iterator[np.ndarray]:
    """Hash each run of n ids to 64 bits, (N − n + 1,), for lengths n in rising order; none where there are fewer.

    Each of two shorter runs, one behind the other or overlapping, that are all of it: in some log n steps.
    """
    hashes, known = ids.astype(np.uint64), 1
    for n in lengths:
        while 2 * known <= n:
            hashes, known = _joined(hashes, known), 2 * known
        yield _joined(hashes, n - known) * FACTOR


def _joined(hashes: np.ndarray, further: int) -> np.ndarray:
    """Hash runs of which those of `hashes` are the beginning, and those so much further on are the end."""
    if not further:
        return hashes
    joined = hashes[: max(0, len(hashes) - further)] * FACTOR
    joined ^= hashes[further:] * OTHER
    return joined ^ joined >> np.uint64(32)
