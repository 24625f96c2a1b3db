"""What compressed files and archives hold, as streams; nothing of it ever gets a file with a name.

A stream ends with ValueError where its bytes are damaged, and where it unpacks to more than its `Budget` allows.
"""

import bz2
import contextlib
import importlib
import io
import lzma
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from tarfile import TarError, TarFile, TarInfo
from typing import IO, Any, BinaryIO

from gpt.corpus.documents import Notice, ReadOptions, Skipped
from gpt.corpus.executor import timed
from gpt.corpus.stage_progress import DISK
from gpt.errors import InputError

BUFFER = 1 << 20  # bytes: what a peek shows
CHUNK = 1 << 16  # bytes of compressed data that are read at once
ALWAYS_ALLOWED = 1 << 26  # bytes that anything may unpack to
IN_MEMORY = 1 << 26  # bytes of an archive in a pipe, or in another one, before it is a nameless file
SKIPPABLE = tuple(bytes([number]) + b"\x2a\x4d\x18" for number in range(0x50, 0x60))  # zstd's frames without content
MAGIC = {
    "gzip": (b"\x1f\x8b",),
    "bzip2": tuple(b"BZh%d%b" % (level, begin) for level in range(1, 10) for begin in (b"1AY&SY", b"\x17rE8P\x90")),
    "xz": (b"\xfd7zXZ\0",),
    "zstd": (b"(\xb5/\xfd", *SKIPPABLE),
}
ZIP, TAR = (b"PK\x03\x04", b"PK\x05\x06"), b"ustar"  # an empty zip, too; what tar has at byte 257
SUFFIXES = dict.fromkeys((".gz", ".bz2", ".xz", ".zst"), "")  # and what is left of a name without
SUFFIXES |= dict.fromkeys((".tgz", ".tbz2", ".txz", ".tzst"), ".tar")
HIDDEN = "hidden, or a directory of tools"
TOOL_DIRECTORIES = {"__pycache__", "node_modules", "__MACOSX"}


class TooLarge(ValueError):
    """A file unpacks to more than is allowed; nothing more is read of it."""


class Budget:
    """How many bytes all that is packed in one file may unpack to."""

    def __init__(self, ratio: int, stream: io.BufferedReader) -> None:
        """Take the size of a file, or of a pipe how much of it was read."""
        self._ratio, self._stream, self._unpacked = ratio, stream, 0
        self._size = os.fstat(stream.fileno()).st_size if isinstance(stream.raw, io.FileIO) else None

    @property
    def _packed(self) -> int:
        raw = self._stream.raw
        return self._size if self._size is not None else raw.size if isinstance(raw, ByteStream) else 0

    def spend(self, size: int) -> None:
        """Raise TooLarge once it is too much."""
        self._unpacked += size
        if self._unpacked > ALWAYS_ALLOWED and self._unpacked > self._ratio * self._packed:
            raise TooLarge(
                f"unpacks to more than {self._ratio:,} times its size, as files do that are made to fill a machine; "
                "if it is meant, allow more by `max_unpacked`"
            )


class ByteStream(io.RawIOBase):
    """A source of bytes that fills what it is asked for, and fails only after giving what came before the fault."""

    def __init__(self, read: Callable[[int], bytes], spend: Callable[[int], None] = lambda size: None) -> None:
        self._read, self._spend, self._fault = partial(timed, DISK, read), spend, None
        self.size = 0  # of what was read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view, filled = memoryview(buffer), 0
        while filled < len(view) and self._fault is None:
            try:
                piece = self._read(len(view) - filled)
                self._spend(len(piece))
            except (ValueError, OSError) as error:
                self._fault = error
            except (EOFError, zlib.error, lzma.LZMAError, TarError, RuntimeError, zipfile.BadZipFile) as error:
                self._fault = ValueError(f"damaged: {error}")
            else:
                if not piece:
                    break
                view[filled : filled + len(piece)] = piece
                filled += len(piece)
        self.size += filled
        if self._fault and not filled:
            raise self._fault
        return filled


def buffered(read: Callable[[int], bytes], budget: Budget | None = None) -> io.BufferedReader:
    """Make a stream of what reads bytes: one whose `peek` shows a megabyte."""
    return io.BufferedReader(ByteStream(read, budget.spend) if budget else ByteStream(read), BUFFER)


# ---- compressed files ----


def decompressed(
    stream: BinaryIO, name: str, compression: str, how: ReadOptions, budget: Budget, notices: list[Notice]
) -> io.BufferedReader:
    """Return the unpacked stream: all members, frames and streams, one after another.

    Raises ImportError where the library for it is not there.
    """
    new = _decompressor(compression, how)
    pieces = _members(stream, name, compression, new, how, notices)
    rest = b""

    def read(size: int) -> bytes:
        nonlocal rest
        piece = rest or next(pieces, b"")
        rest = piece[size:]
        return piece[:size]

    return buffered(read, budget)


def _decompressor(compression: str, how: ReadOptions) -> Callable[[], Any]:
    if compression == "gzip":
        return _Gunzip
    if compression == "bzip2":
        return bz2.BZ2Decompressor
    if compression == "xz":
        return lzma.LZMADecompressor
    try:
        zstd = importlib.import_module("compression.zstd")  # which Python has from 3.14 on
    except ImportError:
        zstd = importlib.import_module("backports.zstd")
    return lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: how.zstd_window})


