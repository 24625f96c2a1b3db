"""What a dataset says of itself: manifest.json, or what can be told of shards that other programs wrote."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt.dataset.shards import REPAIR, Shard
from gpt.errors import InputError
from gpt.files import inside, read_json
from gpt.text.tokenizer import Tokenizer

MANIFEST_VERSION = 1
SPLITS = ("train", "validation")
SPLIT_WORD = re.compile(r"(?<![A-Za-z])(train|val)")  # of a file's name; the last one counts: constrained_val_0.bin
MIN_IDS, MAX_IDS = 64, 1_000_000  # looked at to tell uint16 from uint32


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


def write_manifest(path: Path, tokenizer: Tokenizer, shards: list[ShardInfo], recipe: dict[str, Any]) -> None:
    """Describe the dataset of a directory in its manifest.json."""
    manifest = {
        "format": "gpt-dataset",
        "version": MANIFEST_VERSION,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "shards": [asdict(shard) for shard in shards],
        "recipe": recipe,
    }
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def fingerprint(tokenizer_fingerprint: str, shards: list[ShardInfo]) -> str:
    """Return the SHA-256 that names a dataset's content: equal for equal ids of equal tokenizers in equal shards."""
    content = json.dumps([tokenizer_fingerprint, [asdict(shard) for shard in shards]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a dataset's manifest.json. Raises InputError for one that is damaged, or of another version."""
    file = path / "manifest.json"
    manifest = read_json(file, "a manifest", REPAIR)
    try:
        if manifest["version"] != MANIFEST_VERSION:
            raise InputError(
                f"{file}: is of version {manifest['version']}, and this program reads {MANIFEST_VERSION}; {REPAIR}"
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
        raise InputError(f"{file}: cannot be read as a manifest ({error!r}); {REPAIR}") from None
    return manifest


def foreign_manifest(path: Path) -> dict[str, Any]:
    """Describe shards that other programs wrote, as a manifest would: nanoGPT's, llm.c's, the NanoGPT speed-run's.

    Raises InputError if there are none, or if they are not what they seem.
    """
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
    if shard.offset or shard.tokens < MIN_IDS:
        return
    ids = shard.read(0, min(shard.tokens, MAX_IDS) // 2 * 2)
    low, high = int(ids[0::2].max()), int(ids[1::2].max())
    if high == 0 < low or (high < 64 and low >= 1 << 15):  # ids of at most 65,535; or of 4 million
        raise InputError(
            f"{shard.path}: seems to hold uint32 ids, and has no header that says so: as uint16, every second id is "
            "about 0; write it as uint16, or with a shard's header (256 int32: 20240801, 7, number of tokens, zeros)"
        )
