"""Datasets of the Hugging Face hub: which files a folder of one holds, at a commit, and the files themselves.

What a commit holds never changes, so that the list is kept beside the files, and the hub is asked once. HF_ENDPOINT,
HF_TOKEN, the token of `hf auth login` and HF_HUB_OFFLINE are heard, as the hub's own library has them.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from gpt.corpus.download import RemoteFile, download, missing
from gpt.corpus.https import get, new_client, persistently
from gpt.errors import InputError
from gpt.files import parse_json, read_json, write_whole

if TYPE_CHECKING:
    import httpx2

LISTING = ".listing.json"
FORMAT = ("hub-listing", 1)
COMMIT = re.compile("[0-9a-f]{40}")
SHA256 = re.compile("[0-9a-f]{64}")
MAX_PAGES = 100  # of a thousand files each


@dataclass(frozen=True)
class Folder:
    """The files of a dataset's folder, at a commit, in the order of their names, and where they are kept."""

    repository: str
    commit: str
    files: list[RemoteFile]
    directory: Path

    def names(self, suffix: str) -> list[str]:
        """List the files whose names end so. Raises InputError if there are none."""
        found = [file.name for file in self.files if file.name.endswith(suffix)]
        if not found:
            raise InputError(f"{self.repository}: has no {suffix} there at {self.commit}; choose another `revision`")
        return found

    def chosen(self, names: list[str]) -> list[RemoteFile]:
        """Return the files of some names. Raises InputError for one that is not there."""
        there = {file.name: file for file in self.files}
        for name in names:
            if name not in there:
                raise InputError(f"{self.repository}: has no {name} at {self.commit}; choose another `revision`")
        return [there[name] for name in names]

    def fetch(self, names: list[str]) -> list[Path]:
        """Return the paths of some files, after downloading what is not here. Raises InputError if that fails."""
        files = self.chosen(names)
        self._keep_list()
        if missing(files, self.directory):
            _require_online(self.repository)
        return download(files, self.directory, _authorization(_endpoint()))

    def _keep_list(self) -> None:
        """Write down which files there are, beside them, so that the hub need not be asked again."""
        listing = self.directory / LISTING
        if listing.exists():
            return
        entries = [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in self.files]
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_whole(listing, json.dumps({"format": FORMAT[0], "version": FORMAT[1], "files": entries}, indent=1))
        except OSError as error:
            raise InputError(f"{self.directory}: cannot be written ({error.strerror})") from None


def list_folder(repository: str, revision: str, folder: str, downloads: Path) -> Folder:
    """List the files of a dataset's folder ('' is its top) at a commit, a branch or a tag. Nothing is written.

    Raises InputError for a revision or folder that is not there, and where the hub cannot be asked.
    """
    commit = revision
    if not COMMIT.fullmatch(revision):
        _require_online(repository)
        with new_client() as client:
            commit = _commit_of(client, repository, revision)
    directory = downloads / "/".join(name.replace("/", "--") for name in (repository, commit, folder))
    listing = directory / LISTING
    if listing.exists():
        kept = read_json(listing, "a list of the hub's files", "remove it", FORMAT)
    else:
        _require_online(repository)
        with new_client() as client:
            kept = {"files": sorted(_entries(client, repository, commit, folder), key=lambda entry: entry["name"])}
    base = "/".join(filter(None, [_endpoint(), "datasets", repository, "resolve", commit, folder]))
    try:
        files = [RemoteFile(f"{base}/{quote(entry['name'])}", **entry) for entry in kept["files"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{listing}: cannot be read as a list of the hub's files ({error!r}); remove it") from None
    return Folder(repository, commit, files, directory)


def _commit_of(client: "httpx2.Client", repository: str, revision: str) -> str:
    """Ask which commit a branch or tag is at."""
    url = f"{_endpoint()}/api/datasets/{repository}/revision/{quote(revision, safe='')}"
    answer, _ = _ask(client, url)
    commit = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise _no_hub(url, "it names no commit")
    return commit


def _entries(client: "httpx2.Client", repository: str, commit: str, folder: str) -> Iterator[dict[str, Any]]:
    """Ask what files there are: yield name, size and, of those that Git LFS keeps (all large ones), SHA-256."""
    first = url = "/".join(filter(None, [f"{_endpoint()}/api/datasets/{repository}/tree/{commit}", folder]))
    for _ in range(MAX_PAGES):
        answer, following = _ask(client, url)
        try:
            for entry in answer:
                if entry["type"] == "file":
                    digest = entry["lfs"]["oid"] if entry.get("lfs") else None
                    if digest is not None and not SHA256.fullmatch(digest):
                        raise ValueError(f"{digest} is no SHA-256")
                    yield {"name": PurePosixPath(entry["path"]).name, "size": int(entry["size"]), "sha256": digest}
        except (TypeError, KeyError, ValueError) as error:
            raise _no_hub(url, repr(error)) from None
        if following is None:
            return
        url = urljoin(url, following)
    raise InputError(f"{first}: lists its files on more than {MAX_PAGES} pages")


def _ask(client: "httpx2.Client", url: str) -> tuple[Any, str | None]:
    """Return what the hub's API answers, and where its next page is. Raises InputError."""

    def attempt() -> tuple[bytes, str | None]:
        with get(client, url, _authorization(url)) as response:
            return response.read(), response.links.get("next", {}).get("url")

    content, following = persistently(attempt, url)
    try:
        return parse_json(content), following
    except ValueError as error:
        raise _no_hub(url, error) from None


def _no_hub(url: str, reason: object) -> InputError:
    return InputError(f"{url}: does not answer as the Hugging Face hub does ({reason}); look at HF_ENDPOINT")


def _require_online(repository: str) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{repository}: is not all here, and HF_HUB_OFFLINE forbids to ask the hub for it; unset it")


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT.rstrip("/")


def _authorization(url: str) -> dict[str, str]:
    """Return the header with the user's token: for the hub alone, and not in the clear."""
    from huggingface_hub import get_token

    is_hub = urlsplit(url)[:2] == urlsplit(_endpoint())[:2] and url.startswith("https:")
    token = get_token() if is_hub else None
    return {"Authorization": f"Bearer {token}"} if token else {}
