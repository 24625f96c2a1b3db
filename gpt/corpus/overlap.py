"""The guard of the validation split: training text that shares more than a stated part of its 13-grams with it.

1. The 13-grams of all that validates are put in order, with the passages in which each stands.
2. Every passage of training is held against them. It shares too much if that is more than the stated part of its own
   13-grams, or of those of one passage of validation, as where that is quoted.
3. What shares too much is moved to validation, or dropped; where validation would become too large, its passages go to
   training instead. Then it begins again, until there is nothing more to do; no passage moves twice. If a passage of
   validation is still known from many places, a little from each, all that knows any of it shares too much. What cannot
   be moved in the end is dropped, unless that is half of the text.
4. Where more than half of the text shares too much, as what is made from a template does, nothing is moved. Where files
   were given that validate, nothing is moved either way, and all that shares too much with them is dropped.

Of two passages that were on opposite sides before text was added, none moves. Of one that was there and a new one, the
new one does: it goes to the side of the other.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt.choices import Overlap
from gpt.corpus.gram_index import Index, Leak, leaking, leaks_of, scan_slice, shares_at
from gpt.corpus.reading import Corpus
from gpt.corpus.slices import PASSAGES, in_buckets
from gpt.corpus.split import DROPPED, TRAIN, VALIDATION, ByContent, distinct, division_key, is_among
from gpt.corpus.stages import digest
from gpt.errors import InputError
from gpt.files import remove_directory
from gpt.log import log

MOST_DROPPED = 0.5  # of the text, before that is an error


@dataclass
class OverlapReport:
    """Shares of the 13-grams of validation, each counted once, that training has, too; and what was done."""

    before: float = 0.0
    after: float = 0.0
    grams: int = 0
    """Of validation, in the end."""
    moved: int = 0
    """Passages of training to validation."""
    returned: int = 0
    """Passages of validation to training."""
    dropped: int = 0
    left: int = 0
    """Passages of training that share too much and are left there."""


class _Found:
    """What training shares with validation."""

    def __init__(self, index: Index, places: list[tuple[Path, Path]]) -> None:
        """Take of each slice where its hits are, and where its passages are listed."""
        self.index, self._places = index, places
        self.seen = np.zeros(len(index.grams), dtype=bool)  # which grams were met, (G,)
        for place, _ in places:
            self.seen[shares_at(place)["met"]] = True
        self.share = float(self.seen.mean()) if len(self.seen) else 0.0

    def leaking(self, most: float, watched: set[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield keys of passages that share too much, in order, each once, and the characters of each: some at a time.

        There may be as many as the text has, which memory would not hold.
        """
        limits, files = self.index.limits(most, watched), list[Path]()
        for number, (place, listed) in enumerate(self._places):
            rows = np.load(f"{listed}{PASSAGES}", mmap_mode="r")[leaking(place, limits, most), :2]
            files.append(self.index.place / f"leaking-{number}.npy")
            np.save(files[-1], rows[np.argsort(rows[:, 0])])
        for parts in in_buckets(files):
            yield distinct(np.concatenate([part() for part in parts]))

    def leaks(self, most: float, watched: set[int]) -> list[Leak]:
        """List what shares too much, each of equal passages once: no more than memory holds, see `leaking`."""
        leaks, limits = dict[int, Leak](), self.index.limits(most, watched)
        for place, listed in self._places:
            for leak in leaks_of(place, listed, self.index, limits, most):
                twins = leaks.get(leak.key)  # they move together
                leaks[leak.key] = replace(leak, characters=leak.characters + (twins.characters if twins else 0))
        return [*leaks.values()]


