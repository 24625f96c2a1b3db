"""Files of the web, kept on disk: each is whole and checked, or has another name.

1. What is here already is left alone; of the rest it is said how much it is, and whether the disk has room for it.
2. What comes is written to `.NAME.partial`, which stays when the way breaks or the program ends, and is gone on with.
3. A part is gone on with only if it is of the same version of the file: by its ETag, or by the hash that is known.
4. The whole is held against its size and SHA-256, written to NAME.sha256 (for `sha256sum -c`), and then gets its name.
"""

import contextlib
import errno
import re
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from gpt.corpus.https import RANGE_NOT_SATISFIABLE, Failed, get, new_client, persistently
from gpt.errors import InputError
from gpt.files import aside, inside, is_full, sha256, sync, write_whole
from gpt.interrupts import Interruptible
from gpt.log import Progress, log
from gpt.terminal import one_line

if TYPE_CHECKING:
    import httpx2

DIRECTORY = ".downloads"  # beside the datasets
ETAG, HASH, LOCK = ".etag", ".sha256", ".lock"
KEPT = "what was downloaded is kept, and the same command goes on from there"


@dataclass(frozen=True)
class RemoteFile:
    """A file of the web, the plain name that it gets here, and what is known of it: size in bytes, and SHA-256."""

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None


def beside(dataset: Path) -> Path:
    """Return the directory of downloads that belongs to a dataset."""
    return dataset.expanduser().parent / DIRECTORY


def missing(files: Sequence[RemoteFile], directory: Path) -> list[RemoteFile]:
    """List the files that are not in the directory, whole and checked."""
    return [file for file in files if not _is_here(file, inside(directory, file.name))]


def download(files: Sequence[RemoteFile], directory: Path, headers: Mapping[str, str] | None = None) -> list[Path]:
    """Return the paths of files in a directory, after those that are not there were downloaded, one after another.

    `headers` go to the host of each URL alone. Two processes that want the same do it once.
    Raises InputError, and leaves no file that is not whole, where that cannot be done.
    """
    paths = [inside(directory, file.name) for file in files]
    if missing(files, directory):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with Interruptible(words=KEPT), _alone(directory):
                _fetch(missing(files, directory), len(files), directory, headers or {})
        except OSError as error:
            advice = f"make room there; {KEPT}" if is_full(error) else "it must be a directory to write to"
            raise InputError(f"{directory}: {error.strerror or error}; {advice}") from None
    return paths


@contextlib.contextmanager
def _alone(directory: Path) -> Generator[None]:
    """Wait until no other process downloads to a directory, and keep others out."""
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info(f"{directory}: another process downloads to it; waiting until that has ended")
        lock.acquire()
    except NotImplementedError:
        raise OSError(errno.ENOTSUP, "has no locks (flock)") from None
    try:
        yield
    finally:
        lock.release()


def _fetch(files: Sequence[RemoteFile], of: int, directory: Path, headers: Mapping[str, str]) -> None:
    """Download files, after saying how much that is. Raises InputError where the disk has no room for them."""
    if not files:
        return
    parts = [
        _Part(file, inside(directory, file.name), f"{file.name}, {number:,} of {len(files):,}")
        for number, file in enumerate(files, 1)
    ]
    wanted = sum(max(0, (part.file.size or 0) - part.size) for part in parts)
    count = f"{len(files):,} of {of:,} files" if of > 1 else one_line(files[0].url)
    log.info(f"downloading {count}{f', {bytes_in_words(wanted)},' if wanted else ''} to {directory}")
    free = shutil.disk_usage(directory).free
    if wanted > free:
        raise InputError(
            f"{directory}: {bytes_in_words(wanted)} are to be downloaded, and {bytes_in_words(free)} are free there; "
            "make room, or write to another disk with `out`"
        )
    with new_client() as client, Progress() as progress:
        for part in parts:
            _fetch_file(client, part, headers, progress)


def _fetch_file(client: "httpx2.Client", part: "_Part", headers: Mapping[str, str], progress: Progress) -> None:
    """Download one file, check it, and give it its name. Raises InputError for content that is not what it should be.

    Where a file that came in several parts has another hash, it is downloaded once more, as one.
    """
    file = part.file
    progress.doing = f"asking for {part.called}"
    for is_last in (False, True):
        persistently(lambda: _receive(client, part, headers, progress), file.url, lambda: part.size)
        progress.doing = f"checking {part.called}"
        digest = part.digest()
        if file.sha256 in (None, digest):
            part.finish(digest)
            return
        in_parts = part.is_resumed
        part.clear()
        if is_last or not in_parts:
            break
        log.info(f"{file.url}: its parts do not fit together; downloading it anew")
    raise InputError(
        f"{file.url}: its SHA-256 is {digest}, and should be {file.sha256}: it is damaged, or another file; nothing of "
        "it was kept"
    )


