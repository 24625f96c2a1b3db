"""Whether what lies on disk is what was written: a manifest's promises, and what a failing read means.

Three things can be wrong with a checkpoint, and each has its own answer. What is corrupt (CorruptCheckpoint) was read,
and is not what was written. What is Unreadable could not be read now, for whatever reason the system has: it may be
whole, so nobody may rename, remove or replace it. What is Gone was removed or replaced by another process while it was
read.
"""

import errno
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from gpt.errors import InputError
from gpt.files import parse_json, require_shallow, sha256

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 3
MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
SPARE_BYTES = 1 << 20  # for state, manifest and the headers of the tensors
FILES = (MODEL, OPTIMIZER, STATE)  # that the manifest describes
Tensors = dict[str, "Tensor"]


class CorruptCheckpoint(InputError):
    """A checkpoint that is not what was written."""


class Unreadable(OSError):
    """A checkpoint that could not be read, which says nothing about what it holds."""


class Gone(Unreadable):
    """A checkpoint that was removed or replaced while it was read."""


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Read the checkpoint `path` in this context: what fails raises CorruptCheckpoint, Gone or Unreadable alone."""
    before = _identity(path)
    try:
        yield
    except (InputError, OSError, MemoryError) as error:
        if before is None or _identity(path) != before:
            raise Gone(f"{path}: was removed or replaced while it was read; try again") from None
        if isinstance(error, InputError | Unreadable):
            raise
        if isinstance(error, FileNotFoundError):  # of a directory that is still there
            raise CorruptCheckpoint(f"{error.filename or path}: is missing") from None
        raise _unreadable(path, error) from None


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a directory from another one of the same name; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    return status.st_dev, status.st_ino


def _unreadable(path: Path, error: OSError | MemoryError) -> Unreadable:
    if isinstance(error, MemoryError):
        file, reason = path, "out of memory"
    else:
        file, reason = error.filename or path, error.strerror or str(error)
    return Unreadable(
        f"{file}: cannot be read ({reason}); that is no sign of damage, and nothing was changed: "
        "try again once it can be read"
    )


def verify(path: Path, names: tuple[str, ...] = FILES) -> None:
    """Check the named files of a checkpoint against its manifest.

    Raises CorruptCheckpoint, saying what is wrong, Gone or Unreadable. A checkpoint of another format is not corrupt:
    that is an InputError, and it is not touched.
    """
    with reading(path):
        manifest = read_json(path / MANIFEST)
        own_hash = manifest.pop("sha256", None)
        files, version = manifest.get("files"), manifest.get("format_version")
        if own_hash != fingerprint(manifest) and (own_hash is not None or version != 1):  # format 1 had no such hash
            raise CorruptCheckpoint(f"{path / MANIFEST}: is not what was written")
        if version != FORMAT_VERSION:
            raise InputError(f"{path}: is of format {version}, and this program reads format {FORMAT_VERSION}")
        for name in names:
            _verify_file(path, name, files.get(name) if isinstance(files, dict) else None)


def _verify_file(path: Path, name: str, promised: Any) -> None:
    if not isinstance(promised, dict) or not {"bytes", "sha256"} <= promised.keys():
        raise CorruptCheckpoint(f"{path / MANIFEST}: does not say what {name} should be")
    file = path / name
    size = file.stat().st_size
    if size != promised["bytes"]:
        raise CorruptCheckpoint(f"{file}: has {size} bytes where its manifest says {promised['bytes']}")
    if sha256(file) != promised["sha256"]:
        raise CorruptCheckpoint(f"{file}: its SHA-256 is not the one in its manifest")


def manifest_of(path: Path, step: int) -> dict[str, Any]:
    """Describe a checkpoint's files as they are now, for `verify` to compare with."""
    files = {name: {"bytes": (path / name).stat().st_size, "sha256": sha256(path / name)} for name in FILES}
    manifest = {"format_version": FORMAT_VERSION, "step": step, "files": files}
    return manifest | {"sha256": fingerprint(manifest)}


def require_space(directory: Path, *tensors: Tensors) -> None:
    """Raise OSError unless a checkpoint of these tensors fits into the free space."""
    needed = sum(tensor.nbytes for group in tensors for tensor in group.values()) + SPARE_BYTES
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{directory}: a checkpoint needs {needed:,} bytes, and {free:,} are free")


