"""Which results of a preparation outlive a restart of the machine.

A process that is killed loses nothing of what it has written; a machine that is started anew may have lost what the
system had not yet brought to the disk. A result that one machine alone has written therefore says when that machine was
started, until a thread, for which nobody waits, has brought its files to the disk.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from gpt.errors import InputError
from gpt.files import read_json, sync, write_whole

BOOT_TOLERANCE = 5  # seconds by which the system's answer to when it was started may differ


class Keeper:
    """Brings results to the disk, one after another, beside the work."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "disk")

    def keep(self, result: Path) -> None:
        """Let a result outlive a restart of the machine, soon."""
        self._pool.submit(to_disk, result)

    def close(self) -> None:
        """End with the result that is at work."""
        self._pool.shutdown(cancel_futures=True)


def to_disk(result: Path) -> None:
    """Wait until the files of a result are on the disk, and then say so in it."""
    content = read_json(result)
    for file in result.parent.glob(f"{content['place']}.*"):
        sync(file)
    sync(result.parent)
    write_whole(result, json.dumps(content | {"started": None}))


def forget_what_may_be_lost(results: list[Path], shared: bool) -> None:
    """Remove results that are not known to be on the disk, if the machine was started anew, or if others join it."""
    for result in results:
        try:
            started = read_json(result)["started"]
            is_here = started is None or (not shared and abs(started - psutil.boot_time()) < BOOT_TOLERANCE)
        except (InputError, KeyError, TypeError):  # what a loss of power left of it
            is_here = False
        if not is_here:
            result.unlink(missing_ok=True)
