"""Checkpoints: saving, loading, replacing and pruning them, and what a save that fails leaves."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import save_steps, steps_of, tensors
from safetensors import SafetensorError

from gpt import files
from gpt.runs import integrity
from gpt.runs.checkpoint import list_checkpoints, load, load_best, load_newest, prune, save, step_of


def test_what_is_saved_is_loaded(run):
    loaded = load(list_checkpoints(run)[1], optimizer=True)
    assert all(torch.equal(loaded.model[name], tensor) for name, tensor in tensors(2).items())
    assert loaded.optimizer["a/exp_avg"].tolist() == [2, 2]
    assert loaded.state == {"step": 20, "evaluation": {"loss": 1.0}}


def test_the_directory_is_as_documented(run):
    path = run / "checkpoints" / "step-00000020"
    names = {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}
    assert {file.name for file in path.iterdir()} == names
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest["files"]) == names - {"manifest.json"}
    for name, promised in manifest["files"].items():
        assert promised["bytes"] == (path / name).stat().st_size


def test_a_run_without_checkpoints_has_none(tmp_path, said):
    assert load_newest(tmp_path) is None


def test_a_checkpoint_can_be_replaced_and_a_crash_in_between_loses_neither(run, monkeypatch):
    checkpoints = run / "checkpoints"
    save(run, tensors(9), {}, {"step": 30, "evaluation": {"loss": 0.5}})
    assert load(list_checkpoints(run)[-1], optimizer=True).state["evaluation"] == {"loss": 0.5}
    (checkpoints / "step-00000030").rename(checkpoints / ".step-00000030.replaced")  # killed before the new one came
    assert load_newest(run).state["evaluation"] == {"loss": 0.5}
    assert steps_of(run) == [10, 20, 30]
    shutil.copytree(checkpoints / "step-00000030", checkpoints / ".step-00000030.replaced")  # killed after it came
    assert load_newest(run).state["step"] == 30
    assert not list(checkpoints.glob(".*"))


def test_a_checkpoint_half_removed_is_gone(run):
    """Pruning renames before it removes: killed in between, it leaves nothing that looks like a checkpoint."""
    (run / "checkpoints" / "step-00000010").rename(run / "checkpoints" / ".step-00000010.removed")
    assert load_newest(run).state["step"] == 30
    assert steps_of(run) == [20, 30]
    assert not list((run / "checkpoints").glob(".*"))


def test_too_little_space_is_seen_before_anything_is_written(run, monkeypatch):
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(OSError, match=r"checkpoints: a checkpoint needs 1,048,\d+ bytes, and 1,000,000 are free"):
        save(run, tensors(4), {}, {"step": 40, "evaluation": None})
    assert steps_of(run) == [10, 20, 30]
    assert not list((run / "checkpoints").glob(".*"))


def test_the_newest_of_equals_and_of_unevaluated_is_the_best(tmp_path, said):
    save_steps(tmp_path / "equal", [1.0, 1.0])
    assert load_best(tmp_path / "equal").state["step"] == 20
    save_steps(tmp_path / "none", [None, None, None])
    assert load_best(tmp_path / "none").state["step"] == 30


@pytest.mark.parametrize(
    ("losses", "keep", "left"),
    [
        ([3.0, 1.0, 2.0], 1, [20, 30]),
        ([1.0, 2.0, 3.0, 4.0], 2, [10, 30, 40]),
        ([3.0, 2.0, 1.0], 2, [20, 30]),
        ([None, None, None], 1, [30]),
        ([1.0], 3, [10]),
        ([], 1, []),
    ],
)
def test_pruning_keeps_the_newest_and_the_best(tmp_path, losses, keep, left):
    save_steps(tmp_path, losses)
    prune(tmp_path, keep)
    assert steps_of(tmp_path) == left


def test_leftovers_and_foreign_names_are_no_checkpoints(run, said):
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "step-00000030", checkpoints / ".step-00000040.partial")
    for name in ("step-00000040.damaged-1", "step-40", "step-00000050x", "last"):
        shutil.copytree(checkpoints / "step-00000030", checkpoints / name)
    (checkpoints / "step-00000060").write_text("a file")
    assert steps_of(run) == [10, 20, 30]
    assert load_newest(run).state["step"] == 30
    assert not (checkpoints / ".step-00000040.partial").exists()


FULL = OSError(28, "No space left on device")
FAILURES = [
    (safetensors.torch, "save_file", SafetensorError("I/O error: No space left on device"), n) for n in range(2)
]
FAILURES += [(integrity, "sha256", FULL, n) for n in range(3)] + [(files, "sync", FULL, n) for n in range(6)]


@pytest.mark.parametrize(("module", "failing", "error", "after"), FAILURES)
def test_a_save_that_fails_at_any_moment_leaves_the_earlier_checkpoints_alone(
    run, monkeypatch, module, failing, error, after
):
    """The disk fails at the n-th write, hash or sync of a save."""
    original, calls = getattr(module, failing), []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) > after:
            raise error
        return original(*arguments)

    monkeypatch.setattr(module, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        save(run, tensors(4), {"x": torch.ones(1)}, {"step": 40, "evaluation": None})
    monkeypatch.undo()
    # The last sync comes after the rename: then the new checkpoint is there, and whole.
    assert steps_of(run) == ([10, 20, 30, 40] if (failing, after) == ("sync", 5) else [10, 20, 30])
    for path in list_checkpoints(run):
        assert load(path, optimizer=True).state["step"] == step_of(path)
    assert not list((run / "checkpoints").glob(".*"))


def test_files_can_be_read_by_whoever_may_read_the_run(run):
    modes = {file.stat().st_mode for file in list_checkpoints(run)[0].iterdir()}
    assert len(modes) == 1


def test_pruning_keeps_the_branch_point(run):
    save_steps(run, [3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    prune(run, 1, branch=45)
    assert steps_of(run) == [20, 40, 60]


def test_a_directory_of_checkpoints_that_cannot_be_listed_is_no_empty_one(run, said, monkeypatch):
    def scandir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    for load_some in (load_newest, load_best):
        with pytest.raises(OSError, match="Permission denied"):
            load_some(run)
    prune(run, 1)
    assert len(said) == 1
    assert "older checkpoints could not be removed" in said[0]


def test_what_cannot_be_renamed_is_said_and_the_others_are_pruned(run, said, monkeypatch):
    """As Windows refuses while a sampler has the file open."""
    save(run, tensors(4), {}, {"step": 40, "evaluation": {"loss": 4.0}})
    honest = Path.rename

    def rename(path, target):
        if path.name == "step-00000010":
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))
        return honest(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    prune(run, 1)
    assert steps_of(run) == [10, 20, 40]
    assert len(said) == 1 and "the next save tries again" in said[0]
