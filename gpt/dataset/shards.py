"""Token ids on disk: shards, written and read, and the stream of ids that several make.

A shard has the layout of llm.c and the NanoGPT speed-run: 256 little-endian int32 (magic, version, number of
tokens, zeros), then that many little-endian ids: uint16, or uint32 for vocabularies above 65,536. Also read
are nanoGPT's headerless uint16 `.bin` and one-dimensional uint16 `.npy`. A shard may have a mask (see masks.py).

Shards are read, never memory-mapped: a file that shrinks under a mapping kills the interpreter. They are opened where
they are read, and few are open at a time: a corpus may have a thousand, and a process often not more than 256 files.
"""

import errno
import hashlib
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from io import FileIO
from itertools import accumulate
from pathlib import Path, PurePath

import numpy as np

from gpt.errors import InputError

HEADER_BYTES = 256 * 4
MAGIC_16, VERSION_16 = 20240520, 1
MAGIC_32, VERSION_32 = 20240801, 7
MAGIC_MASK, VERSION_MASK = 20261128, 1
HEADS = {1: (MAGIC_MASK, VERSION_MASK), 2: (MAGIC_16, VERSION_16), 4: (MAGIC_32, VERSION_32)}  # by bytes of an entry
CHUNK_TOKENS = 1 << 21  # read at once by what goes through a whole shard
MASK = ".mask.bin"  # end of a mask's name
MOST_OPEN = 64  # files of a process
CLOCK_NS = 2_000_000_000  # to which some file systems keep times
REPAIR = "prepare the dataset again with its recipe, or restore the file"


def mask_name(shard: str) -> str:
    """Name the mask of a shard, by the names of their files."""
    return f"{PurePath(shard).stem}{MASK}"


def ids_dtype(vocab_size: int) -> np.dtype:
    """Return the type of a shard's ids that holds every id of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def write_shard(path: Path, parts: Sequence[np.ndarray]) -> str:
    """Write arrays one after another, ids of a type above as a shard or uint8 as a mask; return the file's SHA-256."""
    tokens, header = sum(map(len, parts)), np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = *HEADS[parts[0].dtype.itemsize], tokens
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in (header, *parts):
            file.write(part.data)
            digest.update(part.data)
    return digest.hexdigest()


class _File:
    """A file that is open until nobody refers to it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """Read so many bytes, or what there is of them; several threads may do so at once."""
        if hasattr(os, "pread"):
            return os.pread(self.descriptor, count, offset)
        with self._lock:  # Windows
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            return os.read(self.descriptor, count)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class _OpenFiles:
    """Opens files when they are asked for, and keeps those open that were last used, `most` at a time."""

    def __init__(self, most: int) -> None:
        self._most, self._files, self._lock = most, dict[tuple[str, int, int], _File](), threading.Lock()

    def __call__(self, path: str, status: os.stat_result) -> _File:
        """Return the file that had this status, open as long as the caller refers to it. Raises OSError."""
        key = path, status.st_dev, status.st_ino  # another one may have the path by now
        with self._lock:
            file = self._files.pop(key, None) or _File(path)
            self._files[key] = file  # as the last one
            if len(self._files) > self._most:
                del self._files[next(iter(self._files))]
            return file


_open = _OpenFiles(MOST_OPEN)


class Shard:
    """One shard: `tokens` ids that `read` returns. Raises InputError if header and size disagree."""

    def __init__(self, path: Path) -> None:
        self.path, self._place = path, str(path.absolute())  # there it is, too, after a change of directory
        self.mask: Shard | None = None
        try:
            with open(path, "rb", buffering=0) as file:
                self.status = os.fstat(file.fileno())
                self.dtype, self.offset, self.tokens = self._layout(file, self.status.st_size)
        except OSError as error:
            raise InputError(f"{path}: cannot be opened ({error.strerror}); {_remedy(error)}") from None

    def _layout(self, file: FileIO, size: int) -> tuple[np.dtype, int, int]:
        """Return (dtype, offset of the first id in bytes, number of ids)."""
        if self.path.suffix == ".npy":
            return self._numpy_layout(file, size)
        header = np.frombuffer(file.read(12).ljust(12, b"\0"), dtype="<i4")
        versions = {MAGIC_16: (VERSION_16, np.dtype("<u2")), MAGIC_32: (VERSION_32, np.dtype("<u4"))}
        if int(header[0]) not in versions:
            if size % 2 or size == 0:
                raise InputError(
                    f"{self.path}: has no shard header, and {size} bytes are no whole number of uint16 ids; {REPAIR}"
                )
            self._require_no_header(header[0], file, size)
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

    def _require_no_header(self, magic: int, file: FileIO, size: int) -> None:
        """Refuse a header of which only the magic number is unknown: the rest of it would be learned as ids."""
        file.seek(0)
        header = np.frombuffer(file.read(HEADER_BYTES), dtype="<i4") if size >= HEADER_BYTES else np.ones(4)
        if not header[3:].any() and size - HEADER_BYTES in (int(header[2]), 2 * int(header[2]), 4 * int(header[2])):
            raise InputError(
                f"{self.path}: begins with a shard's header of the magic number {magic}, and this program reads "
                f"{MAGIC_16} and {MAGIC_32}; {REPAIR}"
            )

    def _numpy_layout(self, file: FileIO, size: int) -> tuple[np.dtype, int, int]:
        try:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
        except Exception as error:  # whatever the parser of the header meets in it
            raise InputError(f"{self.path}: is not a NumPy array ({error}); {REPAIR}") from None
        if len(shape) != 1 or dtype != np.dtype("<u2"):
            raise InputError(
                f"{self.path}: holds {dtype} of shape {shape}; ids must be one-dimensional uint16; {REPAIR}"
            )
        offset = file.tell()
        if size != offset + 2 * shape[0]:
            raise InputError(
                f"{self.path}: has {size:,} bytes where its header promises {offset + 2 * shape[0]:,}; {REPAIR}"
            )
        return dtype, offset, shape[0]

    def read(self, start: int, count: int) -> np.ndarray:
        """Read ids start … start + count − 1, an array not to be written to.

        Raises InputError if the file cannot be read, or has changed or was removed since it was opened at first.
        """
        return np.frombuffer(
            self._bytes(self.offset + start * self.dtype.itemsize, count * self.dtype.itemsize), self.dtype
        )

    def scan(self) -> tuple[int, str]:
        """Compute (largest id, SHA-256 of the file), in bounded memory. Raises InputError as `read` does."""
        digest = hashlib.sha256(self._bytes(0, self.offset))
        largest = -1
        for start in range(0, self.tokens, CHUNK_TOKENS):
            ids = self.read(start, min(CHUNK_TOKENS, self.tokens - start))
            digest.update(ids.data)
            largest = max(largest, int(ids.max()))
        return largest, digest.hexdigest()

    def _bytes(self, offset: int, count: int) -> bytes:
        try:
            file = _open(self._place, self.status)
            self._require_unchanged(os.fstat(file.descriptor))
            content = file.read(offset, count)
            while len(content) < count and (more := file.read(offset + len(content), count - len(content))):
                content += more  # one call of the system gives at most 2 GB
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}); {_remedy(error)}") from None
        if len(content) < count:
            raise InputError(
                f"{self.path}: ended early while it was read: it has changed since it was opened; {REPAIR}"
            )
        return content

    def _require_unchanged(self, now: os.stat_result) -> None:
        before = self.status
        if before.st_nlink and not now.st_nlink:
            raise InputError(f"{self.path}: was removed or replaced since it was opened; {REPAIR}")
        if now.st_size != before.st_size or abs(now.st_mtime_ns - before.st_mtime_ns) > CLOCK_NS:
            raise InputError(
                f"{self.path}: has changed since it was opened ({before.st_size:,} bytes then, {now.st_size:,} now); "
                f"{REPAIR}"
            )


def _remedy(error: OSError) -> str:
    """Say what to do about a file that the system does not open or read."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "close other files, or allow more (ulimit -n)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "make it readable, or prepare the dataset again with its recipe"
    return REPAIR


