"""A dataset on disk: manifest, tokenizer and shards, opened so that nothing wrong in it reaches the model.

Headers and sizes are looked at each time. Reading every id and hashing every file takes long where there are many: what
was found is remembered, and holds as long as size, times and inode of a file are what they were.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

from gpt.dataset.manifest import SPLITS, Description, Found, ShardInfo, describe, fingerprint
from gpt.dataset.masks import Mask, attach
from gpt.dataset.order import Stream
from gpt.dataset.shards import CLOCK_NS, Shard, Split
from gpt.errors import InputError
from gpt.files import read_json, write_whole
from gpt.log import Progress
from gpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt.dataset.loader import Loader, MakeSamples

SHORTEST_CONTEXT = 16  # tokens: of a split with fewer, and one more to predict, nothing is prepared or learned
REMEMBERED = ".verified.json"  # beside the shards; in the user's cache where that directory cannot be written to
FORMAT = ("gpt-verified", 1)


@dataclass(frozen=True, repr=False)
class Dataset:
    """A checked dataset: its tokenizer, its two splits, and the fingerprint of its content."""

    path: Path
    """Its directory, by which messages call it."""
    tokenizer: Tokenizer
    train: Split
    validation: Split
    fingerprint: str
    recipe: dict[str, Any]
    shards: list[ShardInfo]
    corpus_fingerprint: str | None
    """The SHA-256 over all that it was made of, as its report has it; None where nothing says it."""

    def __repr__(self) -> str:
        tokens = f"{self.train.tokens:,} tokens to train and {self.validation.tokens:,} to validate"
        return f"Dataset({self.path}: {tokens}, {self.tokenizer!r})"

    @property
    def sources(self) -> tuple["WeightedSource", ...]:
        """What it is made of: of one dataset itself, of a `Mixture` several, the heaviest first."""
        return (WeightedSource(self.path.resolve().name, self, Fraction(1)),)

    @property
    def shortest(self) -> int:
        """Tokens of the shortest split of a source."""
        return min(split.tokens for source in self.sources for split in source.splits)

    def loader(
        self,
        batch: int,
        context_length: int,
        seed: int,
        samples: "MakeSamples" = Stream,
        end_of_text: int | None = None,
    ) -> "Loader":
        """Make the loader of batches of windows from the training split, as `samples` makes them of a split.

        With `end_of_text`, batches tell documents apart.
        """
        from gpt.dataset.loader import Loader  # which loads torch: only a training needs it

        return Loader(self.train, batch, context_length, seed, samples, end_of_text)

    def require_window(self, context_length: int) -> None:
        """Raise InputError if a split is shorter than one window of `context_length` tokens and its last target."""
        for source in self.sources:
            for split in source.splits:
                if split.tokens < context_length + 1:
                    raise InputError(
                        f"{source.dataset.path}: its {split.name} split has {split.tokens:,} tokens; one window needs "
                        f"{context_length + 1:,} (model.context_length {context_length:,}, and one to predict): "
                        "use more text, or a smaller `model.context_length`"
                    )


@dataclass(frozen=True)
class WeightedSource:
    """A dataset as a part of what a run reads."""

    name: str
    dataset: Dataset
    weight: Fraction
    """Its share of the samples; those of all sources add up to 1."""

    @property
    def splits(self) -> tuple[Split, Split]:
        """Training and validation."""
        return self.dataset.train, self.dataset.validation


def open_dataset(path: str | Path, shards: list[ShardInfo] | None = None) -> Dataset:
    """Open a dataset directory, and check every shard.

    The directory holds `manifest.json` and `tokenizer.json` as `prepare` writes them; or, without a manifest,
    shards with 'train' and 'val' in their names, read with its tokenizer.json or else as GPT-2's ids.
    `shards` is what another process has found of it: then only headers and sizes are looked at here.
    Raises InputError, with path, reason and remedy, for whatever does not hold.
    """
    about = describe(Path(path))
    opened = {file: about.open(file) for file in about.splits}
    if shards is None:
        found = _scanned(about, opened)
        if about.masks:
            about.require_learned(found)
        shards = [about.info(file, opened[file], found) for file in opened if file not in about.masks]
    elif [file for info in shards for file in info.files] != [*opened]:
        raise InputError(f"{path}: holds other shards here than where the first process looks; give all the same")
    return _assembled(about.path, about.tokenizer, shards, opened, about.recipe, about.corpus_fingerprint)


def open_written(
    path: Path, tokenizer: Tokenizer, infos: list[ShardInfo], recipe: dict[str, Any], corpus: str | None
) -> Dataset:
    """Open a dataset that this process has just written: nothing is read and hashed again."""
    kinds = {file: Shard if file == info.file else Mask for info in infos for file in info.files}
    opened = {file: kind(path / file) for file, kind in kinds.items()}
    return _assembled(path, tokenizer, infos, opened, recipe, corpus)


def _assembled(
    path: Path,
    tokenizer: Tokenizer,
    infos: list[ShardInfo],
    opened: dict[str, Shard],
    recipe: dict[str, Any],
    corpus: str | None,
) -> Dataset:
    for info in infos:
        for mask in [*info.files][1:]:
            attach(opened[mask], opened[info.file])
    train, validation = (Split(name, [opened[info.file] for info in infos if info.split == name]) for name in SPLITS)
    content = fingerprint(tokenizer.fingerprint, infos)
    return Dataset(path, tokenizer, train, validation, content, recipe, infos, corpus)


# ---- what is done once ----


def scan_all(about: Description, shards: dict[str, Shard]) -> Generator[tuple[str, Found | InputError]]:
    """Read whole shards, several at a time, and say how far that is: yield what was found of each, or why not."""

    def scan(file: str) -> Found | InputError:
        try:
            found = about.scan(file, shards[file])
            about.require_intact(file, shards[file], *found)
        except InputError as fault:
            return fault
        return found

    done, total = 0, sum(shard.status.st_size for shard in shards.values()) / 1e9
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, Progress() as progress:
        progress.doing = f"checking {total:,.1f} GB of {about.path}"
        try:
            for file, found in zip(shards, pool.map(scan, shards), strict=True):
                yield file, found
                done += shards[file].status.st_size
                progress.doing = f"checked {done / 1e9:,.1f} of {total:,.1f} GB of {about.path}"
        finally:
            pool.shutdown(cancel_futures=True)


def _scanned(about: Description, shards: dict[str, Shard]) -> dict[str, Found]:
    """Find what is remembered of intact shards, and read the others whole. Raises InputError for one that is not."""
    now, found = time.time_ns(), {}
    for file, (*identity, largest, digest) in _remembered(about.path):
        if file in shards and identity == _identity(shards[file].status):
            about.require_intact(file, shards[file], largest, digest)
            found[file] = largest, digest
    unknown = {file: shard for file, shard in shards.items() if file not in found}
    if not unknown:
        return found
    try:
        with contextlib.closing(scan_all(about, unknown)) as results:
            for file, result in results:
                if isinstance(result, InputError):
                    raise result
                found[file] = result
    finally:
        remember(about.path, shards, found, now)
    return found


def _identity(status: os.stat_result) -> list[int]:
    """Tell a file from what it was before, and from another one. A copy of the old times gives another change time."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _remembered(path: Path) -> Iterator[tuple[str, list[Any]]]:
    """Yield what was remembered of each file; nothing where there is none, or it is damaged."""
    for place in _places(path):
        with contextlib.suppress(InputError):
            files = read_json(place, format=FORMAT).get("files")
            if isinstance(files, dict) and all(map(_is_entry, files.values())):
                yield from files.items()


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and [type(value) for value in entry] == [int] * 5 + [str]


def remember(path: Path, shards: dict[str, Shard], found: dict[str, Found], now: int) -> None:
    """Write down what was found of intact shards, where that can be written.

    `now`, in ns, is when they were about to be read: of what changed shortly before, times do not tell another change.
    """
    entries = {
        file: [*_identity(shards[file].status), *of_file]
        for file, of_file in found.items()
        if now - shards[file].status.st_mtime_ns > CLOCK_NS
    }
    content = json.dumps({"format": FORMAT[0], "version": FORMAT[1], "files": entries})
    for place in _places(path):
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, content)
            return


def _places(path: Path) -> list[Path]:
    """Name the files in which it may be remembered: beside the shards, and in the user's cache, if there is a home."""
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    cache = user_cache_path("gpt", appauthor=False)
    return [path / REMEMBERED, *([cache / "verified" / f"{name}.json"] if cache.is_absolute() else [])]
