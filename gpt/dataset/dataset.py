"""A dataset on disk: manifest, tokenizer and shards, opened so that nothing wrong in it reaches the model."""

import concurrent.futures
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt.dataset.manifest import SPLITS, ShardInfo, fingerprint, foreign_manifest, read_manifest
from gpt.dataset.shards import REPAIR, Shard, Split
from gpt.errors import InputError
from gpt.log import log
from gpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Dataset:
    """A checked dataset: its tokenizer, its two splits, and the fingerprint of its content."""

    path: Path
    tokenizer: Tokenizer
    train: Split
    validation: Split
    fingerprint: str
    recipe: dict[str, Any]

    def require_window(self, context_length: int) -> None:
        """Raise InputError if a split is shorter than one window of `context_length` tokens and its last target."""
        for split in (self.train, self.validation):
            if split.tokens < context_length + 1:
                raise InputError(
                    f"{self.path}: its {split.name} split has {split.tokens:,} tokens; one window needs "
                    f"{context_length + 1:,} (model.context_length {context_length:,}, and one to predict): "
                    "use more text, or a smaller `model.context_length`"
                )


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset directory, and check every shard.

    The directory holds `manifest.json` and `tokenizer.json` as `prepare` writes them; or, without a manifest,
    shards with 'train' and 'val' in their names, read with its tokenizer.json or else as GPT-2's ids.
    Raises InputError, with path, reason and remedy, for whatever does not hold.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists() and (near := Path("data") / path.name).is_dir():
            raise InputError(f"{path}: there is no dataset here; did you mean {near}?")
        where = "" if path.is_absolute() else f" (below {Path.cwd()}; `data` names one elsewhere)"
        raise InputError(
            f"{path}: there is no dataset here{where}; prepare one, such as by: "
            "gpt prepare files --input YOUR_TEXT --name NAME"
        )
    has_manifest = (path / "manifest.json").exists()
    manifest = read_manifest(path) if has_manifest else foreign_manifest(path)
    has_tokenizer = has_manifest or (path / "tokenizer.json").exists()
    if not has_tokenizer:
        if (path / "meta.pkl").exists():
            raise InputError(
                f"{path}: has nanoGPT's meta.pkl, a vocabulary of its own that is pickled and so is not read; "
                "prepare the text again: gpt prepare files --input TEXT --name NAME --tokenizer char"
            )
        log.warning(f"{path}: has no tokenizer.json; its ids are taken for GPT-2's")
    tokenizer = Tokenizer.load(path / "tokenizer.json") if has_tokenizer else Tokenizer.gpt2()
    if has_manifest and manifest["tokenizer_fingerprint"] != tokenizer.fingerprint:
        raise InputError(f"{path}: manifest.json was written with another tokenizer than tokenizer.json; {REPAIR}")
    infos = [ShardInfo(**info) for info in manifest["shards"]]
    shards = [_open_shard(path, info) for info in infos]
    found = [(info.largest_id, info.sha256) for info in infos]
    if has_manifest:  # of others' shards it was found just now
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            found = list(pool.map(Shard.scan, shards))
    for shard, info, (largest, digest) in zip(shards, infos, found, strict=True):
        _require_intact(shard, info, largest, digest, tokenizer.vocab_size)
    return _assembled(path, tokenizer, infos, shards, manifest.get("recipe", {}))


def open_written(path: Path, tokenizer: Tokenizer, infos: list[ShardInfo], recipe: dict[str, Any]) -> Dataset:
    """Open a dataset that this process has just written: nothing is read and hashed again."""
    return _assembled(path, tokenizer, infos, [_open_shard(path, info) for info in infos], recipe)


def _assembled(
    path: Path, tokenizer: Tokenizer, infos: list[ShardInfo], shards: list[Shard], recipe: dict[str, Any]
) -> Dataset:
    train, validation = (
        Split(name, [shard for shard, info in zip(shards, infos, strict=True) if info.split == name]) for name in SPLITS
    )
    return Dataset(path, tokenizer, train, validation, fingerprint(tokenizer.fingerprint, infos), recipe)


def _open_shard(path: Path, info: ShardInfo) -> Shard:
    shard = Shard(path / info.file)
    if shard.tokens != info.tokens:
        raise InputError(
            f"{shard.path}: holds {shard.tokens:,} tokens where manifest.json says {info.tokens:,}; {REPAIR}"
        )
    return shard


def _require_intact(shard: Shard, info: ShardInfo, largest: int, digest: str, vocab_size: int) -> None:
    """Raise InputError unless the ids are of the vocabulary, and the file's SHA-256 is the manifest's."""
    if largest >= vocab_size:
        raise InputError(
            f"{shard.path}: holds the id {largest:,}, outside the tokenizer's vocabulary of {vocab_size:,}: "
            f"it was written with another tokenizer; {REPAIR}"
        )
    if digest != info.sha256:
        raise InputError(
            f"{shard.path}: its SHA-256 is not the one in manifest.json: the file is damaged or was replaced; {REPAIR}"
        )
