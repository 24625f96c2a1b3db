"""Who does the work of preparing, and what takes its time: this process, processes of this machine, or of a cluster.

All have the interface of `concurrent.futures.Executor`, and give the same results. The workers of a cluster must see
the same files under the same paths; before the first task each says whether it does, and which program it has.
"""

import importlib.metadata
import importlib.util
import io
import logging
import multiprocessing
import os
import platform
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gpt.choices import EncoderName
from gpt.corpus.stage_progress import DISK
from gpt.errors import InputError

T = TypeVar("T")
DASK = "dask://"
INSTALL = "pip install 'gpt[cluster]'"
ALL = "all"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


# What reads some files, and is not everywhere: what was left out for want of it is read once it is there.
READERS = [name for name in ("pyarrow", "compression.zstd", "backports.zstd") if _is_installed(name)]


@dataclass(frozen=True)
class Execution:
    """How a preparation is carried out: the same files come out of each way."""

    workers: str = ALL
    """Processes that read and encode, all for one a processor, or dask://HOST:PORT; the same files come out."""
    part: str = "1/1"
    """I/N for the I-th of N jobs that prepare the same on a common disk, such as those of a SLURM array."""
    encoder: EncoderName = "auto"
    """gigatoken, of the extra `fast`, or tiktoken; auto takes gigatoken where it is there; the same ids come out."""

    def numbers(self) -> tuple[int, int]:
        """Parse the part, I/N. Raises InputError for anything else."""
        part, slash, parts = self.part.partition("/")
        if slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
            return int(part), int(parts)
        raise InputError(f"`part` {self.part}: give I/N with I from 1 to N, as 3/8 for the third of eight jobs")


class _Noted(threading.local):
    seconds: Any = Counter()  # noqa: RUF012  # of the task that this thread is at, by what they were spent on
    failure: OSError | None = None  # of the last file that could not be read on, whatever its reader made of that


NOTED = _Noted()


def timed(on: str, call: Callable[..., T], *arguments: Any) -> T:
    """Call a function, and note on what its seconds were spent: those that nothing within it has noted."""
    start = time.perf_counter() - NOTED.seconds.total()
    try:
        return call(*arguments)
    finally:
        NOTED.seconds[on] += time.perf_counter() - start - NOTED.seconds.total()


class TimedFile(io.FileIO):
    """A file that notes how long it is read, and that it cannot be read on."""

    def readinto(self, buffer: Any) -> int:
        try:
            return timed(DISK, super().readinto, buffer)
        except OSError as error:
            NOTED.failure = error
            raise


def cores() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(workers: str) -> int:
    """Return how many processes of this machine are meant; 0 for a cluster. Raises InputError for anything else."""
    if workers == ALL:
        return cores()
    if workers.startswith(DASK) and len(workers) > len(DASK):
        return 0
    if workers.isdecimal() and 0 < int(workers) < 10_000:
        return int(workers)
    raise InputError(f"`workers` {workers}: give a number of processes, all for one a processor, or {DASK}HOST:PORT")


def lost_worker() -> tuple[type[BaseException], ...]:
    """Return what a future raises whose worker was killed, or which a cluster forgot whose scheduler was."""
    try:
        from distributed.scheduler import KilledWorker
    except ImportError:
        return (BrokenProcessPool,)
    return BrokenProcessPool, KilledWorker, CancelledError


def open_executor(workers: str, directory: Path) -> Executor:
    """Begin the processes, or reach the cluster. `directory` is where results go, which all must see.

    Raises InputError where the cluster cannot be reached, or its workers have something else there.
    """
    if count := worker_count(workers):
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(count, mp_context=spawn, initializer=_begin)
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(f"`workers` {workers}: needs Dask ({error}): {INSTALL}") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it raises the same, without traces
    address = f"tcp://{workers.removeprefix(DASK)}"
    try:
        client = Client(address, timeout=20, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"`workers` {workers}: there is no Dask scheduler ({error})") from None
    try:
        _shake_hands(client.run, workers, directory)
    except BaseException:
        client.close()
        raise
    return Cluster(client)


class Cluster(Executor):
    """The workers of a Dask cluster, until this process lets it go."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Have a function called, on whichever worker, as it would be called here.

        Not by `Client.get_executor`: of a worker that dies just as it is done, that takes the result for an error.
        """
        future, call = Future[Any](), partial(_as_here, str(Path.cwd()), greeting_of(""), fn, *args, **kwargs)
        self._client.submit(call, pure=False).add_done_callback(partial(_pass_on, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the cluster go; it forgets what nobody waits for."""
        self._client.close()


def _pass_on(future: Future[Any], done: Any) -> None:
    """Give a future what came of another one."""
    try:
        future.set_result(done.result())
    except BaseException as error:
        future.set_exception(error)


def _shake_hands(run: Callable[..., Any], workers: str, directory: Path) -> None:
    """Ask every worker of a cluster what it has. Raises InputError for the first that differs from this process."""
    probe, word = directory / f"probe-{uuid.uuid4().hex}", uuid.uuid4().hex
    probe.write_text(word)
    try:
        answers = run(greeting, str(probe), str(Path.cwd()), on_error="return")
    finally:
        probe.unlink()
    answers = {name: own for name, own in answers.items() if not isinstance(own, OSError)}  # of one that just died
    if not answers:
        raise InputError(f"`workers` {workers}: the cluster has no worker yet; start some: dask worker HOST:PORT")
    questions = (
        "version of this program",
        "tiktoken",
        "Python",
        "NumPy",
        "set of readers of Parquet and zstd",
        "directory",
    )
    for name, answers_ in answers.items():
        if isinstance(answers_, BaseException):
            raise InputError(
                f"`workers` {workers}: the worker {name} cannot answer ({answers_}); give all the same program"
            )
        for question, have, wanted in zip(questions, answers_, greeting_of(word), strict=True):
            if have != wanted:
                raise InputError(
                    f"`workers` {workers}: the worker {name} has another {question}: {have}, where this process has "
                    f"{wanted}; give all the same program, and {directory} under the same path"
                )


def _as_here(directory: str, wanted: list[str], call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function on a worker that may have been begun after the others were asked, such as in place of a dead one.

    Raises InputError where that one has another program.
    """
    os.chdir(directory)
    if (have := greeting_of("")) != wanted:
        raise InputError(
            f"`workers`: a worker of the cluster has {', '.join(have)}, where this process has {', '.join(wanted)}; "
            "give all the same program"
        )
    return call(*args, **kwargs)


def greeting(probe: str, directory: str) -> list[str]:
    """Answer from a worker, which from here on works in the directory of the first process."""
    try:
        os.chdir(directory)
        word = Path(probe).read_text(encoding="utf-8")
    except OSError as error:
        word = str(error)
    return greeting_of(word)


def greeting_of(word: str) -> list[str]:
    versions = [importlib.metadata.version(name) for name in ("gpt", "tiktoken")]
    return [*versions, platform.python_version(), np.__version__, ", ".join(READERS) or "none", word]


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's, which ends the others
    threading.Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    """End when the first process is killed: of that the pool tells nothing, and its processes would wait for ever."""
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os._exit(1)
