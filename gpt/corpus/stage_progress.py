"""How far a stage of preparing is, how fast, and what limits it: the line that is shown, and what takes the time."""

import time
from collections import Counter
from dataclasses import dataclass, field

from gpt.terminal import duration

DISK, PARSING, TOKENIZING = "disk", "parsing", "tokenizing"  # what the seconds of a task are spent on
LIMITS = (DISK, PARSING, TOKENIZING)


@dataclass
class StageProgress:
    """What is known of a stage; as a text, it is the line that is shown."""

    doing: str
    slices: int
    """That are to be done, of `bytes` of input."""
    bytes: int
    counts: Counter[str]
    """Of the corpus, once it is read: documents, and those that are kept, left out or repeated."""
    noted: Counter[str] = field(default_factory=Counter)
    """Of what is done: slices and bytes; tokens; the same counts, while it is read; and seconds by `LIMITS`."""
    start: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        done = self.noted["slices"]
        words = [f"{self.doing}: {done:,} of {self.slices:,} slices"]
        if done:
            seconds = max(1e-3, time.monotonic() - self.start)
            part = self.noted["bytes"] / self.bytes if self.noted["bytes"] else done / self.slices
            words += [f"{duration(seconds / part - seconds)} left", f"{self.noted['bytes'] / 1e6 / seconds:.1f} MB/s"]
            if self.noted["tokens"]:
                words.append(f"{self.noted['tokens'] / 1e6 / seconds:.2f} million tokens/s")
        counts = self.counts or self.noted
        if counts["documents"]:
            words += [f"{counts['documents']:,} documents", f"{share_kept(counts):.0%} kept"]
        return ", ".join([*words, limit(self.noted)] if limit(self.noted) else words)


def share_kept(counts: Counter[str]) -> float:
    """Return the share of all documents that is kept. A file that is left out unread is none."""
    entered = counts["kept"] + counts["left_out"] - counts["unread"]
    return (counts["kept"] - counts["repeated"]) / max(1, entered)


def limit(noted: Counter[str]) -> str:
    """Say on what most seconds were spent; nothing where none were noted."""
    spent = {on: noted[on] for on in LIMITS if noted[on]}
    most = max(spent, key=lambda on: spent[on], default="")
    return f"limited by {most} ({spent[most] / sum(spent.values()):.0%})" if most else ""
