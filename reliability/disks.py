"""Damaged files, and disks that fill up, each met by a training in this process."""

import contextlib
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from helpers import Training, heard, same

from gpt import files
from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.runs import checkpoint, integrity
from gpt.runs.checkpoint import list_checkpoints, load, step_of
from gpt.runs.directory import open_run
from reliability.common import Row, require_valid_metrics


def damages(config: TrainConfig, dataset: Dataset, directory: Path, count: int, rng: random.Random) -> Row:
    """A flipped bit, a lost end, a block of zeros or a missing file in the newest of three checkpoints."""
    row = Row("damaged file in a checkpoint")
    run, training = new_trainer(config, dataset, directory / "run")
    training.fit()
    written = {step_of(path): load(path, optimizer=True) for path in list_checkpoints(run)}
    for _ in range(count):
        copy = directory / "copy"
        shutil.copytree(run, copy)
        newest = list_checkpoints(copy)[-1]
        file = newest / rng.choice([checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.STATE, checkpoint.MANIFEST])
        original = file.read_bytes()
        damage(file, rng)
        changed = not file.exists() or file.read_bytes() != original
        with heard() as said:
            loaded = checkpoint.load_newest(copy)
        assert loaded is not None
        truth = written[step_of(loaded.path)]
        intact = same(loaded.model, truth.model) and same(loaded.optimizer, truth.optimizer)
        intact = intact and loaded.state == truth.state
        named = bool(said) and str(newest) in said[0] and f"{newest.name}.damaged-1" in said[0]
        back = step_of(newest) - step_of(loaded.path)
        # A flip in the manifest's white space changes nothing that is read: then the newest itself is used.
        row.count(intact and (named or (back == 0 and file.name == checkpoint.MANIFEST)) and changed, back)
        shutil.rmtree(copy)
    return row


def damage(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    kind = rng.choice(["flip", "flip", "truncate", "zero", "remove"])
    if kind == "remove":
        file.unlink()
        return
    if kind == "truncate":
        del content[rng.randrange(len(content)) :]
    elif kind == "zero":
        start = rng.randrange(len(content))
        block = content[start : start + 64]
        content[start : start + 64] = bytes(len(block)) if any(block) else b"\xff" * len(block)
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def new_trainer(config: TrainConfig, dataset: Dataset, run: Path) -> tuple[Path, Training]:
    torch.manual_seed(config.seed)
    with open_run(replace(config, run_dir=run), dataset.tokenizer, resume=False):
        return run, Training(config, dataset, run)


# ---- disks ----


@contextlib.contextmanager
def small_disk(directory: Path, size: int) -> Iterator[bool]:
    """A tmpfs of `size` bytes at a directory, where the system allows to mount one: then True."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    mounted = (
        shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)


def full_disks(config: TrainConfig, dataset: Dataset, directory: Path, points: int, monkeypatch) -> Row:
    """The disk fills up at step 10, up to a point within a save, and is free again at step 15.

    On a small tmpfs; where none can be mounted, the operation of that point reports ENOSPC. At every second point
    the space is lied about beforehand, as if another program took it in the middle of the save.
    """
    config = replace(config, steps=20, checkpoint=replace(config.checkpoint, every=5, keep=9))
    config = replace(config, evaluation=replace(config.evaluation, every=0))
    run, undisturbed = new_trainer(config, dataset, directory / "undisturbed")
    undisturbed.fit()
    expected = load(list_checkpoints(run)[-1], optimizer=True)
    checkpoint_bytes = sum(file.stat().st_size for file in expected.path.iterdir())
    row = Row("disk full at a point of a save")
    for point in range(points):
        with (
            small_disk(directory / f"disk-{point}", 8 * checkpoint_bytes + 2_000_000) as mounted,
            monkeypatch.context() as patch,
        ):
            run, training = new_trainer(config, dataset, directory / f"disk-{point}" / "run")
            if point % 2:
                patch.setattr(integrity, "require_space", lambda *_: None)
            fill = fill_disk if mounted else fail_operation
            script = fill(directory / f"disk-{point}", point / points, checkpoint_bytes, patch)
            training.around_steps(scripted(training, script))
            with heard() as said:
                finished = training.fit()
            newest = load(list_checkpoints(run)[-1], optimizer=True)
            steps = [step_of(path) for path in list_checkpoints(run)]
            for path in list_checkpoints(run):
                checkpoint.verify(path)
            warned = any("step 10 could not be saved" in line and "tries again" in line for line in said)
            good = finished and same(newest.model, expected.model) and steps == [5, 15, 20] and warned
            require_valid_metrics(run, 20)
            row.count(good)
    return row


def scripted(training: Training, script: Iterator[None]) -> Callable[[Callable[[], dict]], dict]:
    """Move the script on before steps 10 and 15."""

    def step(do: Callable[[], dict]) -> dict:
        if training.state.step in (9, 14):
            next(script)
        return do()

    return step


def fill_disk(directory: Path, fraction: float, checkpoint_bytes: int, _: object) -> Iterator[None]:
    ballast = directory / "ballast"
    with open(ballast, "wb") as file:
        free = shutil.disk_usage(directory).free - int(fraction * checkpoint_bytes)
        file.write(b"\0" * max(0, free))
    yield
    ballast.unlink()
    yield


def fail_operation(_: Path, fraction: float, __: int, patch) -> Iterator[None]:
    operations = iter(range(10**6))
    failing = int(fraction * 10)  # of two writes, three hashes, five syncs
    homes = {"save_tensors": integrity, "sha256": integrity, "sync": files}
    originals = {name: getattr(home, name) for name, home in homes.items()}
    armed = [True]

    def failing_at(name: str) -> Callable:
        def operation(*arguments: object) -> object:
            if armed[0] and next(operations) >= failing:
                raise OSError(28, "No space left on device")
            return originals[name](*arguments)

        return operation

    for name in originals:
        patch.setattr(homes[name], name, failing_at(name))
    yield
    armed[0] = False
    yield
