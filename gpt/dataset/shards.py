"""Token ids on disk: shards, written and read, and the stream of ids that several make.

A shard has the layout of llm.c and the NanoGPT speed-run: 256 little-endian int32 (magic, version, number of
tokens, zeros), then that many little-endian ids: uint16, or uint32 for vocabularies above 65,536. Also read
are nanoGPT's headerless uint16 `.bin` and one-dimensional uint16 `.npy`.

Shards are read, never memory-mapped: a file that shrinks under a mapping kills the interpreter.
"""

import hashlib
import os
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np

from gpt.errors import InputError

HEADER_BYTES = 256 * 4
MAGIC_16, VERSION_16 = 20240520, 1
MAGIC_32, VERSION_32 = 20240801, 7
CHUNK_BYTES = 1 << 22  # read at once while checking
REPAIR = "prepare the dataset again with its recipe, or restore the file"


def ids_dtype(vocab_size: int) -> np.dtype:
    """Return the type of a shard's ids that holds every id of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def write_shard(path: Path, ids: np.ndarray) -> str:
    """Write ids, (N,) of one of the types above, as a shard, and return the file's SHA-256."""
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = (MAGIC_16, VERSION_16, len(ids)) if ids.dtype.itemsize == 2 else (MAGIC_32, VERSION_32, len(ids))
    content = header.tobytes() + ids.tobytes()
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


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
        """Return (dtype, offset of the first id in bytes, number of ids)."""
        if self.path.suffix == ".npy":
            return self._numpy_layout(size)
        header = np.frombuffer(self._file.read(12).ljust(12, b"\0"), dtype="<i4")
        versions = {MAGIC_16: (VERSION_16, np.dtype("<u2")), MAGIC_32: (VERSION_32, np.dtype("<u4"))}
        if int(header[0]) not in versions:
            if size % 2 or size == 0:
                raise InputError(
                    f"{self.path}: has no shard header, and {size} bytes are no whole number of uint16 ids; {REPAIR}"
                )
            return np.dtype("<u2"), 0, size // 2  # nanoGPT's: nothing but ids
        version, dtype = versions[int(header[0])]
        if header[1] != version:
            raise InputError(
                f"{self.path}: is a shard of version {header[1]}, and this program reads version {version}; {REPAIR}"
            )
        tokens = int(header[2])
        if tokens < 0 or size != HEADER_BYTES + tokens * dtype.itemsize:
            wanted = HEADER_BYTES + tokens * dtype.itemsize
            raise InputError(
                f"{self.path}: has {size:,} bytes where its header promises {wanted:,} ({tokens:,} tokens); {REPAIR}"
            )
        return dtype, HEADER_BYTES, tokens

    def _numpy_layout(self, size: int) -> tuple[np.dtype, int, int]:
        try:
            version = np.lib.format.read_magic(self._file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(self._file)
        except Exception as error:  # whatever the parser of the header meets in it
            raise InputError(f"{self.path}: is not a NumPy array ({error}); {REPAIR}") from None
        if len(shape) != 1 or dtype != np.dtype("<u2"):
            raise InputError(
                f"{self.path}: holds {dtype} of shape {shape}; ids must be one-dimensional uint16; {REPAIR}"
            )
        offset = self._file.tell()
        if size != offset + 2 * shape[0]:
            raise InputError(
                f"{self.path}: has {size:,} bytes where its header promises {offset + 2 * shape[0]:,}; {REPAIR}"
            )
        return dtype, offset, shape[0]

    def read(self, start: int, count: int) -> np.ndarray:
        """Read ids start … start + count − 1. Raise InputError if the file has shrunk since it was opened."""
        self._file.seek(self.offset + start * self.dtype.itemsize)
        ids = np.empty(count, dtype=self.dtype)
        if self._file.readinto(ids.data) != ids.nbytes:
            raise InputError(
                f"{self.path}: ended early while it was read: it has changed since it was opened; {REPAIR}"
            )
        return ids

    def scan(self) -> tuple[int, str]:
        """Compute (largest id, SHA-256 of the file), in bounded memory."""
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
        """Read ids start … start + count − 1 of the stream, (count,) int64."""
        assert start >= 0 and start + count <= self.tokens
        parts = []
        index = bisect_right(self.ends, start)
        while count > 0:
            shard = self.shards[index]
            local = start - (self.ends[index] - shard.tokens)
            parts.append(shard.read(local, min(count, shard.tokens - local)))
            start, count, index = start + len(parts[-1]), count - len(parts[-1]), index + 1
        return np.concatenate(parts, dtype=np.int64) if parts else np.empty(0, dtype=np.int64)
