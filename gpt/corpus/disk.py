"""The disk that a preparation writes to: whether there is room, and which results outlive a restart of the machine.

A process that is killed loses nothing of what it has written; a machine that is started anew may have lost what the
system had not yet brought to the disk. A result that one machine alone has written therefore says when that machine was
started, until a thread, for which nobody waits, has brought its files to the disk.
"""

import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from gpt.corpus import unpacking
from gpt.corpus.download import bytes_in_words
from gpt.errors import InputError
from gpt.files import read_json, sync, write_whole
from gpt.log import log

BOOT_TOLERANCE = 5  # seconds by which the system's answer to when it was started may differ
TAKEN = 2.15  # bytes for one of text: a copy, hashes of its words (0.65), ids (two bytes for about four of text)
PACKED = (*unpacking.SUFFIXES, ".zip", ".parquet")
UNPACKED = 3  # times its size that packed text commonly is


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
    """Wait until the files of a result are on the disk, and then say so in it, unless it says so already."""
    content = read_json(result)
    if content["started"] is None:
        return
    sync_all((result.parent / content["place"]).parent)
    write_whole(result, json.dumps(content | {"started": None}))


def sync_all(directory: Path) -> None:
    """Wait until a directory is on the disk, with its files and its name."""
    for each in (*directory.iterdir(), directory, directory.parent):
        sync(each)


def is_whole(result: Path, shared: bool) -> bool:
    """Tell whether a result is known to be on the disk, or was written since the machine was started; remove it if not.

    Where others join this machine, they know nothing of when it was started.
    """
    try:
        started = read_json(result)["started"]
        is_here = started is None or (not shared and abs(started - psutil.boot_time()) < BOOT_TOLERANCE)
    except (InputError, KeyError, TypeError):  # what a loss of power left of it
        is_here = False
    if not is_here:
        result.unlink(missing_ok=True)
    return is_here


def warn_of_little_room(work: Path, inputs: Iterable[tuple[str, int]]) -> None:
    """Warn where the disk of the directory of results seems to have no room for what comes of files (name, bytes)."""
    text = sum(size * (UNPACKED if name.lower().endswith(PACKED) else 1) for name, size in inputs)
    there = sum(_size(Path(folder, name)) for folder, _, names in os.walk(work) for name in names)
    needed, free = max(0, round(TAKEN * text) - there), shutil.disk_usage(work).free
    if needed > free:
        log.warning(
            f"{work.parent}: about {bytes_in_words(needed)} are needed there until the dataset is whole, and "
            f"{bytes_in_words(free)} are free: make room, or write to another disk with `out`; where the disk becomes "
            "full, what is finished is kept, and the same command goes on"
        )


def _size(file: Path) -> int:
    """Return the bytes of a file; none of what another job has just renamed."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