def _receive(client: "httpx2.Client", part: "_Part", headers: Mapping[str, str], progress: Progress) -> None:
    """Download what is missing of a file. Raises Failed where another try may bring more."""
    file = part.file
    if not part.may_go_on:
        part.clear()
    elif part.size == file.size:
        part.is_resumed = True
        return
    asked = dict(headers)
    if part.size:
        asked |= {"Range": f"bytes={part.size}-"} | ({"If-Range": part.etag} if part.etag else {})
    with get(client, file.url, asked) as response:
        begin, whole = _extent(response, part)
        part.begin(begin, response.headers.get("ETag", ""))
        with open(part.path, "ab") as output:
            for block in response.iter_raw():
                if file.size is not None and part.size + len(block) > file.size:
                    part.clear()
                    raise InputError(f"{file.url}: has more than the {file.size:,} bytes that it should have")
                output.write(block)
                output.flush()
                part.size += len(block)
                of = f" of {bytes_in_words(whole)}" if whole is not None else ""
                progress.doing = f"downloaded {bytes_in_words(part.size)}{of}: {part.called}"
    if whole is not None and part.size < whole:
        raise Failed(f"the answer ended after {part.size:,} of {whole:,} bytes")


def _extent(response: "httpx2.Response", part: "_Part") -> tuple[int, int | None]:
    """Return at which byte of the file an answer begins, and how many the file has, if that is known.

    Raises InputError for what is not the file asked for, which a part of it outlives, and Failed where the part that is
    here is of another version.
    """
    file, headers = part.file, response.headers
    encoding = headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise InputError(f"{file.url}: comes packed ({one_line(encoding)}), though it was asked for as it is")
    begin, whole = 0, _number(headers.get("Content-Length"))
    if response.status_code != 200:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        changed = bool(part.etag) and headers.get("ETag", part.etag) != part.etag
        if response.status_code == RANGE_NOT_SATISFIABLE or found is None or int(found[1]) != part.size or changed:
            part.clear()
            raise Failed("the server has another version of it now, or sent another part than it was asked for")
        begin, whole = part.size, _number(found[2])
    if file.size is not None and whole not in (None, file.size):
        kind = one_line(headers.get("Content-Type", "of unknown type"))
        raise InputError(
            f"{file.url}: has {whole:,} bytes ({kind}), and should have {file.size:,}: it is another file, or a page "
            "that says why there is none; open it in a browser"
        )
    is_chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
    if file.size is None and whole is None and file.sha256 is None and not is_chunked:
        raise InputError(f"{file.url}: comes without its length, so that nothing tells whether all of it came")
    return begin, file.size if file.size is not None else whole


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _is_here(file: RemoteFile, path: Path) -> bool:
    """Tell whether a file was downloaded whole, by what stands beside it. The content is not read again."""
    try:
        recorded = path.with_name(path.name + HASH).read_text(encoding="utf-8").partition(" ")[0]
        size = path.stat().st_size
    except (OSError, ValueError):
        return False
    return file.size in (None, size) and file.sha256 in (None, recorded)


class _Part:
    """What is here of a file, under a name of its own; `etag` names the version of the file that it is of.

    An ETag that is weak, W/"…", is none: it does not promise the same bytes.
    """

    def __init__(self, file: RemoteFile, final: Path, called: str) -> None:
        self.file, self.called = file, called
        self.path, self._final, self._etag_path = aside(final), final, aside(final, ETAG)
        self.size = self.path.stat().st_size if self.path.exists() else 0
        self.etag = self._etag_path.read_text(encoding="utf-8") if self.size and self._etag_path.exists() else ""
        self.is_resumed = False

    @property
    def may_go_on(self) -> bool:
        """Tell whether more may be put to it, since what it is of is known; True of an empty one."""
        known = bool(self.etag or self.file.sha256)
        return not self.size or (known and (self.file.size is None or self.size <= self.file.size))

    def begin(self, size: int, etag: str) -> None:
        """Prepare for content from byte `size` on, which is the end of the part, or 0."""
        if size:
            self.is_resumed = True
            return
        self.clear()
        self.etag = etag if etag.startswith('"') else ""
        if self.etag:
            write_whole(self._etag_path, self.etag)

    def clear(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        self._etag_path.unlink(missing_ok=True)
        self.size, self.etag, self.is_resumed = 0, "", False

    def digest(self) -> str:
        """Return the SHA-256 of what is on the disk."""
        with open(self.path, "ab"):  # an empty file, too, is one
            pass
        return sha256(self.path)

    def finish(self, digest: str) -> None:
        """Record the hash, and give the part the name of the whole."""
        self._final.unlink(missing_ok=True)
        sync(self.path)
        write_whole(self._final.with_name(self._final.name + HASH), f"{digest}  {self._final.name}\n")
        self.path.replace(self._final)
        sync(self._final.parent)
        self._etag_path.unlink(missing_ok=True)


def bytes_in_words(count: int) -> str:
    """Write a number of bytes for people: '28.5 GB'."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:,} bytes"
