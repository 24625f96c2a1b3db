"""Checkpoints that a crash cannot spoil.

A checkpoint is a directory `checkpoints/step-00000500` with

    model.safetensors       the weights
    optimizer.safetensors   the state of AdamW, and of Muon, named by parameter
    state.json              step, tokens, evaluation and whatever else training needs to go on
    manifest.json           size and SHA-256 of the other three, and of its own entries

It is written by `gpt.files.write_directory`: a directory of that name is whole or damaged later, never half-written.
Nothing pickled is read or written.
"""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt.errors import InputError
from gpt.files import clean_up, remove_directory, write_directory
from gpt.log import log
from gpt.runs import integrity
from gpt.runs.integrity import (
    FILES,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    STATE,
    CorruptCheckpoint,
    Gone,
    Tensors,
    reading,
    verify,
)

NAME, NAMES = re.compile(r"step-(\d{8,})"), "step-*"
Standing = tuple[object, int | None, float, float, int]
Faults = tuple[type[Exception], ...]


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
    path = run / "checkpoints" / f"step-{state['step']:08d}"
    path.parent.mkdir(exist_ok=True)
    clean_up(path.parent, NAMES)  # what is left over takes space
    integrity.require_space(path.parent, model, optimizer)
    with write_directory(path) as partial:
        (partial / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        for name, tensors in ((MODEL, model), (OPTIMIZER, optimizer)):
            integrity.save_tensors(tensors, partial / name)
            shutil.copymode(partial / STATE, partial / name)  # safetensors lets nobody else read its files
        (partial / MANIFEST).write_text(json.dumps(integrity.manifest_of(partial, state["step"]), indent=1), "utf-8")
    return path


def list_checkpoints(run: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first; leftovers and those set aside have other names.

    Raises OSError if the directory cannot be read: that is no run without checkpoints.
    """
    directory = run / "checkpoints"
    try:
        with os.scandir(directory) as entries:
            found = [directory / entry.name for entry in entries if NAME.fullmatch(entry.name) and entry.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match
    return int(match[1])


def load(path: Path, optimizer: bool) -> Checkpoint:
    """Verify a checkpoint, then read it to the CPU. Sampling needs no optimizer, and does not ask for its file.

    Raises CorruptCheckpoint, or Unreadable where the system, the memory or a library fails: what was just verified is
    whole.
    """
    with reading(path):
        verify(path, FILES if optimizer else (MODEL, STATE))
        model = integrity.load_tensors(path / MODEL)
        moments = integrity.load_tensors(path / OPTIMIZER) if optimizer else {}
        return Checkpoint(path, model, moments, integrity.read_state(path))


def read_state(path: Path) -> dict[str, Any]:
    """Read what a checkpoint holds beside its tensors. Raises CorruptCheckpoint, or Unreadable."""
    with reading(path):
        verify(path, (STATE,))
        return integrity.read_state(path)


def load_newest(run: Path, until: float = math.inf) -> Checkpoint | None:
    """Load the newest whole checkpoint, to train on from; damaged ones are named and set aside.

    None if there never was one, or none that is not beyond the step `until`.

    Raises InputError if there were some and none is whole: to begin again would hide that they are lost. Raises OSError
    if one cannot be read: it may be whole, and to go on from an older one would lose its steps.
    """
    clean_up(run / "checkpoints", NAMES)
    for path in reversed([path for path in list_checkpoints(run) if step_of(path) <= until]):
        try:
            return load(path, optimizer=True)
        except CorruptCheckpoint as error:
            aside = _set_aside(path)
            log.warning(f"damaged checkpoint: {error}; set aside as {aside.name}, trying the one before it")
    if until == math.inf and any((run / "checkpoints").glob("step-*.damaged-*")):
        raise InputError(
            f"{run}: none of its checkpoints is whole; restore one, or begin a new run in another directory"
        )
    return None


def load_best(run: Path) -> Checkpoint:
    """Load the whole checkpoint with the lowest validation loss (the newest, if none was evaluated), to sample from.

    Corrupt ones are named and passed over, and left where they are; where a training beside this removes one, the
    search begins again. Raises InputError if none is left, and OSError if one cannot be read: it may be the best.
    """
    logged = set()

    def passed_over(error: Exception) -> None:
        if str(error) not in logged:
            log.warning(f"damaged checkpoint: {error}; passed over")
        logged.add(str(error))

    while True:
        with contextlib.suppress(Gone):
            for path in _sorted(_standings(run, (CorruptCheckpoint,), passed_over)):
                try:
                    return load(path, optimizer=False)
                except CorruptCheckpoint as error:
                    passed_over(error)
            raise InputError(f"{run}: holds no usable checkpoint; train first, or name another run")


def prune(run: Path, keep: int, branch: int = 0) -> None:
    """Remove all but the newest `keep` checkpoints, the best, and the newest of steps up to `branch`.

    What cannot be judged, as it cannot be read or is damaged, is kept. What cannot be removed is said: no error.
    """
    with _said():
        checkpoints, ranks = list_checkpoints(run), _standings(run)
        kept = checkpoints[-keep:] + [path for path in checkpoints if 0 < step_of(path) <= branch][-1:]
        kept += _sorted(ranks)[:1]
        for path in ranks.keys() - set(kept):
            with _said():
                remove_directory(path)
        clean_up(run / "checkpoints", NAMES)


@contextlib.contextmanager
def _said() -> Generator[None]:
    try:
        yield
    except OSError as error:
        log.warning(f"older checkpoints could not be removed ({error}); the next save tries again")


def best_state(run: Path) -> dict[str, Any] | None:
    """Read the state of the checkpoint that `prune` keeps as the best; None where none can be judged."""
    best = best_path(run)
    return read_state(best) if best else None


def best_path(run: Path) -> Path | None:
    """Find the checkpoint that `prune` keeps as the best, by its state alone; None where none can be judged."""
    return next(iter(_sorted(_standings(run))), None)


def _standings(
    run: Path, faults: Faults = (InputError, OSError), on_fault: Callable[[Exception], None] = lambda _: None
) -> dict[Path, Standing]:
    """Rank the checkpoints that can be judged; `on_fault` hears why others cannot."""
    ranks = {}
    for path in list_checkpoints(run):
        try:
            ranks[path] = _standing(path)
        except faults as error:
            on_fault(error)
    return ranks


def _standing(path: Path) -> Standing:
    """Return a checkpoint's data, how many tokens of it were predicted, and three numbers, least for the best.

    They are: loss, −loss, −step. A loss that was below the best so far, but not by enough to be the next best, counts
    as equal to it, and so stands behind it.
    """
    state = read_state(path)
    evaluation, best = state.get("evaluation") or {}, state.get("best_validation_loss")
    loss = evaluation.get("loss", math.inf)
    loss = loss if math.isfinite(loss) else math.inf
    rank = max(loss, best) if state.get("within_error") and best is not None else loss
    return state.get("dataset_fingerprint"), evaluation.get("tokens"), rank, -loss, -step_of(path)


def _sorted(ranks: dict[Path, Standing]) -> list[Path]:
    """Sort the best first, of those evaluated like the newest: losses on other data, or parts of it, say nothing."""
    by_age = sorted(ranks, key=step_of, reverse=True)
    data = ranks[by_age[0]][0] if by_age else None
    evaluated = [ranks[path][:2] for path in by_age if ranks[path][0] == data and math.isfinite(ranks[path][2])]
    newest = evaluated[0] if evaluated else (data, None)
    return sorted(ranks, key=lambda path: (ranks[path][0] != data, ranks[path][:2] != newest, *ranks[path][2:]))


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return path.rename(aside)
