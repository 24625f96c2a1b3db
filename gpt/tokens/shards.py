"""Token ids on disk: writing shards, and opening a dataset so that nothing wrong in it reaches the model.

A shard has the layout of llm.c and the NanoGPT speed-run: 256 little-endian int32 (magic, version, number of
tokens, zeros), then that many little-endian ids: uint16, or uint32 for vocabularies above 65,536. Also read
are nanoGPT's headerless uint16 `.bin` and one-dimensional uint16 `.npy`.

Shards are read, never memory-mapped: a file that shrinks under a mapping kills the interpreter.
"""

import concurrent.futures
import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from gpt.errors import InputError
from gpt.tokens.tokenizer import Tokenizer

HEADER_BYTES = 256 * 4
MAGIC_16, VERSION_16 = 20240520, 1
MAGIC_32, VERSION_32 = 20240801, 7
MANIFEST_VERSION = 1
SPLITS = ("train", "validation")
CHUNK_BYTES = 1 << 22  # read at once while checking
REMEDY = "prepare the dataset again with its recipe, or restore the file"


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


class ShardWriter:
    """Writes one split as a stream of ids cut into shards of `shard_tokens` tokens.

    An end-of-text stands between documents where the tokenizer has one. Use `add`, then `close`.
    """

    def __init__(self, directory: Path, split: str, tokenizer: Tokenizer, shard_tokens: int = 100_000_000) -> None:
        self.directory, self.split, self.tokenizer, self.shard_tokens = directory, split, tokenizer, shard_tokens
        self.dtype = np.dtype("<u2") if tokenizer.vocab_size <= 65_536 else np.dtype("<u4")
        self.shards: list[ShardInfo] = []
        self.documents = 0
        self._lengths = tokenizer.byte_lengths()
        self._pending: list[np.ndarray] = []
        self._pending_tokens = self._pending_documents = self._pending_bytes = 0

    def add(self, ids: Sequence[int] | np.ndarray) -> None:
        """Add one document. Raises InputError for an id outside the vocabulary, which a cast would wrap silently."""
        separator = [] if self.documents == 0 or self.tokenizer.end_of_text is None else [self.tokenizer.end_of_text]
        document = np.concatenate([np.array(separator, dtype=np.int64), np.asarray(ids, dtype=np.int64)])
        if len(document) and (document.min() < 0 or document.max() >= self.tokenizer.vocab_size):
            raise InputError(
                f"{self.split}: token ids from {document.min()} to {document.max()} do not fit a vocabulary of "
                f"{self.tokenizer.vocab_size}"
            )
        self.documents += 1
        self._pending_documents += 1
        while len(document):
            part, document = np.split(document, [self.shard_tokens - self._pending_tokens])
            self._pending.append(part.astype(self.dtype))
            self._pending_tokens += len(part)
            self._pending_bytes += int(self._lengths[part].sum())
            if self._pending_tokens == self.shard_tokens:
                self._write()

    def close(self) -> list[ShardInfo]:
        if self._pending_tokens:
            self._write()
        return self.shards

    def _write(self) -> None:
        ids = np.concatenate(self._pending)
        header = np.zeros(256, dtype="<i4")
        header[:3] = (MAGIC_16, VERSION_16, len(ids)) if self.dtype.itemsize == 2 else (MAGIC_32, VERSION_32, len(ids))
        content = header.tobytes() + ids.tobytes()
        name = f"{self.split}-{len(self.shards):05d}.bin"
        (self.directory / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        documents, text_bytes = self._pending_documents, self._pending_bytes
        self.shards.append(ShardInfo(name, self.split, len(ids), documents, text_bytes, int(ids.max()), digest))
        self._pending = []
        self._pending_tokens = self._pending_documents = self._pending_bytes = 0


class Shard:
    """One open shard: `tokens` ids that `read` returns. Raises InputError if header and size disagree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open(path, "rb", buffering=0)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be opened ({error.strerror}); prepare the dataset again with its recipe"
            ) from None
        self.dtype, self.offset, self.tokens = self._layout(os.fstat(self._file.fileno()).st_size)

    def _layout(self, size: int) -> tuple[np.dtype, int, int]:
        """(dtype, offset of the first id in bytes, number of ids)."""
        if self.path.suffix == ".npy":
            return self._numpy_layout(size)
        header = np.frombuffer(self._file.read(12).ljust(12, b"\0"), dtype="<i4")
        versions = {MAGIC_16: (VERSION_16, np.dtype("<u2")), MAGIC_32: (VERSION_32, np.dtype("<u4"))}
        if int(header[0]) not in versions:
            if size % 2 or size == 0:
                raise InputError(
                    f"{self.path}: has no shard header, and {size} bytes are no whole number of uint16 ids; {REMEDY}"
                )
            return np.dtype("<u2"), 0, size // 2  # nanoGPT's: nothing but ids
        version, dtype = versions[int(header[0])]
        if header[1] != version:
            raise InputError(
                f"{self.path}: is a shard of version {header[1]}, and this program reads version {version}; {REMEDY}"
            )
        tokens = int(header[2])
        if size != HEADER_BYTES + tokens * dtype.itemsize:
            wanted = HEADER_BYTES + tokens * dtype.itemsize
            raise InputError(
                f"{self.path}: has {size:,} bytes where its header promises {wanted:,} ({tokens:,} tokens); {REMEDY}"
            )
        return dtype, HEADER_BYTES, tokens

    def _numpy_layout(self, size: int) -> tuple[np.dtype, int, int]:
        try:
            version = np.lib.format.read_magic(self._file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(self._file)
        except ValueError as error:
            raise InputError(f"{self.path}: is not a NumPy array ({error}); {REMEDY}") from None
        if len(shape) != 1 or dtype != np.dtype("<u2"):
            raise InputError(
                f"{self.path}: holds {dtype} of shape {shape}; ids must be one-dimensional uint16; {REMEDY}"
            )
        offset = self._file.tell()
        if size != offset + 2 * shape[0]:
            raise InputError(
                f"{self.path}: has {size:,} bytes where its header promises {offset + 2 * shape[0]:,}; {REMEDY}"
            )
        return dtype, offset, shape[0]

    def read(self, start: int, count: int) -> np.ndarray:
        """Ids start … start + count − 1. Raises InputError if the file has shrunk since it was opened."""
        self._file.seek(self.offset + start * self.dtype.itemsize)
        ids = np.empty(count, dtype=self.dtype)
        if self._file.readinto(ids.view(np.uint8)) != ids.nbytes:  # ty: ignore[invalid-argument-type]
            raise InputError(
                f"{self.path}: ended early while it was read: it has changed since it was opened; {REMEDY}"
            )
        return ids

    def scan(self) -> tuple[int, str]:
        """(largest id, SHA-256 of the file), in bounded memory."""
        self._file.seek(0)
        digest = hashlib.sha256(self._file.read(self.offset))
        largest = -1
        while chunk := self._file.read(CHUNK_BYTES):
            digest.update(chunk)
            largest = max(largest, int(np.frombuffer(chunk, dtype=self.dtype).max()))
        return largest, digest.hexdigest()


class Split:
    """The shards of one split, read as one stream of `tokens` ids."""

    def __init__(self, name: str, shards: list[Shard]) -> None:
        self.name, self.shards = name, shards
        self.ends = list(accumulate(shard.tokens for shard in shards))
        self.tokens = self.ends[-1] if shards else 0

    def read(self, start: int, count: int) -> np.ndarray:
        """Ids start … start + count − 1 of the stream, (count,) int64."""
        assert start >= 0 and start + count <= self.tokens
        parts = []
        index = bisect_right(self.ends, start)
        while count > 0:
            shard = self.shards[index]
            local = start - (self.ends[index] - shard.tokens)
            parts.append(shard.read(local, min(count, shard.tokens - local)))
            start, count, index = start + len(parts[-1]), count - len(parts[-1]), index + 1
        return np.concatenate(parts, dtype=np.int64) if parts else np.empty(0, dtype=np.int64)


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
        raise InputError(
            f"{path}: there is no dataset here; prepare one with a recipe, such as: "
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
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if manifest["version"] != MANIFEST_VERSION:
            raise InputError(
                f"{file}: is of version {manifest['version']}, and this program reads {MANIFEST_VERSION}; {REMEDY}"
            )
        for info in manifest["shards"]:
            if {key: type(value) for key, value in info.items()} != ShardInfo.__annotations__:
                raise TypeError(f"a shard is described by {info}")
        manifest["tokenizer_fingerprint"]
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: cannot be read as a manifest ({error!r}); {REMEDY}") from None
    return manifest


def _foreign_manifest(path: Path) -> dict[str, Any]:
    """The manifest of shards that other programs wrote: nanoGPT, llm.c, the NanoGPT speed-run."""
    shards = []
    for file in sorted([*path.glob("*.bin"), *path.glob("*.npy")]):
        split = "train" if "train" in file.name else "validation" if "val" in file.name else None
        if split and not file.name.endswith(".mask.bin"):
            shard = Shard(file)
            largest, digest = shard.scan()
            shards.append(asdict(ShardInfo(file.name, split, shard.tokens, 0, 0, largest, digest)))
    if not shards:
        raise InputError(
            f"{path}: holds neither a manifest.json nor shards with 'train' and 'val' in their names (.bin, .npy)"
        )
    return {"shards": shards}


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
