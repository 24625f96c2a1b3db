"""A dataset on disk: manifest, tokenizer and shards, opened so that nothing wrong in it reaches the model."""

import concurrent.futures
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt.errors import InputError
from gpt.files import inside, read_json
from gpt.tokens.shards import REMEDY, Shard, Split
from gpt.tokens.tokenizer import Tokenizer

MANIFEST_VERSION = 1
SPLITS = ("train", "validation")
SPLIT_WORD = re.compile(r"(?<![A-Za-z])(train|val)")  # of a file's name; the last one counts: constrained_val_0.bin
FEWEST_IDS, MOST_IDS = 64, 1_000_000  # looked at to tell uint16 from uint32


@dataclass(frozen=True)
class ShardInfo:
    """What the manifest says of one shard."""

    file: str
    split: str
    tokens: int
    documents: int
    text_bytes: int
    largest_id: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """A checked dataset: its tokenizer, its two splits, and the fingerprint of its content."""

    path: Path
    tokenizer: Tokenizer
    train: Split
    validation: Split
    fingerprint: str
    recipe: dict[str, Any]

    def require_window(self, context: int) -> None:
        """Raises InputError if a split is shorter than one window of `context` tokens and its last target."""
        for split in (self.train, self.validation):
            if split.tokens < context + 1:
                raise InputError(
                    f"{self.path}: its {split.name} split has {split.tokens:,} tokens; one window needs "
                    f"{context + 1:,} (model.context {context:,}, and one to predict): "
                    "use more text, or a smaller --model.context"
                )


def open_dataset(path: Path, say: Callable[[str], None] = print) -> Dataset:
    """Open and check every shard of a dataset directory.

    The directory holds `manifest.json` and `tokenizer.json` as `prepare` writes them; or, without a manifest,
    shards with 'train' and 'val' in their names, read with its tokenizer.json or else as GPT-2's ids.
    Raises InputError, with path, reason and remedy, for whatever does not hold.
    """
    if not path.is_dir():
        where = "" if path.is_absolute() else f" (below {Path.cwd()}; --data names one elsewhere)"
        raise InputError(
            f"{path}: there is no dataset here{where}; prepare one with a recipe, such as: "
            "python data/textfiles.py --input YOUR_TEXT --name NAME"
        )
    has_manifest = (path / "manifest.json").exists()
    manifest = _read_manifest(path) if has_manifest else _foreign_manifest(path)
    has_tokenizer = has_manifest or (path / "tokenizer.json").exists()
    if not has_tokenizer:
        if (path / "meta.pkl").exists():
            raise InputError(
                f"{path}: has nanoGPT's meta.pkl, a vocabulary of its own that is pickled and so is not read; "
                "prepare the text with a recipe of ours, such as data/textfiles.py --tokenizer char"
            )
        say(f"{path}: has no tokenizer.json; its ids are taken for GPT-2's")
    tokenizer = Tokenizer.load(path / "tokenizer.json") if has_tokenizer else Tokenizer.gpt2()
    if has_manifest and manifest["tokenizer_fingerprint"] != tokenizer.fingerprint:
        raise InputError(f"{path}: manifest.json was written with another tokenizer than tokenizer.json; {REMEDY}")
    infos = [ShardInfo(**info) for info in manifest["shards"]]
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        shards = list(pool.map(lambda info: _open_checked(path, info, tokenizer.vocab_size), infos))
    splits = {
        name: Split(name, [shard for shard, info in zip(shards, infos, strict=True) if info.split == name])
        for name in SPLITS
    }
    content = json.dumps([tokenizer.fingerprint, [asdict(info) for info in infos]], sort_keys=True)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    return Dataset(path, tokenizer, splits["train"], splits["validation"], fingerprint, manifest.get("recipe", {}))


def write_manifest(path: Path, tokenizer: Tokenizer, shards: list[ShardInfo], recipe: dict[str, Any]) -> None:
    manifest = {
        "format": "gpt-dataset",
        "version": MANIFEST_VERSION,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "shards": [asdict(shard) for shard in shards],
        "recipe": recipe,
    }
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    manifest = read_json(file, "a manifest", REMEDY)
    try:
        if manifest["version"] != MANIFEST_VERSION:
            raise InputError(
                f"{file}: is of version {manifest['version']}, and this program reads {MANIFEST_VERSION}; {REMEDY}"
            )
        for info in manifest["shards"]:
            if {key: type(value) for key, value in info.items()} != ShardInfo.__annotations__:
                raise TypeError(f"a shard is described by {info}")
            if info["split"] not in SPLITS:
                raise TypeError(f"a shard is of the split {info['split']!r}")
            inside(path, info["file"])
        names = [info["file"] for info in manifest["shards"]]
        if len(set(names)) < len(names):
            raise TypeError("a shard is named twice")
        manifest["tokenizer_fingerprint"]
        if not isinstance(manifest.get("recipe", {}).get("sample_prompt", ""), str):
            raise TypeError("its sample_prompt is no text")
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file}: cannot be read as a manifest ({error!r}); {REMEDY}") from None
    return manifest


def _foreign_manifest(path: Path) -> dict[str, Any]:
    """The manifest of shards that other programs wrote: nanoGPT, llm.c, the NanoGPT speed-run."""
    shards = []
    for file in sorted([*path.glob("*.bin"), *path.glob("*.npy")]):
        words = SPLIT_WORD.findall(file.name)
        if words and file.is_file() and not file.name.endswith(".mask.bin"):
            split = "train" if words[-1] == "train" else "validation"
            shard = Shard(file)
            _require_uint16(shard)
            largest, digest = shard.scan()
            shards.append(asdict(ShardInfo(file.name, split, shard.tokens, 0, 0, largest, digest)))
    if not shards:
        raise InputError(
            f"{path}: holds neither a manifest.json nor shards with 'train' and 'val' in their names (.bin, .npy)"
        )
    return {"shards": shards}


def _require_uint16(shard: Shard) -> None:
    """Refuse uint32 ids without a header: read as uint16 they are ids all the same, every second one about 0."""
    if shard.offset or shard.tokens < FEWEST_IDS:
        return
    ids = shard.read(0, min(shard.tokens, MOST_IDS) // 2 * 2)
    low, high = int(ids[0::2].max()), int(ids[1::2].max())
    if high == 0 < low or (high < 64 and low >= 1 << 15):  # ids of at most 65,535; or of 4 million
        raise InputError(
            f"{shard.path}: seems to hold uint32 ids, and has no header that says so: as uint16, every second id is "
            "about 0; write it as uint16, or with a shard's header (256 int32: 20240801, 7, number of tokens, zeros)"
        )


def _open_checked(path: Path, info: ShardInfo, vocab_size: int) -> Shard:
    shard = Shard(path / info.file)
    if shard.tokens != info.tokens:
        raise InputError(
            f"{shard.path}: holds {shard.tokens:,} tokens where manifest.json says {info.tokens:,}; {REMEDY}"
        )
    largest, digest = shard.scan()
    if largest >= vocab_size:
        raise InputError(
            f"{shard.path}: holds the id {largest:,}, outside the tokenizer's vocabulary of {vocab_size:,}: "
            f"it was written with another tokenizer; {REMEDY}"
        )
    if digest != info.sha256:
        raise InputError(
            f"{shard.path}: its SHA-256 is not the one in manifest.json: the file is damaged or was replaced; {REMEDY}"
        )
    return shard
