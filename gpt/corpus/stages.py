"""The work of preparing, in stages: a function over many tasks, each of which is done once and for all.

What a task returns is written to a file named by all that it hangs on, and is there the next time: a preparation that
was killed goes on where it was. Tasks run in this process or in others, which changes nothing of what they return.
"""

import contextlib
import hashlib
import json
import shutil
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import numpy as np
import psutil
from filelock import FileLock, Timeout

from gpt.corpus.disk import Keeper, is_whole, sync_all
from gpt.corpus.executor import NOTED, lost_worker, open_executor, timed, worker_count
from gpt.corpus.jobs import begin_job, say_failed, wait_for
from gpt.corpus.stage_progress import DISK, PARSING, StageProgress
from gpt.errors import InputError
from gpt.files import aside, is_full, read_json, remove_directory
from gpt.interrupts import Interruptible
from gpt.log import Progress, log

MOST_BREAKS = 3  # of the pool of processes, without a task done between them
AHEAD = 2  # tasks for each process that wait
CLUSTER = 64  # processes that a cluster is taken to have at most, so that enough tasks wait
COUNTED = ("documents", "kept", "left_out", "unread")  # that a slice's result says when it was read
KEPT = "what is finished is kept, and the same command goes on"
RESULTS = "*-*.json"  # their names, as a pattern
FULL = "the disk is full; make room there, and give the same command again"
SHARED = "shared"  # name of a file in it, which says that other machines read and write there, too
WORK = ".work"  # end of the name of the directory in which results are kept until the dataset is whole


T = TypeVar("T")
Work = FunctionType  # of the place of its files, and a task's arguments; it returns the result, as JSON has it


@dataclass(frozen=True)
class Task:
    """One call of a stage's function; `key` names all that its result hangs on, and `label` what it works on."""

    key: str
    label: str
    arguments: tuple[Any, ...]
    bytes: int = 0
    """Of input, that it works on."""


class Stages(contextlib.ExitStack):
    """Runs the stages of a preparation. A context manager, which ends the processes."""

    _pool: Executor | None = None
    _keeper: Keeper | None = None

    def __init__(self, directory: Path, progress: Progress, workers: str = "1", part: tuple[int, int] = (1, 1)) -> None:
        """Keep results in a directory. `workers` are begun when there is work for them (see executor.py).

        `part` is (I, N) for the I-th of N processes that share the directory: each does every N-th task, and waits for
        what the others do.
        """
        super().__init__()
        self.directory, self.workers, self.progress, self.part = directory, workers, progress, part
        if shared := not worker_count(workers) or part[1] > 1:
            (directory / SHARED).touch()
        # Of a preparation that did not end.
        self._before = {result.name for result in [*directory.glob(RESULTS)] if is_whole(result, shared)}
        self.own = directory / f"of-part-{part[0]}"  # for what each part finds out by itself, each time
        shutil.rmtree(self.own, ignore_errors=True)
        self.own.mkdir(exist_ok=True)
        self.seconds = defaultdict[str, float](float)  # that each stage took
        self.spent, self.counts = Counter[str](), Counter[str]()  # what tasks noted (stage_progress.py); of the corpus

    def keep(self) -> None:
        """Let results outlive a restart of the machine, too; those that machines share do that anyway."""
        if not (self.directory / SHARED).exists():
            self._keeper = Keeper()
            self.callback(self._keeper.close)
            for name in self._before:  # some of which were still to be kept when the process before was killed
                self._keeper.keep(self.directory / name)

    def run(self, doing: str, work: Work, tasks: Sequence[Task]) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Do what was not done before. Yield of each task, in order, the place of its files, and its result.

        `work` is called with the place, to whose name it adds endings for files of its own, and the arguments.
        Raises what it raises, and InputError if its process is killed again and again.
        """
        results = [self.result(work, task) for task in tasks]
        todo = [each for each in range(self.part[0] - 1, len(tasks), self.part[1]) if not results[each].exists()]
        stage = self.progress.doing = StageProgress(doing, len(todo), sum(tasks[i].bytes for i in todo), self.counts)
        if self._before:
            self._say_what_was_there(stage, [result for result in results if result.name in self._before], len(tasks))
        with contextlib.closing(self._done(work, tasks, results, todo)) as done:
            for result, noted in done:
                stage.noted.update(noted)
                if self._keeper is not None:
                    self._keeper.keep(result)
        if self.part[1] > 1:
            self._wait(doing, results)
        self.seconds[doing] += time.monotonic() - stage.start
        self.spent.update(stage.noted)
        for result in results:
            found = read_json(result)
            yield self.directory / found["place"], found["result"]

    def _say_what_was_there(self, stage: StageProgress, there: list[Path], of: int) -> None:
        """Say how many results a preparation left that did not end, and count their documents."""
        if there:
            log.info(f"{stage.doing}: {len(there):,} of {of:,} slices were there from before")
        for result in there:
            stage.noted.update(_counts(read_json(result)["result"]))

    def result(self, work: Work, task: Task) -> Path:
        """Return the file that a task's result is written to."""
        return self.directory / f"{work.__name__}-{task.key}.json"

    def _done(
        self, work: Work, tasks: Sequence[Task], results: list[Path], todo: list[int]
    ) -> Generator[tuple[Path, Counter[str]]]:
        """Do tasks, and yield of each that is done its result's file, and what it notes."""
        count = worker_count(self.workers) or CLUSTER
        if count == 1 or len(todo) < 2:
            for number in todo:
                yield results[number], _do(work, results[number], tasks[number])
            return
        waiting, running, breaks = todo[::-1], dict[Future[Counter[str]], int](), 0
        while waiting or running:
            try:
                while waiting and len(running) < AHEAD * count:
                    number = waiting[-1]
                    future = self._executor().submit(_do, work, results[number], tasks[number])
                    running[future] = waiting.pop()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    noted, breaks = future.result(), 0
                    yield results[running.pop(future)], noted
            except lost_worker():
                breaks += 1
                labels = ", ".join(tasks[number].label for number in sorted(running.values())[:count])
                if breaks == MOST_BREAKS:
                    raise InputError(
                        f"a worker was killed {breaks} times while one of these was in work: {labels}; most likely "
                        "there is too little memory: give fewer `workers`. What is finished is kept"
                    ) from None
                waiting += sorted(running.values(), reverse=True)
                running.clear()
                if self._pool is not None:  # others of a cluster are still at what nobody waits for
                    self._pool.shutdown(cancel_futures=True)
                self._pool = None

    def _executor(self) -> Executor:
        if self._pool is None:
            self._pool = open_executor(self.workers, self.directory)
            self.callback(self._pool.shutdown, cancel_futures=True)
        return self._pool

    def _wait(self, doing: str, results: list[Path]) -> None:
        """Wait for what other parts of the same preparation have to do."""

        def lacking() -> set[int]:
            if not self.own.exists():
                raise InputError("another job has ended the preparation without this one; begin all of them again")
            missing = [number % self.part[1] + 1 for number, result in enumerate(results) if not result.exists()]
            jobs = ", ".join(map(str, sorted({*missing})))
            self.progress.doing = f"{doing}: waiting for {len(missing):,} of {len(results):,} slices, of part {jobs}"
            return {*missing}

        wait_for(self.directory, self.part[1], lacking)


