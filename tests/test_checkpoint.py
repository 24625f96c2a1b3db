import json
import os
import shutil

import pytest
import torch

from gpt import InputError, checkpoint
from gpt.checkpoint import Damaged, list_checkpoints, load, load_best, load_newest, prune, save, step_of


def tensors(seed):
    return {"a": torch.full((3, 4), float(seed)), "b": torch.arange(5) + seed}


def save_steps(run, losses):
    """Checkpoints of steps 10, 20, … with these validation losses."""
    run.mkdir(exist_ok=True)
    for i, loss in enumerate(losses, 1):
        evaluation = None if loss is None else {"loss": loss}
        save(run, tensors(i), {"a/exp_avg": torch.ones(2) * i}, {"step": 10 * i, "evaluation": evaluation})


def steps(run):
    return [step_of(path) for path in list_checkpoints(run)]


@pytest.fixture
def run(tmp_path):
    save_steps(tmp_path, [3.0, 1.0, 2.0])
    return tmp_path


@pytest.fixture
def said():
    return []


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit in the weights": lambda path: flip_a_bit(path / "model.safetensors"),
    "a flipped bit in the optimizer": lambda path: flip_a_bit(path / "optimizer.safetensors"),
    "a flipped bit in the state": lambda path: flip_a_bit(path / "state.json"),
    "a truncated file": lambda path: os.truncate(path / "model.safetensors", 50),
    "a missing file": lambda path: (path / "optimizer.safetensors").unlink(),
    "a missing manifest": lambda path: (path / "manifest.json").unlink(),
    "an empty manifest": lambda path: (path / "manifest.json").write_text(""),
    "another manifest": lambda path: (path / "manifest.json").write_text('{"format_version": 1}'),
    "a newer format": lambda path: (path / "manifest.json").write_text('{"format_version": 2}'),
    "a manifest of something else": lambda path: (path / "manifest.json").write_text("[]"),
}


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


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_checkpoint_is_named_and_set_aside_and_the_one_before_used(run, said, damage):
    damage(run / "checkpoints" / "step-00000030")
    loaded = load_newest(run, said.append)
    assert loaded.state["step"] == 20
    assert "step-00000030" in said[0]
    assert "set aside as step-00000030.damaged-1" in said[0]
    assert steps(run) == [10, 20]
    assert (run / "checkpoints" / "step-00000030.damaged-1").is_dir()
    save(run, tensors(3), {}, {"step": 30, "evaluation": None})  # its name is free for the same step
    assert load_newest(run, said.append).state["step"] == 30


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_sampling_passes_over_a_damaged_best_and_changes_nothing(run, said, damage):
    damage(run / "checkpoints" / "step-00000020")
    step = load_step(run, said)
    if said:
        assert step == 30
        assert "step-00000020" in said[0]
    else:  # only the optimizer's file was damaged, which sampling does not read
        assert step == 20
    assert steps(run) == [10, 20, 30]


def load_step(run, said):
    return load_best(run, said.append).state["step"]


def test_weights_and_state_suffice_for_sampling(run, said):
    (run / "checkpoints" / "step-00000020" / "optimizer.safetensors").unlink()
    assert load_step(run, said) == 20
    assert said == []


def test_all_damaged_is_an_error_for_sampling_and_a_new_beginning_for_training(run, said):
    for path in list_checkpoints(run):
        flip_a_bit(path / "model.safetensors")
    with pytest.raises(InputError, match="no usable checkpoint"):
        load_best(run, said.append)
    assert len(said) == 3
    assert load_newest(run, said.append) is None
    assert steps(run) == []


def test_the_newest_of_equals_and_of_unevaluated_is_the_best(tmp_path, said):
    save_steps(tmp_path / "equal", [1.0, 1.0])
    assert load_step(tmp_path / "equal", said) == 20
    save_steps(tmp_path / "none", [None, None, None])
    assert load_step(tmp_path / "none", said) == 30


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
    assert steps(tmp_path) == left


def test_leftovers_and_foreign_names_are_no_checkpoints(run, said):
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "step-00000030", checkpoints / ".step-00000040.partial")
    for name in ("step-00000040.damaged-1", "step-40", "step-00000050x", "last"):
        shutil.copytree(checkpoints / "step-00000030", checkpoints / name)
    (checkpoints / "step-00000060").write_text("a file")
    assert steps(run) == [10, 20, 30]
    assert load_newest(run, said.append).state["step"] == 30
    assert not (checkpoints / ".step-00000040.partial").exists()


@pytest.mark.parametrize("failing", ["save_file", "_sha256", "_sync"])
@pytest.mark.parametrize("after", [0, 1, 2, 3, 4])
def test_a_save_that_fails_at_any_moment_leaves_the_earlier_checkpoints_alone(run, monkeypatch, failing, after):
    """The disk fails at the n-th write, hash or sync of a save."""
    original, calls = getattr(checkpoint, failing), []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        return original(*arguments)

    monkeypatch.setattr(checkpoint, failing, fail)
    try:
        save(run, tensors(4), {"x": torch.ones(1)}, {"step": 40, "evaluation": None})
    except OSError:
        # The last sync comes after the rename: then the new checkpoint is there, and whole.
        assert steps(run) in ([10, 20, 30], [10, 20, 30, 40])
    monkeypatch.undo()
    for path in list_checkpoints(run):
        assert load(path, optimizer=True).state["step"] == step_of(path)
    assert not list((run / "checkpoints").glob(".*"))


def test_a_file_that_is_no_safetensors_is_damaged_and_no_crash(run):
    path = list_checkpoints(run)[0]
    (path / "model.safetensors").write_bytes(b"x" * 100)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["model.safetensors"] = {"bytes": 100, "sha256": checkpoint._sha256(path / "model.safetensors")}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match="cannot be read as safetensors"):
        load(path, optimizer=False)