class _Gunzip:
    """zlib's decompressor with the interface that the others have."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data


def _members(
    stream: BinaryIO, name: str, compression: str, new: Callable[[], Any], how: ReadOptions, notices: list[Notice]
) -> Iterator[bytes]:
    """Yield what is unpacked, some kilobytes at a time. Raises ValueError for data that are damaged or cut off."""
    data, member = stream.read(CHUNK), new()
    while True:
        try:
            piece = member.decompress(data, CHUNK)
        except Exception as error:  # each library has its own
            raise ValueError(_damage(compression, error, how)) from None
        data = b""
        if piece:
            yield piece
        if member.eof:
            data = member.unused_data.lstrip(b"\0")  # with which tapes are filled up
            while len(data) < 10 and (more := stream.read(CHUNK)):
                data = (data + more).lstrip(b"\0")
            if not data.startswith(MAGIC[compression]):
                break
            member = new()
        elif member.needs_input and not piece and not (data := stream.read(CHUNK)):
            raise ValueError(f"{compression}: cut off, its end is missing")
    if data:
        garbage = len(data) + sum(map(len, iter(lambda: stream.read(CHUNK), b"")))
        message = (
            f"{name}: {garbage:,} bytes after the end of what is compressed by {compression} are none of it; ignored"
        )
        notices.append(Notice("garbage after compressed data", message, warns=True))


def _damage(compression: str, error: Exception, how: ReadOptions) -> str:
    if compression == "zstd" and "memory" in str(error):
        return (
            f"zstd: its window is larger than 2^{how.zstd_window} bytes, as by zstd --long; to read it, which takes so "
            f"much memory, allow it by `zstd_window` {min(31, how.zstd_window + 4)}"
        )
    return f"{compression}: damaged ({error})"


# ---- archives ----


def seekable(stream: io.BufferedReader) -> IO[bytes]:
    """Return a stream to jump about in: a copy of what is in a pipe or an archive, in memory or a nameless file.

    Raises InputError where there is no room for that.
    """
    if isinstance(stream.raw, io.FileIO) and stream.seekable():
        stream.seek(0)
        return stream
    copy = tempfile.SpooledTemporaryFile(IN_MEMORY)
    while piece := stream.read(BUFFER):
        try:
            copy.write(piece)
        except OSError as error:
            advice = "to read what is packed in a pipe or an archive takes room there; name another place by TMPDIR"
            raise InputError(f"{tempfile.gettempdir()}: {error.strerror}; {advice}") from None
    copy.seek(0)
    return copy


def zip_entries(stream: io.BufferedReader, budget: Budget) -> Iterator[tuple[str, io.BufferedReader] | Skipped]:
    """Yield the name and content of each file in a zip archive, and what is left out of it."""
    with contextlib.closing(seekable(stream)) as file, _zip(file) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            try:
                content = archive.open(entry)
            except (RuntimeError, NotImplementedError, zipfile.BadZipFile, OSError, ValueError) as error:
                encrypted = entry.flag_bits & 1
                yield Skipped(entry.filename, "encrypted" if encrypted else f"damaged: {error}")
                continue
            with content:
                yield entry.filename, buffered(content.read, budget)


def _zip(file: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise ValueError(f"zip: damaged ({error})") from None


class _Short(io.RawIOBase):
    """Reads no more at once than is there: what lies before a fault is not lost with it."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        return self._stream.read1(size)


class _Entry(TarInfo):
    """A header of a tar archive; a damaged one is a fault, where `tarfile` would take it for the end."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> "_Entry":
        try:
            return super().fromtarfile(tarfile)
        except TarError as error:
            if type(error).__name__ not in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise
            raise ValueError(f"tar: damaged ({error})") from None


def tar_entries(stream: io.BufferedReader, budget: Budget) -> Iterator[tuple[str, io.BufferedReader] | Skipped]:
    """Yield the name and content of each file in a tar archive, which is read once, and what is left out of it."""
    try:
        archive = TarFile.open(fileobj=_Short(stream), mode="r|", tarinfo=_Entry)
        while entry := archive.next():
            vars(archive)["members"] = []  # or it would keep them all
            if entry.isreg():
                content = archive.extractfile(entry)
                assert content is not None
                yield entry.name, buffered(content.read, budget)
            elif not entry.isdir():
                kind = f"a link to {entry.linkname}" if entry.islnk() or entry.issym() else "not a regular file"
                yield Skipped(entry.name, kind)
    except TarError as error:
        raise ValueError(f"tar: damaged ({error})") from None


def entry_name(name: str) -> tuple[str, ...]:
    """Return the parts of an entry's name, without what would lead out of its archive."""
    return tuple(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".", ".."))


def hidden(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the outermost part of a path that is hidden, with what is above it; nothing of a path that is not."""
    for depth, part in enumerate(parts):
        if part.startswith(".") or part in TOOL_DIRECTORIES:
            return parts[: depth + 1]
    return ()
