"""What lies beside the shards of a dataset, held against what says how it was: report, slices, ledger, and split."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpt.corpus.assembly import FORMAT, REPORT, SLICES
from gpt.corpus.content_split import FORMAT as SPLIT_FORMAT
from gpt.corpus.content_split import KEYS, SPLIT
from gpt.corpus.ledger import LEDGER
from gpt.corpus.stages import digest
from gpt.dataset.manifest import SPLITS, read_manifest
from gpt.dataset.shards import REPAIR
from gpt.errors import InputError
from gpt.files import read_json, sha256


def verify_records(path: Path) -> Iterator[InputError]:
    """Yield the first fault of each file beside the shards, with its path, reason and remedy.

    The manifest names what was written with it, with hashes. An older one that has a corpus fingerprint was written
    with a report, a ledger, and slices.json; otherwise, what is there is checked, and without a manifest nothing is.
    Raises InputError for a manifest that is damaged.
    """
    if not (path / "manifest.json").exists():
        return
    manifest = read_manifest(path)
    promised, records = bool(manifest.get("corpus_fingerprint")), manifest.get("records", {})
    checks: list[tuple[tuple[str, ...], bool, Callable[[Path, dict[str, Any]], None]]] = [
        ((REPORT,), promised, _require_report),
        ((SLICES, LEDGER), promised, _require_slices),
        ((SPLIT, KEYS), SPLIT in records, _require_split),
    ]
    for files, is_needed, require in checks:
        there = [(path / file).exists() for file in files]
        if not is_needed and not any(there):
            continue
        missing = [path / file for file, is_there in zip(files, there, strict=True) if not is_there]
        yield from (InputError(f"{file}: is missing; {REPAIR}") for file in missing)
        if not missing:
            try:
                require(path, manifest)
                for file in files:
                    _require_hash(path / file, records.get(file))
            except InputError as fault:
                yield fault


def _require_hash(file: Path, promised: str | None) -> None:
    if promised is not None and sha256(file) != promised:
        raise InputError(f"{file}: its SHA-256 is not the one in manifest.json; {REPAIR}")


def _require_report(path: Path, manifest: dict[str, Any]) -> None:
    report = read_json(path / REPORT, "a report", REPAIR)
    if report.get("corpus_fingerprint", "") != manifest.get("corpus_fingerprint", ""):
        raise InputError(f"{path / REPORT}: its corpus fingerprint is not the one in manifest.json; {REPAIR}")


def _require_slices(path: Path, manifest: dict[str, Any]) -> None:
    """Raise InputError unless slices.json is whole and of these shards, and the ledger has the hashes that it says."""
    content = read_json(path / SLICES, "a list of slices", REPAIR, FORMAT)
    slices = content.get("slices")
    if not isinstance(slices, dict) or content.get("digest") != digest(slices):
        raise InputError(f"{path / SLICES}: is damaged: what it holds is not what its digest says; {REPAIR}")
    try:
        own = [shard for entry in slices.values() for shard in entry["result"]["shards"]]
        wanted = [shard["sha256"] for split in SPLITS for shard in own if shard["split"] == split]
        parts = [(*entry["ledger"], entry["ledger_sha256"]) for entry in slices.values()]
        if wanted != [shard["sha256"] for shard in manifest["shards"]]:
            raise InputError(f"{path / SLICES}: is of other shards than manifest.json; {REPAIR}")
        end = max((begin + size for begin, size, _ in parts), default=0)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path / SLICES}: is damaged ({error!r}); {REPAIR}") from None
    _require_ledger(path / LEDGER, parts, end)


def _require_ledger(file: Path, parts: list[tuple[int, int, str]], end: int) -> None:
    """Raise InputError unless the ledger ends at a byte, and each of its parts (begin, bytes) has its SHA-256."""
    try:
        with open(file, "rb") as ledger:
            for begin, size, sha256 in parts:
                ledger.seek(begin)
                if hashlib.sha256(ledger.read(size)).hexdigest() != sha256:
                    raise InputError(f"{file}: is damaged: its SHA-256 is not the one in {SLICES}; {REPAIR}")
        if (size := file.stat().st_size) != end:
            raise InputError(f"{file}: has {size:,} bytes where {SLICES} says {end:,}; {REPAIR}")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); {REPAIR}") from None


def _require_split(path: Path, manifest: dict[str, Any]) -> None:
    content = read_json(path / SPLIT, "a split", REPAIR, SPLIT_FORMAT)
    try:
        keys = sha256(path / KEYS)
    except OSError as error:
        raise InputError(f"{path / KEYS}: cannot be read ({error.strerror}); {REPAIR}") from None
    if content.pop("digest", None) != digest(content, keys):
        raise InputError(f"{path / SPLIT} or {path / KEYS}: is damaged: its digest is of other content; {REPAIR}")
