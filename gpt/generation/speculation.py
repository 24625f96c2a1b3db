"""Guesses of what a text goes on with, which the model checks several at a time: faster, and the same text.

Decoding is as fast as weights are read, and to read them for a few rows takes little longer than for one. So ids that
may come next are read in one go with the newest (Leviathan et al. 2023, "Fast inference from transformers via
speculative decoding"). Each token is still drawn from the logits that it would be drawn from anyway, with the random
number that it would have; a guess that is not what was drawn is forgotten. Where rows have the same bits in any company
(prepack.py), texts and log-probabilities are the same to the last bit, at any temperature.

How many guesses are checked is found out: how often those were right that rested on as long a stretch (lookups.py), and
how long so many rows take on this processor. What it takes to look for guesses and to read them is kept account of:
beyond what right ones have saved, it is at most a small share of the time.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from statistics import median

from gpt.generation.lookups import LONGEST, Corpus, Guess, TextLookup
from gpt.generation.scheduler import Request

ROWS = (2, 4, 8, 16)  # read at once, where there are guesses: each other number would have to be tried (prepack.py)
KINDS = (3, 4, 8, LONGEST)  # lengths of stretches from which on guesses are judged apart
ROW_SHARE = 0.05  # of the time of one row, that another one takes, until it was measured
TIMES, FEWEST = 9, 3  # of the latest steps that are remembered; and without guesses, before there are any
SHARE = 0.01  # of the time, that guesses may take where they are never right
CREDIT = 3.0  # steps' time that they may take beyond it: to begin with, and of what right ones saved
REMEMBERED = 1 << 14  # of a prompt's ids, the newest: those are looked up within some milliseconds and megabytes
AGAIN = 256  # steps after which all times are forgotten, and half of what was learned of guesses: they are tried again


class _Record:
    """How often guesses of a kind were right; half of it is forgotten now and then."""

    def __init__(self) -> None:
        self.right, self.tried, self.at = 0.0, 0.0, 0

    def chance(self, now: int) -> float:
        """Estimate how likely the next guess is right, if all before it are; one half to begin with."""
        age = 0.5 ** ((now - self.at) // AGAIN)
        return (age * self.right + 1) / (age * self.tried + 2)

    def add(self, right: bool, now: int) -> None:
        """Learn of one guess."""
        age = 0.5 ** ((now - self.at) // AGAIN)
        self.at += (now - self.at) // AGAIN * AGAIN
        self.right, self.tried = age * self.right + right, age * self.tried + 1


class Speculation:
    """Chooses the guesses that are read with the newest ids of some requests, and learns from what becomes of them."""

    def __init__(
        self,
        corpus: Corpus | None = None,
        guesser: Callable[[], Callable[[Sequence[int]], Guess]] = TextLookup,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Guess by each request's own text, with a `guesser` of its own, and by a corpus."""
        self.corpus, self.guesser, self.clock = corpus, guesser, clock
        self.guessers: dict[Request, Callable[[Sequence[int]], Guess]] = {}
        self.texts: dict[Request, tuple[list[int], int]] = {}  # what guesses rest on, and how many new ids it has
        self.records: dict[tuple[bool, int], _Record] = defaultdict(_Record)  # by kind
        self.times: dict[int, deque[float]] = {}  # of the latest steps of so many rows, but of the first
        self.kinds: dict[Request, tuple[bool, int]] = {}  # of the guesses that are under way
        self.account, self.saves = CREDIT, 0.0  # steps' time: that may be spent, and of a right guess
        self.looked = False  # for guesses, in this step
        self.steps = self.guessed = self.right = 0

    def guesses(self, requests: Sequence[Request], room: Sequence[int]) -> list[list[int]]:
        """Choose what is read behind the newest id of each request, `room` ids at the most."""
        self.steps += 1
        if self.steps % AGAIN == 0:
            self.times.clear()
        rows, found = len(requests), [list[int]() for _ in requests]
        self.account = min(self.account + SHARE, CREDIT)
        self.looked = 2 * rows <= ROWS[-1] and len(self.times.get(rows, ())) >= FEWEST and self.account >= 0
        if not self.looked:
            return found
        self.saves = 1 / rows
        chances: list[tuple[float, int]] = []  # that so many guesses of a request are right
        for number, (request, most) in enumerate(zip(requests, room, strict=True)):
            found[number], self.kinds[request] = self._guess(request, most)
            chance = self.records[self.kinds[request]].chance(self.steps)
            chances += [(chance**depth, number) for depth in range(1, len(found[number]) + 1)]
        chances.sort(reverse=True)
        chosen = [number for _, number in chances[: self._worthwhile(rows, [chance for chance, _ in chances])]]
        self.guessed += len(chosen)
        return [ids[: chosen.count(number)] for number, ids in enumerate(found)]

    def _guess(self, request: Request, most: int) -> tuple[list[int], tuple[bool, int]]:
        """Give the guess that rests on the longer stretch, and its kind: whether it is the corpus', and how long."""
        guesser = self.guessers.get(request) or self.guessers.setdefault(request, self.guesser())
        text = self._text(request)
        guess, length = guesser(text)
        other, longer = self.corpus(text) if self.corpus else ([], 0)
        is_other = longer > length
        guess, length = (other, longer) if is_other else (guess, length)
        return guess[:most], (is_other, sum(length >= least for least in KINDS))

    def _text(self, request: Request) -> list[int]:
        """Give the newest ids of a request's text, a list that grows from one step to the next."""
        text, known = self.texts.get(request) or (request.prompt[-REMEMBERED:], 0)
        text += request.output_ids[known:]
        self.texts[request] = text, len(request.output_ids)
        return text

    def _worthwhile(self, rows: int, chances: list[float]) -> int:
        """Choose how many guesses, the likeliest first, give most tokens in a time."""
        best, most = rows / self._time(rows), 0
        for total in ROWS:
            guesses = total - rows
            if 0 < guesses <= len(chances) and (rows + sum(chances[:guesses])) / self._time(total) > best:
                best, most = (rows + sum(chances[:guesses])) / self._time(total), guesses
        return most

    def _time(self, rows: int) -> float:
        """Tell how long a step of so many rows takes: as measured, or at best by what other numbers took."""
        if measured := self.times.get(rows):
            return median(measured)
        others = ((number, median(times)) for number, times in self.times.items() if times)
        return min(seconds * (1 + ROW_SHARE * rows) / (1 + ROW_SHARE * number) for number, seconds in others)

    def took(self, rows: int, seconds: float, guesses: int, looking: float) -> None:
        """Learn how long a step took, some of whose rows are guesses, and how long it took to look for them before.

        The first of so many rows tells nothing, as their numbers are tried then.
        """
        if self.corpus:
            self.corpus.waited(seconds)
        if rows in self.times:
            self.times[rows].append(seconds)
        else:
            self.times[rows] = deque(maxlen=TIMES)
        if self.looked and (plain := self.times[rows - guesses]):
            step = median(plain)
            self.account -= (looking + (max(0.0, self._time(rows) - step) if guesses else 0.0)) / step

    def judged(self, request: Request, right: bool) -> None:
        """Learn whether a request's first guess that was not judged yet was right; after a wrong one, none is."""
        self.right += right
        self.account += right * self.saves
        self.records[self.kinds[request]].add(right, self.steps)

    def forget(self, request: Request) -> None:
        """Give up what is known of a request."""
        self.guessers.pop(request, None)
        self.texts.pop(request, None)
        self.kinds.pop(request, None)
