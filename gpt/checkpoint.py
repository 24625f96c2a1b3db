"""Checkpoints that a crash cannot spoil.

A checkpoint is a directory `checkpoints/step-00000500` with

    model.safetensors       the weights
    optimizer.safetensors   AdamW's state, named by parameter
    state.json              step, tokens, evaluation and whatever else training needs to go on
    manifest.json           size and SHA-256 of the other three, and of itself

It is written under another name, synced to disk with the manifest last, and renamed: a directory of that name
is whole or damaged later, never half-written. Nothing pickled is read or written.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt.errors import InputError

FORMAT_VERSION = 2
NAME = re.compile(r"step-(\d{8,})")
MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
PARTIAL, REPLACED, REMOVED = ".partial", ".replaced", ".removed"  # ends of names, which begin with a full stop
SPARE_BYTES = 1 << 20  # for state, manifest and the headers of the tensors
Tensors = dict[str, Tensor]


class Damaged(InputError):
    """A checkpoint that is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """What a verified checkpoint holds; the optimizer's tensors only if they were asked for."""

    path: Path
    model: Tensors
    optimizer: Tensors
    state: dict[str, Any]


def save(run: Path, model: Tensors, optimizer: Tensors, state: dict[str, Any]) -> Path:
    """Write the checkpoint of `state["step"]`, in place of one that is there already, and return its path.

    Raises OSError if the disk fails, or has too little space, which is seen beforehand; then no checkpoint is changed.
    """
    final = run / "checkpoints" / f"step-{state['step']:08d}"
    partial = final.with_name(f".{final.name}{PARTIAL}")
    final.parent.mkdir(exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    _require_space(final.parent, model, optimizer)
    partial.mkdir()
    try:
        _save_tensors(model, partial / MODEL)
        _save_tensors(optimizer, partial / OPTIMIZER)
        (partial / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        for name in (MODEL, OPTIMIZER):
            shutil.copymode(partial / STATE, partial / name)  # safetensors lets nobody else read its files
        files = {
            name: {"bytes": (partial / name).stat().st_size, "sha256": _sha256(partial / name)}
            for name in (MODEL, OPTIMIZER, STATE)
        }
        for name in files:
            _sync(partial / name)
        manifest = {"format_version": FORMAT_VERSION, "step": state["step"], "files": files}
        manifest["sha256"] = _fingerprint(manifest)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        _sync(partial / MANIFEST)
        _sync(partial)
        if final.exists():
            final.rename(final.with_name(f".{final.name}{REPLACED}"))
        partial.rename(final)
        _sync(final.parent)
    finally:
        _clean(final.parent)
    return final


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; leftovers and those set aside have other names."""
    found = [path for path in (run / "checkpoints").glob("step-*") if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match
    return int(match[1])


def verify(path: Path, names: tuple[str, ...] = (MODEL, OPTIMIZER, STATE)) -> None:
    """Raises Damaged, saying what is wrong, unless the named files are what was written.

    A checkpoint of another format is not damaged: that is an InputError, and no reason to touch it.
    """
    manifest = _read_json(path / MANIFEST)
    own_hash = manifest.pop("sha256", None)
    files, version = manifest.get("files"), manifest.get("format_version")
    if own_hash != _fingerprint(manifest) and (own_hash is not None or version != 1):  # format 1 had no such hash
        raise Damaged(f"{path / MANIFEST}: is not what was written")
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: is of format {version}, and this program reads format {FORMAT_VERSION}")
    for name in names:
        promised = files.get(name) if isinstance(files, dict) else None
        if not isinstance(promised, dict) or not {"bytes", "sha256"} <= promised.keys():
            raise Damaged(f"{path / MANIFEST}: does not say what {name} should be")
        file = path / name
        if not file.exists():
            raise Damaged(f"{file}: is missing")
        if file.stat().st_size != promised["bytes"]:
            raise Damaged(f"{file}: has {file.stat().st_size} bytes where its manifest says {promised['bytes']}")
        if _sha256(file) != promised["sha256"]:
            raise Damaged(f"{file}: its SHA-256 is not the one in its manifest")


def load(path: Path, optimizer: bool) -> Checkpoint:
    """Verify a checkpoint, then read it to the CPU. Sampling needs no optimizer, and does not ask for its file."""
    verify(path, (MODEL, OPTIMIZER, STATE) if optimizer else (MODEL, STATE))
    try:
        model = load_file(path / MODEL)
        moments = load_file(path / OPTIMIZER) if optimizer else {}
    except safetensors.SafetensorError as error:
        raise Damaged(f"{path}: cannot be read as safetensors ({error})") from None
    return Checkpoint(path, model, moments, _read_json(path / STATE))


def load_newest(run: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint, to train on from; damaged ones are named and set aside. None if there never was one.

    Raises InputError if there were some and none is whole: to begin again would hide that they are lost.
    """
    _clean(run / "checkpoints")
    for path in reversed(list_checkpoints(run)):
        try:
            return load(path, optimizer=True)
        except Damaged as error:
            aside = _set_aside(path)
            say(f"damaged checkpoint: {error}; set aside as {aside.name}, trying the one before it")
    if any((run / "checkpoints").glob("step-*.damaged-*")):
        raise InputError(
            f"{run}: none of its checkpoints is whole; restore one, or begin a new run in another directory"
        )
    return None


def load_best(run: Path, say: Callable[[str], None]) -> Checkpoint:
    """The whole checkpoint with the lowest validation loss (the newest, where none was evaluated), to sample from.

    Damaged ones are named and passed over, and left where they are. Raises InputError if none is left.
    """

    def passed_over(error: Damaged) -> None:
        say(f"damaged checkpoint: {error}; passed over")

    for path in _best_first(run, passed_over):
        try:
            return load(path, optimizer=False)
        except Damaged as error:
            passed_over(error)
    raise InputError(f"{run}: holds no usable checkpoint; train first, or name another run with --run")


def prune(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and the best."""
    kept = list_checkpoints(run)[-keep:] + _best_first(run, lambda error: None)[:1]
    for path in list_checkpoints(run):
        if path not in kept:
            path.rename(path.with_name(f".{path.name}{REMOVED}"))  # at once: half a checkpoint must not look like one
    _clean(run / "checkpoints")


def _best_first(run: Path, on_damaged: Callable[[Damaged], None]) -> list[Path]:
    """The checkpoints whose state is whole, by validation loss; the newer of equals and of unevaluated ones first."""
    ranks = {}
    for path in list_checkpoints(run):
        try:
            verify(path, (STATE,))
            evaluation = _read_json(path / STATE).get("evaluation")
            loss = evaluation["loss"] if evaluation else math.inf
            ranks[path] = (loss if math.isfinite(loss) else math.inf, -step_of(path))
        except Damaged as error:
            on_damaged(error)
    return sorted(ranks, key=ranks.__getitem__)


def _clean(directory: Path) -> None:
    """Remove what a crash has left over; but a checkpoint whose replacement never came gets its name back."""
    for leftover in directory.glob(".step-*"):
        name = leftover.stem.removeprefix(".")
        if leftover.suffix == REPLACED and not (directory / name).exists():
            leftover.rename(directory / name)
        elif leftover.suffix in (PARTIAL, REPLACED, REMOVED):
            shutil.rmtree(leftover, ignore_errors=True)


def _require_space(directory: Path, *tensors: Tensors) -> None:
    needed = sum(tensor.nbytes for group in tensors for tensor in group.values()) + SPARE_BYTES
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{directory}: a checkpoint needs {needed:,} bytes, and {free:,} are free")


def _save_tensors(tensors: Tensors, path: Path) -> None:
    try:
        save_file(tensors, path)
    except safetensors.SafetensorError as error:  # how safetensors reports a failing disk
        raise OSError(f"{path}: could not be written ({error})") from None


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return path.rename(aside)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Damaged(f"{path}: is missing or cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise Damaged(f"{path}: is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise Damaged(f"{path}: is not a JSON object")
    return content


def _fingerprint(manifest: dict[str, Any]) -> str:
    """SHA-256 of the manifest's content, by which a flipped bit in it is told from another format."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file or directory is on the disk (Windows cannot sync a directory, and needs no such step)."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
