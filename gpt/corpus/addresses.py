"""Files of the web that are given by their addresses, where files that are here could be given as well."""

import hashlib
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from gpt.corpus.download import RemoteFile, download, missing
from gpt.errors import InputError
from gpt.log import log

WEB = "web"  # directory of them among the downloads
HERE = ("127.0.0.1", "localhost", "::1")


def remote_file(address: str, setting: str, downloads: Path | None) -> tuple[RemoteFile, Path]:
    """Return what an address names, and the directory in which it is kept: one for each address.

    Raises InputError for what is not downloaded: anything but https, what has a password, and what names no file; and
    for all if there is no directory of `downloads`.
    """
    called, advice = f"`{setting}` {address}", "download it yourself, and give the file"
    if downloads is None:
        raise InputError(f"{called}: is an address, which gpt prepare alone downloads; {advice}")
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError as error:
        raise InputError(f"{called}: is no address on the web ({error})") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and host in HERE):
        raise InputError(f"{called}: what is not at https:// is not downloaded, as anybody could change it; {advice}")
    if parts.username is not None:
        raise InputError(f"`{setting}` https://…@{host}: has a name or a password, which would be recorded; {advice}")
    name = PurePosixPath(unquote(parts.path)).name
    if not host or not name:
        raise InputError(f"{called}: names no file; {advice}")
    directory = downloads.expanduser() / WEB / hashlib.sha256(address.encode()).hexdigest()[:16]
    return RemoteFile(parts._replace(fragment="").geturl(), name), directory


def fetched(address: str, setting: str, downloads: Path | None) -> Path:
    """Return the file that an address names, which is downloaded unless that was done before.

    Raises InputError where that cannot be.
    """
    file, directory = remote_file(address, setting, downloads)
    if not missing([file], directory):
        log.info(f"{address}: stays as it was downloaded; to have it anew, remove {directory}")
    return download([file], directory)[0]