@contextlib.contextmanager
def work_in(out: Path, part: tuple[int, int]) -> Generator[tuple[Path, Interruptible]]:
    """Give a directory for results, for this process alone. It is removed unless there is more to do in it.

    Raises InputError where the disk becomes full.
    """
    work = aside(out, WORK).absolute()
    work.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(work / f".lock-{part[0]}-of-{part[1]}").acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{out}: another process is preparing it; wait until it ends, or choose another place"
        ) from None
    _require_alone(work, out, part[1])
    kept = f"; {out} is as it was" if out.exists() else ""
    interruptible = Interruptible(work, f"nothing was written{kept}")
    if part[1] > 1 or any(work.glob(RESULTS)):  # of others: what stops this one early does not cost them
        interruptible.keep(KEPT)
        begin_job(work, part[0])
    with lock, interruptible:
        try:
            yield work, interruptible
        except BaseException as error:
            if part[1] > 1:
                say_failed(work, part[0], error)
            if not interruptible.keeps:
                remove_directory(work)
            if isinstance(error, OSError) and is_full(error):
                left = "what is finished is kept" if interruptible.keeps else f"nothing was written{kept}"
                raise InputError(f"{out.parent}: {FULL}: {left}") from None
            raise
        if part[0] == 1:
            remove_directory(work)


def _require_alone(work: Path, out: Path, parts: int) -> None:
    """Raise InputError where other processes prepare the same as another number of jobs."""
    for file in work.glob(".lock-*-of-*"):
        if not file.name.endswith(f"-of-{parts}"):
            try:
                with FileLock(file).acquire(timeout=0):
                    pass
            except Timeout:
                raise InputError(
                    f"{out}: another process is preparing it as {file.name.rpartition('-')[2]} jobs, and this is one "
                    f"of {parts}; wait until it ends, or choose another place"
                ) from None


def digest(*values: object) -> str:
    """Name what hangs on these values: 128 bits, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, default=_plain, sort_keys=True).encode(errors="replace")).hexdigest()[:32]


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return hashlib.sha256(value.tobytes()).hexdigest()
    return sorted(value) if isinstance(value, frozenset) else str(value)


def _do(work: Work, result: Path, task: Task) -> Counter[str]:
    """Do a task; return what is to be shown of it. That is in no file: files hang on nothing but the input."""
    place, NOTED.seconds = new_place(result), Counter()
    found = timed(PARSING, work, place, *task.arguments)
    timed(DISK, finish, result, place, found)
    tokens = sum(shard["tokens"] for shard in found.get("shards", ()))
    return NOTED.seconds + Counter(_counts(found) | {"slices": 1, "bytes": task.bytes, "tokens": tokens})


def _counts(found: dict[str, Any]) -> dict[str, int]:
    """Return what a result counts of its documents, if it does."""
    return {name: found[name] for name in COUNTED if type(found.get(name)) is int}


def new_place(result: Path) -> Path:
    """Make a directory for the files of a result, and return how their names begin.

    It is nobody else's: a worker whose first process was killed may be at the same result still.
    """
    place = result.with_name(f"{result.stem}-{uuid.uuid4().hex[:8]}") / "slice"
    place.parent.mkdir()
    return place


def finish(result: Path, place: Path, found: dict[str, Any]) -> None:
    """Declare a result whole: its files are there, and on the disk if other machines share them (see disk.py)."""
    written, is_shared = place.with_name("result"), (result.parent / SHARED).exists()
    here = {"started": None if is_shared else psutil.boot_time()}  # for what is not on the disk yet
    written.write_text(json.dumps({"place": place.relative_to(result.parent).as_posix(), "result": found} | here))
    if is_shared:
        sync_all(place.parent)
    written.replace(result)