class Split:
    """The shards of one split, read as one stream of `tokens` ids."""

    def __init__(self, name: str, shards: list[Shard]) -> None:
        self.name, self.shards = name, shards
        self.ends = list(accumulate(shard.tokens for shard in shards))
        self.tokens = self.ends[-1] if shards else 0
        self.is_masked = any(shard.mask is not None for shard in shards)

    def read(self, start: int, count: int) -> np.ndarray:
        """Read ids start … start + count − 1 of the stream, (count,) int64. Raises InputError as `Shard.read` does."""
        parts = [shard.read(*place) for shard, *place in self._places(start, count)]
        if len(parts) == 1:
            return parts[0].astype(np.int64)
        return np.concatenate(parts, dtype=np.int64) if parts else np.empty(0, dtype=np.int64)

    def learned(self, start: int, count: int) -> np.ndarray:
        """Tell which ids start … start + count − 1 are learned, (count,) bool: all where no shard has a mask."""
        parts = [
            shard.mask.read(*place).astype(bool) if shard.mask else np.ones(place[1], dtype=bool)
            for shard, *place in self._places(start, count)
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=bool)

    def count_learned(self, start: int, stop: int) -> int:
        """Count the ids from `start` to before `stop` that are learned."""
        if not self.is_masked:
            return stop - start
        chunks = ((begin, min(CHUNK_TOKENS, stop - begin)) for begin in range(start, stop, CHUNK_TOKENS))
        return sum(int(self.learned(*chunk).sum()) for chunk in chunks)

    def _places(self, start: int, count: int) -> Iterator[tuple[Shard, int, int]]:
        """Yield the shards that hold a part of the stream, where it begins in each, and how many ids each has of it."""
        assert start >= 0 and start + count <= self.tokens
        index = bisect_right(self.ends, start)
        while count > 0:
            shard = self.shards[index]
            local = start - (self.ends[index] - shard.tokens)
            there = min(count, shard.tokens - local)
            yield shard, local, there
            start, count, index = start + there, count - there, index + 1

    def chunks(self, end: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Go through the stream up to `end`: yield (place of the first, ids as they are on disk), in bounded memory."""
        for shard, stop in zip(self.shards, self.ends, strict=True):
            begin = stop - shard.tokens
            for start in range(0, min(stop, stop if end is None else end) - begin, CHUNK_TOKENS):
                yield begin + start, shard.read(start, min(CHUNK_TOKENS, shard.tokens - start))


class MemorySplit(Split):
    """A split whose ids are in memory."""

    def __init__(self, name: str, ids: np.ndarray) -> None:
        super().__init__(name, [])
        self.ids, self.tokens = ids, len(ids)

    def read(self, start: int, count: int) -> np.ndarray:
        assert start >= 0 and start + count <= self.tokens
        return self.ids[start : start + count].astype(np.int64)

    def chunks(self, end: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, self.ids[:end]
