"""Every byte of a dataset read and compared with what the dataset says of itself, whatever was found before."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpt.dataset.dataset import remember, scan_all
from gpt.dataset.manifest import Found, ShardInfo, describe
from gpt.dataset.masks import attach
from gpt.dataset.shards import Shard
from gpt.errors import InputError


@dataclass(frozen=True)
class Verified:
    """What was found of a shard, or of the mask of one."""

    file: str
    split: str
    found: ShardInfo | InputError
    """What it holds; or its first fault, with path, reason and remedy."""
    is_mask: bool = False


def verify_shards(path: Path) -> Iterator[Verified]:
    """Yield what is found of each shard and mask, in the dataset's order; what is intact training need not read again.

    Raises InputError where nothing can be compared: there is no dataset, or its manifest or tokenizer is damaged.
    """
    about, now = describe(path), time.time_ns()
    shards: dict[str, Shard] = {}
    faults: dict[str, InputError] = {}
    for file in about.splits:
        try:
            opened = about.open(file)
            if shard := shards.get(about.masks.get(file, "")):
                attach(opened, shard)
            shards[file] = opened
        except InputError as fault:
            faults[file] = fault
    found: dict[str, Found] = {}
    with contextlib.closing(scan_all(about, shards)) as scanned:
        for file, split in about.splits.items():
            result = faults.get(file) or next(scanned)[1]
            if isinstance(result, InputError):
                yield Verified(file, split, result)
            else:
                found[file] = result
                yield Verified(file, split, about.info(file, shards[file], found), file in about.masks)
    remember(about.path, shards, found, now)