def save_tensors(tensors: Tensors, path: Path) -> None:
    """Write a safetensors file. Raises OSError, as for any other file."""
    from safetensors.torch import save_file  # which loads torch: whoever looks for a checkpoint needs none

    try:
        save_file(tensors, path)
    except safetensors.SafetensorError as error:  # how safetensors reports a failing disk
        raise OSError(f"{path}: could not be written ({error})") from None


def load_tensors(path: Path) -> Tensors:
    """Read the tensors of a verified file. Raises OSError whatever the reason: it is what was written."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (safetensors.SafetensorError, RuntimeError) as error:  # torch's for memory that is lacking is a RuntimeError
        raise OSError(f"its SHA-256 is right, and yet: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CorruptCheckpoint if the file holds none, and OSError if it cannot be read."""
    try:
        content = parse_json(path.read_bytes())
        require_shallow(content)
    except ValueError as error:
        raise CorruptCheckpoint(f"{path}: is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise CorruptCheckpoint(f"{path}: is not a JSON object")
    return content


def read_state(path: Path) -> dict[str, Any]:
    """Read what a verified checkpoint holds beside its tensors.

    Raises InputError for what this program never writes, though the manifest agrees: somebody else has made it.
    """
    state = read_json(path / STATE)
    wrong = wrong_entry(state)
    if wrong is not None:
        raise InputError(f"{path / STATE}: {wrong[0]!r} is {wrong[1]!r:.100}, which this program does not write")
    return state


def weights_sha256(weights: Tensors) -> str:
    """Hash weights by their names, shapes and values in float32, whatever file they came from."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(json.dumps([name, list(values.shape)]).encode())
        digest.update(values.view(torch.uint8).numpy() if values.dim() else values.numpy().tobytes())
    return digest.hexdigest()


def fingerprint(manifest: dict[str, Any]) -> str:
    """Hash the manifest's content (SHA-256): so a flipped bit in it is told from another format."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


# ---- what a state.json that anybody may have made must hold ----
#
# Hashes prove that a file is what its maker wrote, and nothing of who that was. A value of another kind would end a
# program with a traceback, hours later perhaps.

Kind = Callable[[Any], bool]


def count(value: Any) -> bool:
    """Accept a whole number of 63 bits at most, not below 0."""
    return type(value) is int and 0 <= value < 1 << 63


def number(value: Any) -> bool:
    """Accept a number that a float can be; a loss may be infinite, or not a number."""
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


def finite(value: Any) -> bool:
    return number(value) and math.isfinite(value)


def text(value: Any) -> bool:
    return isinstance(value, str)


def maybe(kind: Kind) -> Kind:
    return lambda value: value is None or kind(value)


def entries(**kinds: Kind) -> Kind:
    """Accept an object that has these, and perhaps others."""
    return lambda value: isinstance(value, dict) and all(name in value and kinds[name](value[name]) for name in kinds)


RECORD = maybe(entries(step=count, train_loss=maybe(number), tokens=count))
KINDS: dict[str, Kind] = {
    "step": count,
    "tokens": maybe(count),
    "elapsed_s": maybe(lambda value: finite(value) and value >= 0),
    "evaluation": maybe(entries(loss=number)),
    "complete_evaluation": maybe(entries(loss=number)),
    "evaluations": maybe(count),
    "evaluated_windows": maybe(count),
    "epochs_measured": maybe(count),
    "unevaluated": RECORD,
    "record": RECORD,
    "best_validation_loss": maybe(number),
    "best_step": maybe(count),
    "last_validation_loss": maybe(number),
    "evaluations_since_best": maybe(count),
    "best_sums": maybe(text),
    "first_sums": maybe(text),
    "within_error": maybe(lambda value: type(value) is bool),
    "cooldown": maybe(entries(best_step=count, begin=count, steps=count, factor=finite)),
    "overfitting": maybe(
        entries(total=number, count=count, best=maybe(number), at_best=maybe(number), said=lambda v: type(v) is bool)
    ),
    "dataset_fingerprint": maybe(text),
    "corpus_fingerprint": maybe(text),
    "micro_batch": maybe(entries(size=lambda value: count(value) and value > 0)),
}


def wrong_entry(state: dict[str, Any]) -> tuple[str, Any] | None:
    """Find the name and the value of an entry that is of another kind; None where there is none."""
    wrong = ((name, state.get(name)) for name, kind in KINDS.items() if not kind(state.get(name)))
    return next(wrong, None)
