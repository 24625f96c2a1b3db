"""Several jobs that prepare the same, `--part I/N`, each with its share of the slices: who is done, lost or has failed.

They know of each other by files in the directory of results. A job that fails says so there, and the others end; of one
that was killed nothing tells, so that they wait, and name it.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from gpt.errors import InputError
from gpt.files import write_whole
from gpt.log import log

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 300.0  # that others wait until one that has failed, or is not there yet, is begun (again)


class OtherFailed(InputError):
    """Another job has failed, for which this one would wait."""


def _done(work: Path, part: int) -> Path:
    """Name the file that says of a job that it needs no results any longer."""
    return work / f"done-{part}"


def _failed(work: Path, part: int) -> Path:
    """Name the file that says why a job has failed."""
    return work / f"failed-{part}"


def begin_job(work: Path, part: int) -> None:
    """Forget what a job of this number has left."""
    _done(work, part).unlink(missing_ok=True)
    _failed(work, part).unlink(missing_ok=True)


def say_failed(work: Path, part: int, error: BaseException) -> None:
    """Tell the other jobs that this one has failed, unless it was interrupted, or another one is the cause."""
    if isinstance(error, Exception) and not isinstance(error, OtherFailed):
        with contextlib.suppress(OSError):  # a disk that is full: then they wait
            write_whole(_failed(work, part), str(error) or type(error).__name__)


def is_last(work: Path, part: tuple[int, int]) -> bool:
    """Tell whether this job writes the dataset: the first does, once the others need their results no longer.

    Raises InputError where one of them has failed.
    """
    number, parts = part
    if number == 1:
        wait_for(work, parts, lambda: {part for part in range(2, parts + 1) if not _done(work, part).exists()})
        return True
    _done(work, number).touch()
    log.info(f"part {number} of {parts} is done; the first writes the dataset")
    return False


def wait_for(work: Path, parts: int, lacking: Callable[[], set[int]]) -> None:
    """Wait until `lacking` names no job any longer.

    Raises InputError where such a job has failed, and was not begun again for some minutes after that was seen here.
    """
    start, warned, seen = time.monotonic(), False, dict[tuple[int, int], float]()  # each failure, and when it was
    while jobs := lacking():
        now = time.monotonic()
        for part in sorted(jobs):
            with contextlib.suppress(FileNotFoundError):  # it has not failed, or was just begun again
                failure, why = _failed(work, part).stat().st_mtime_ns, _failed(work, part).read_text(encoding="utf-8")
                if now - seen.setdefault((part, failure), now) > PATIENCE_SECONDS:
                    raise OtherFailed(
                        f"part {part} of {parts}, for which this one waits, has failed: {why}; what is finished is "
                        "kept: mend that, and begin all parts again that have ended"
                    )
        if not warned and now - start > PATIENCE_SECONDS:
            names = ", ".join(map(str, sorted(jobs)))
            log.warning(f"still waiting for other jobs, part {names} of {parts}: begin again what was killed")
            warned = True
        time.sleep(POLL_SECONDS)