class Guard:
    """Finds what shares too much, and changes sides until nothing does."""

    def __init__(
        self, corpus: Corpus, mode: Overlap, most: float, known: np.ndarray, bounds: tuple[float, float]
    ) -> None:
        """Take the keys that were divided before, in order, and how many characters validation may come to have."""
        self._corpus, self._mode, self._most, self._known, self._bounds = corpus, mode, most, known, bounds

    def __call__(self, divide: ByContent) -> tuple[ByContent, dict[str, Any]]:
        """Return what divides the text, and the report. Raises InputError where too much would be dropped."""
        report, watched = OverlapReport(), set[int]()
        found = self._scan(divide)
        report.before = found.share
        while True:
            index, report.after, report.grams = found.index, found.share, len(found.index.grams)
            report.left, characters, new = self._weighed(found, watched) if found.share else (0, 0, 0)
            is_done, changes = self._mode == "report" or not found.share, dict[int, str]()
            if report.left and not is_done and not self._is_template(characters):
                changes = self._changes(divide, found.leaks(self._most, watched), index, report)
            more = set[int]() if changes or is_done else index.known_from_many(found.seen, self._most) - watched
            watched |= more
            changes |= self._rest(found, watched, new, report) if not (changes or more or is_done) else {}
            if changes:
                divide = replace(divide, exceptions=divide.exceptions | changes)
                remove_directory(index.place)  # of which the disk shall not hold many
                found = self._scan(divide)
            elif not more:
                return divide, self._said(report)

    def _scan(self, divide: ByContent) -> "_Found":
        """Hold all of training against all that validates."""
        index, corpus = Index.build(self._corpus, divide), self._corpus
        tasks = corpus.tasks(lambda listed: digest(division_key(divide, listed), index.digest), divide, index.place)
        found = corpus.stages.run("comparing training with validation", scan_slice, tasks)
        return _Found(index, [(place, task.arguments[2]) for task, (place, _) in zip(tasks, found, strict=True)])

    def _changes(self, divide: ByContent, leaks: list[Leak], index: Index, report: OverlapReport) -> dict[int, str]:
        """Choose new sides, by key, for what shares most at first, as far as that is allowed."""
        lengths = Counter[int]()
        for key, length in zip(index.keys.tolist(), index.lengths.tolist(), strict=True):
            lengths[key] += length
        changes, size, (least, most) = dict[int, str](), float(index.lengths.sum()), self._bounds
        for leak in sorted(leaks, key=lambda leak: (-leak.share, leak.key)):
            stays = self._is_known(leak.key) or leak.key in divide.exceptions
            if (self._mode == "drop" or not most) and not stays:  # none where files were given
                changes[leak.key] = DROPPED
                report.dropped += 1
            elif size + leak.characters <= most and not stays:
                changes[leak.key] = VALIDATION
                size += leak.characters
                report.moved += 1
            else:
                for other in leak.others:
                    free = not (self._is_known(other) or other in divide.exceptions or other in changes)
                    if free and (self._is_known(leak.key) or size - lengths[other] >= least):
                        changes[other] = TRAIN
                        size -= lengths[other]
                        report.returned += 1
        return changes

    def _weighed(self, found: _Found, watched: set[int]) -> tuple[int, int, int]:
        """Count what shares too much: passages, characters, and those characters that were not there before."""
        weighed = np.zeros(3)
        for keys, lengths in found.leaking(self._most, watched):
            weighed += len(keys), lengths.sum(), lengths[~is_among(self._known, keys)].sum()
        return tuple(weighed.astype(int).tolist())

    def _rest(self, found: _Found, watched: set[int], size: int, report: OverlapReport) -> dict[int, str]:
        """Drop what still shares too much, and was not there before; nothing where that would be too much to lose."""
        if not 0 < size <= MOST_DROPPED * self._corpus.counts["characters"]:
            return {}
        leaking = (keys for keys, _ in found.leaking(self._most, watched))
        new = [key for keys in leaking for key in keys[~is_among(self._known, keys)].tolist()]
        report.dropped += len(new)
        why = ", which would become too large with them" if self._bounds[1] else ""
        log.warning(
            f"{len(new):,} passages of training, {size:,} characters, are dropped: they share more than "
            f"{self._most:.0%} with validation{why}; `overlap` report keeps them"
        )
        return dict.fromkeys(new, DROPPED)

    def _is_template(self, total: int) -> bool:
        """Tell whether most of the text shares too much. Raises InputError where that was to be dropped."""
        characters = self._corpus.counts["characters"]
        is_template = total > MOST_DROPPED * characters
        if is_template and self._mode == "drop":
            raise InputError(
                f"`overlap` drop would leave out {total:,} of {characters:,} characters: so much shares its 13-grams "
                "with validation, as texts do that are made from a template; give `overlap` report, which keeps it"
            )
        return is_template

    def _is_known(self, key: int) -> bool:
        return bool(is_among(self._known, np.uint64(key)))

    def _said(self, report: OverlapReport) -> dict[str, Any]:
        was = _done(report) if report.moved or report.returned or report.dropped else ""
        log.info(f"overlap: {report.after:.2%} of validation's 13-grams stand in training{was}")
        if report.left:
            advice = "" if self._mode == "report" else "; `overlap` drop leaves them out"
            log.warning(
                f"{report.left:,} passages of training share more than {self._most:.0%} with validation, as texts do "
                f"that are made from a template{advice}"
            )
        return asdict(report)


def _done(report: OverlapReport) -> str:
    """Say what was done to passages, and what there was before."""
    done = [f"{count:,} {words}" for count, words in (
        (report.moved, "moved to validation"),
        (report.returned, "moved to training"),
        (report.dropped, "dropped"),
    ) if count]  # fmt: skip
    return f", and was {report.before:.2%} before: of passages {', '.join(done)}"
