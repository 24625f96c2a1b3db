"""The work of preparing, in stages: a function over many tasks, each of which is done once and for all.

What a task returns is written to a file named by all that it hangs on, and is there the next time: a preparation that
was killed goes on where it was. Tasks run in this process or in others, which changes nothing of what they return.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from gpt.errors import InputError
from gpt.files import read_json, sync, write_whole
from gpt.log import Progress

MOST_BREAKS = 3  # of the pool of processes, without a task done between them
AHEAD = 2  # tasks for each process that wait


Work = FunctionType  # of the place of its files, and a task's arguments; it returns the result, as JSON has it


@dataclass(frozen=True)
class Task:
    """One call of a stage's function; `key` names all that its result hangs on, and `label` what it works on."""

    key: str
    label: str
    arguments: tuple[Any, ...]
    bytes: int = 0
    """Of input, that it works on."""


def cores() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Stages:
    """Runs the stages of a preparation. A context manager, which ends the processes."""

    def __init__(self, directory: Path, workers: int, progress: Progress) -> None:
        """Keep results in a directory. `workers` of more than 1 are processes, begun when there is work for them."""
        self.directory, self.workers, self.progress = directory, workers, progress
        self.seconds = defaultdict[str, float](float)  # that each stage took
        self._pool: Executor | None = None

    def __enter__(self) -> "Stages":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, doing: str, work: Work, tasks: Sequence[Task]) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Do what was not done before. Yield of each task, in order, the place of its files, and its result.

        `work` is called with the place, to whose name it adds endings for files of its own, and the arguments.
        Raises what it raises, and InputError if its process is killed again and again.
        """
        results = [self.result(work, task) for task in tasks]
        missing = [number for number, result in enumerate(results) if not result.exists()]
        start, left, size = time.monotonic(), len(missing), 0
        self.progress.doing = doing
        with contextlib.closing(self._done(work, tasks, results, missing)) as done:
            for number in done:
                left, size = left - 1, size + tasks[number].bytes
                seconds = max(1e-3, time.monotonic() - start)
                self.progress.doing = (
                    f"{doing}: {len(tasks) - left:,} of {len(tasks):,} parts, {size / 1e6 / seconds:.1f} MB/s, about "
                    f"{seconds * left / (len(missing) - left):.0f} s left"
                )
        self.seconds[doing] += time.monotonic() - start
        for result in results:
            found = read_json(result)
            yield self.directory / found["place"], found["result"]

    def result(self, work: Work, task: Task) -> Path:
        """Return the file that a task's result is written to."""
        return self.directory / f"{work.__name__}-{task.key}.json"

    def _done(self, work: Work, tasks: Sequence[Task], results: list[Path], missing: list[int]) -> Generator[int]:
        """Do tasks, and yield the number of each that is done."""
        if self.workers == 1 or len(missing) < 2:
            for number in missing:
                _do(work, results[number], tasks[number].arguments)
                yield number
            return
        waiting, running, breaks = missing[::-1], dict[Future[None], int](), 0
        while waiting or running:
            try:
                while waiting and len(running) < AHEAD * self.workers:
                    number = waiting[-1]
                    future = self._executor().submit(_do, work, results[number], tasks[number].arguments)
                    running[future] = waiting.pop()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    breaks = 0
                    yield running.pop(future)
            except BrokenProcessPool:
                breaks += 1
                labels = ", ".join(tasks[number].label for number in sorted(running.values())[: self.workers])
                if breaks == MOST_BREAKS:
                    raise InputError(
                        f"a worker was killed {breaks} times while one of these was in work: {labels}; most likely "
                        "there is too little memory: give fewer `workers`. What is finished is kept"
                    ) from None
                waiting += sorted(running.values(), reverse=True)
                running.clear()
                self._pool = None

    def _executor(self) -> Executor:
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=spawn, initializer=_begin)
        return self._pool


def digest(*values: object) -> str:
    """Name what hangs on these values: 128 bits, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, default=_plain, sort_keys=True).encode("utf-8", "replace")).hexdigest()[
        :32
    ]


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return hashlib.sha256(value.tobytes()).hexdigest()
    return sorted(value) if isinstance(value, frozenset) else str(value)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's, which ends the others
    threading.Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    """End when the first process is killed: of that the pool tells nothing, and its processes would wait for ever."""
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os._exit(1)


def _do(work: Work, result: Path, arguments: tuple[Any, ...]) -> None:
    place = new_place(result)
    finish(result, place, work(place, *arguments))


def new_place(result: Path) -> Path:
    """Name files after a result, and like nobody else's: a worker whose first process was killed may be at it still."""
    return result.with_name(f"{result.stem}-{uuid.uuid4().hex[:8]}")


def finish(result: Path, place: Path, found: dict[str, Any]) -> None:
    """Declare a result whole: its files are on the disk."""
    for file in place.parent.glob(f"{place.name}.*"):
        sync(file)
    written = place.with_name(f"{place.name}.result")
    write_whole(written, json.dumps({"place": place.name, "result": found}))
    written.replace(result)
