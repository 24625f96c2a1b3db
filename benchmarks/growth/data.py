"""Data: preparing a corpus by its size, and opening a dataset by its tokens.

Corpora are those of benchmarks/preparing.py: words of Python's library as often as they occur there, in one file,
encoded with GPT-2's vocabulary. The whole command is timed; what it takes for next to no text is its start. Datasets
lie in the page cache; each is opened as if for the first time, when all of it is read and hashed, and again.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import loading, preparing
from benchmarks.growth.curves import Curve, in_turns
from gpt.dataset.dataset import REMEMBERED, open_dataset

MEGABYTES = (0.1, 1, 10, 50)
MILLIONS = (1, 3, 10, 30, 100)  # tokens
NEXT_TO_NONE = 0.02  # megabytes, or millions
AGAIN = 5  # times in each run that it is opened once more: the first finds the processor's caches full of shards
SETTLED = 3.0  # seconds after which what was written is remembered


def prepare(runs: int) -> dict[str, Curve]:
    """Time of `gpt prepare` by the size of its text."""
    with tempfile.TemporaryDirectory() as name:
        directory, work = Path(name), {}
        for size in (NEXT_TO_NONE, *MEGABYTES):
            file = directory / f"{size}.txt"
            with file.open("w", encoding="utf-8") as plain:
                for some in preparing.documents(round(1e6 * size)):
                    plain.write(preparing.as_plain_text(some))
            work[size] = partial(_seconds, preparing.commands(directory, file)["gpt prepare"])
        found = in_turns(work, runs, "preparing by size, seconds")
        start = median(found.pop(NEXT_TO_NONE))
        sizes = [(directory / f"{size}.txt").stat().st_size / 1e6 for size in MEGABYTES]
    return {
        "preparing by size": Curve(
            grows="MB of text",
            unit="s of the whole command",
            theory=f"bytes of text, after {start:.2f} s for next to none",
            sizes=[*MEGABYTES],
            measured=[*found.values()],
            counts=sizes,
            through=max(MEGABYTES),
            offset=start,
        )
    }


def _seconds(command: list[str]) -> float:
    return preparing.measured(command)[0]


def opening(runs: int) -> dict[str, Curve]:
    """Time of opening a dataset for the first time and again, by its tokens."""
    again: dict[float, list[float]] = {}

    def milliseconds(path: Path, size: float) -> float:
        _milliseconds_to_open(path)  # what was measured before, the largest of all, has emptied the processor's caches
        (path / REMEMBERED).unlink(missing_ok=True)
        first = _milliseconds_to_open(path)
        again.setdefault(size, []).append(median(_milliseconds_to_open(path) for _ in range(AGAIN)))
        return first

    with tempfile.TemporaryDirectory() as name:
        work: dict[float, Callable[[], float]] = {}
        for size in (NEXT_TO_NONE, *MILLIONS):
            path = Path(name) / f"{size}"
            loading.write(path, shards=1, tokens=round(5e5 * size))  # and as many to validate with
            work[size] = partial(milliseconds, path, size)
        time.sleep(SETTLED)
        first = in_turns(work, runs, "opening by tokens, ms")
    start = median(first.pop(NEXT_TO_NONE))
    del again[NEXT_TO_NONE]
    return {
        "opening by tokens": Curve(
            grows="M tokens",
            unit="ms, the first time",
            theory=f"bytes, after {start:.1f} ms for next to none",
            sizes=[*MILLIONS],
            measured=[*first.values()],
            counts=[2e6 * size for size in MILLIONS],
            through=max(MILLIONS),
            offset=start,
        ),
        "opening again": Curve(
            grows="M tokens",
            unit="ms, once it was opened",
            theory="headers of two shards, whatever they hold",
            sizes=[*MILLIONS],
            measured=[*again.values()],
            counts=[1.0] * len(MILLIONS),
            through=max(MILLIONS),
        ),
    }


def _milliseconds_to_open(path: Path) -> float:
    start = time.perf_counter()
    open_dataset(path)
    return 1000 * (time.perf_counter() - start)
