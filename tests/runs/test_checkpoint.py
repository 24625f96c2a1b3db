import errno
import io
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from gpt import InputError, files
from gpt.runs import checkpoint, integrity
from gpt.runs.checkpoint import list_checkpoints, load, load_best, load_newest, prune, save, step_of
from gpt.runs.integrity import CorruptCheckpoint, Unreadable


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


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def respell(path, old, new):
    path.write_text(path.read_text().replace(old, new))


DAMAGES = {
    "a flipped bit in the weights": lambda path: flip_a_bit(path / "model.safetensors"),
    "a flipped bit in the optimizer": lambda path: flip_a_bit(path / "optimizer.safetensors"),
    "a flipped bit in the state": lambda path: flip_a_bit(path / "state.json"),
    "a truncated file": lambda path: os.truncate(path / "model.safetensors", 50),
    "a missing file": lambda path: (path / "optimizer.safetensors").unlink(),
    "a missing manifest": lambda path: (path / "manifest.json").unlink(),
    "an empty manifest": lambda path: (path / "manifest.json").write_text(""),
    "another manifest": lambda path: (path / "manifest.json").write_text('{"format_version": 3}'),
    "a misspelled manifest": lambda path: respell(path / "manifest.json", '"bytes"', '"bytds"'),
    "a manifest without its files": lambda path: respell(path / "manifest.json", '"files": {', '"files": 3, "f": {'),
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
    loaded = load_newest(run)
    assert loaded.state["step"] == 20
    assert "step-00000030" in said[0]
    assert "set aside as step-00000030.damaged-1" in said[0]
    assert steps(run) == [10, 20]
    assert (run / "checkpoints" / "step-00000030.damaged-1").is_dir()
    save(run, tensors(3), {}, {"step": 30, "evaluation": None})  # its name is free for the same step
    assert load_newest(run).state["step"] == 30


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_sampling_passes_over_a_damaged_best_and_changes_nothing(run, said, damage):
    damage(run / "checkpoints" / "step-00000020")
    step = load_step(run)
    if said:
        assert step == 30
        assert "step-00000020" in said[0]
    else:  # only the optimizer's file was damaged, which sampling does not read
        assert step == 20
    assert steps(run) == [10, 20, 30]


def load_step(run):
    return load_best(run).state["step"]


def test_weights_and_state_suffice_for_sampling(run, said):
    (run / "checkpoints" / "step-00000020" / "optimizer.safetensors").unlink()
    assert load_step(run) == 20
    assert said == []


def test_all_damaged_is_an_error_and_no_new_beginning(run, said):
    for path in list_checkpoints(run):
        flip_a_bit(path / "model.safetensors")
    with pytest.raises(InputError, match="no usable checkpoint"):
        load_best(run)
    assert len(said) == 3
    for _ in range(2):  # the second time they are set aside already
        with pytest.raises(InputError, match="none of its checkpoints is whole"):
            load_newest(run)


def test_a_run_without_checkpoints_has_none(tmp_path, said):
    assert load_newest(tmp_path) is None


@pytest.mark.parametrize("version", [1, 2, 4])
def test_another_format_is_refused_and_left_where_it_is(run, said, version):
    """As another version of this program would write it; format 1 had no hash of its own."""
    file = run / "checkpoints" / "step-00000030" / "manifest.json"
    manifest = json.loads(file.read_text()) | {"format_version": version}
    del manifest["sha256"]
    own_hash = {} if version == 1 else {"sha256": integrity.fingerprint(manifest)}
    file.write_text(json.dumps(manifest | own_hash))
    for load_some in (load_newest, load_best):
        with pytest.raises(InputError, match=f"step-00000030: is of format {version}, and this program reads format 3"):
            load_some(run)
    assert steps(run) == [10, 20, 30]


def test_every_bit_of_a_manifest_counts(run, said):
    """A flip either changes nothing that is read (a space between words) or is found."""
    path = list_checkpoints(run)[-1]
    original = (path / "manifest.json").read_bytes()
    for position in range(len(original)):
        for bit in range(8):
            content = bytearray(original)
            content[position] ^= 1 << bit
            (path / "manifest.json").write_bytes(content)
            try:
                checkpoint.verify(path)
            except CorruptCheckpoint:
                continue
            assert json.loads(content.decode()) == json.loads(original)


def test_a_checkpoint_can_be_replaced_and_a_crash_in_between_loses_neither(run, monkeypatch):
    checkpoints = run / "checkpoints"
    save(run, tensors(9), {}, {"step": 30, "evaluation": {"loss": 0.5}})
    assert load(list_checkpoints(run)[-1], optimizer=True).state["evaluation"] == {"loss": 0.5}
    (checkpoints / "step-00000030").rename(checkpoints / ".step-00000030.replaced")  # killed before the new one came
    assert load_newest(run).state["evaluation"] == {"loss": 0.5}
    assert steps(run) == [10, 20, 30]
    shutil.copytree(checkpoints / "step-00000030", checkpoints / ".step-00000030.replaced")  # killed after it came
    assert load_newest(run).state["step"] == 30
    assert not list(checkpoints.glob(".*"))


def test_a_checkpoint_half_removed_is_gone(run):
    """Pruning renames before it removes: killed in between, it leaves nothing that looks like a checkpoint."""
    (run / "checkpoints" / "step-00000010").rename(run / "checkpoints" / ".step-00000010.removed")
    assert load_newest(run).state["step"] == 30
    assert steps(run) == [20, 30]
    assert not list((run / "checkpoints").glob(".*"))


def test_too_little_space_is_seen_before_anything_is_written(run, monkeypatch):
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(OSError, match=r"checkpoints: a checkpoint needs 1,048,\d+ bytes, and 1,000,000 are free"):
        save(run, tensors(4), {}, {"step": 40, "evaluation": None})
    assert steps(run) == [10, 20, 30]
    assert not list((run / "checkpoints").glob(".*"))


def test_the_newest_of_equals_and_of_unevaluated_is_the_best(tmp_path, said):
    save_steps(tmp_path / "equal", [1.0, 1.0])
    assert load_step(tmp_path / "equal") == 20
    save_steps(tmp_path / "none", [None, None, None])
    assert load_step(tmp_path / "none") == 30


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
    assert load_newest(run).state["step"] == 30
    assert not (checkpoints / ".step-00000040.partial").exists()


FULL = OSError(28, "No space left on device")
FAILURES = [(integrity, "save_file", SafetensorError("I/O error: No space left on device"), n) for n in range(2)]
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
    assert steps(run) == ([10, 20, 30, 40] if (failing, after) == ("sync", 5) else [10, 20, 30])
    for path in list_checkpoints(run):
        assert load(path, optimizer=True).state["step"] == step_of(path)
    assert not list((run / "checkpoints").glob(".*"))


def test_files_can_be_read_by_whoever_may_read_the_run(run):
    modes = {file.stat().st_mode for file in list_checkpoints(run)[0].iterdir()}
    assert len(modes) == 1


FILES = ["manifest.json", "state.json", "model.safetensors", "optimizer.safetensors"]
ERRORS = [OSError(number, os.strerror(number)) for number in (errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE)]
ERRORS += [OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), MemoryError()]


@pytest.fixture
def unreadable(monkeypatch):
    """Makes each opening of a file fail, or each after the n-th, as a disk, a server or a lack of memory does."""
    honest = io.open

    def make(file, error, after=0):
        calls = []

        def open_(name, *arguments, **named):
            if str(name) == str(file):
                calls.append(name)
                if len(calls) > after:
                    raise error
            return honest(name, *arguments, **named)

        def load_file(name):
            open_(name, "rb").close()
            return safetensors.torch.load_file(name)

        monkeypatch.setattr(io, "open", open_)
        monkeypatch.setattr("builtins.open", open_)
        monkeypatch.setattr(integrity, "load_file", load_file)

    return make


def tree(run):
    return sorted((str(path.relative_to(run)), path.stat().st_size) for path in run.rglob("*"))


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("file", FILES)
def test_what_cannot_be_read_is_not_called_damaged_and_nothing_is_renamed(run, said, unreadable, file, error):
    """Neither going on nor sampling takes a worse checkpoint instead: the next try may well read this one."""
    before = tree(run)
    for after in range(2):  # the first opening of the file fails, or the second, where there is one
        for load_some, step in ((load_newest, 30), (load_best, 20)):
            unreadable(run / "checkpoints" / f"step-000000{step}" / file, error, after)
            try:
                assert load_some(run).state["step"] == step
            except Unreadable as failure:
                assert f"step-000000{step}" in str(failure)
                assert "cannot be read" in str(failure) and "no sign of damage" in str(failure)
            else:
                assert after == 1 or file == "optimizer.safetensors"
    assert said == []
    assert tree(run) == before


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("file", FILES[:2])
def test_pruning_keeps_what_it_cannot_judge(run, said, unreadable, file, error):
    """One failed read of the best checkpoint's files does not cost that checkpoint."""
    save(run, tensors(4), {}, {"step": 40, "evaluation": {"loss": 4.0}})
    unreadable(run / "checkpoints" / "step-00000020" / file, error)
    prune(run, 1)
    assert steps(run) == [20, 30, 40]  # of those that could be judged, 30 is the best
    assert said == []


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_pruning_keeps_what_is_damaged_for_loading_to_judge(run, damage):
    damage(run / "checkpoints" / "step-00000010")
    prune(run, 1)
    assert {20, 30} <= set(steps(run))
    judged = damage in (DAMAGES[name] for name in DAMAGES if "manifest" in name or name.endswith("the state"))
    assert (10 in steps(run)) == judged


def test_pruning_keeps_the_branch_point(run):
    save_steps(run, [3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    prune(run, 1, branch=45)
    assert steps(run) == [20, 40, 60]


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


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("file", FILES)
def test_a_file_without_permission_is_not_damaged(run, said, file):
    (run / "checkpoints" / "step-00000030" / file).chmod(0)
    with pytest.raises(Unreadable, match="Permission denied"):
        load_newest(run)
    assert (said, steps(run)) == ([], [10, 20, 30])


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
    assert steps(run) == [10, 20, 40]
    assert len(said) == 1 and "the next save tries again" in said[0]


@pytest.mark.parametrize("file", FILES)
def test_a_checkpoint_that_is_removed_while_it_is_read_is_not_damaged(run, said, monkeypatch, file):
    """A training beside the sampler prunes the best after a better one was saved: that one is loaded."""
    best, honest = run / "checkpoints" / "step-00000020", integrity.sha256

    def sha256(path):
        if path == best / file and best.exists():
            save(run, tensors(4), {}, {"step": 40, "evaluation": {"loss": 0.5}})
            shutil.rmtree(best)
        return honest(path)

    def load_file(path):
        if path == best / file and best.exists():
            best.rename(best.with_name(".step-00000020.removed"))
        return safetensors.torch.load_file(path)

    monkeypatch.setattr(integrity, "sha256", sha256)
    monkeypatch.setattr(integrity, "load_file", load_file)
    expected = 40 if file in ("state.json", "model.safetensors") else 20
    assert load_step(run) == expected
    assert said == []


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(run, said, monkeypatch):
    best, honest, replaced = run / "checkpoints" / "step-00000020", integrity.sha256, []

    def sha256(path):
        if path == best / "model.safetensors" and not replaced:
            replaced.append(path)
            save(run, tensors(9), {}, {"step": 20, "evaluation": {"loss": 0.9}})
        return honest(path)

    monkeypatch.setattr(integrity, "sha256", sha256)
    loaded = load_best(run)
    assert (loaded.state["evaluation"], said) == ({"loss": 0.9}, [])
    assert torch.equal(loaded.model["a"], tensors(9)["a"])


def test_a_verified_file_that_safetensors_cannot_read_is_not_damaged(run, said):
    """What it cannot read was written like this: a fault of the library, of a path, of memory."""
    path = list_checkpoints(run)[-1]
    (path / "model.safetensors").write_bytes(b"x" * 100)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["model.safetensors"] = {"bytes": 100, "sha256": integrity.sha256(path / "model.safetensors")}
    del manifest["sha256"]
    (path / "manifest.json").write_text(json.dumps(manifest | {"sha256": integrity.fingerprint(manifest)}))
    with pytest.raises(Unreadable, match="its SHA-256 is right, and yet"):
        load_newest(run)
    assert (said, steps(run)) == ([], [10, 20, 30])


@pytest.mark.parametrize("error", [SafetensorError("x"), RuntimeError("unable to mmap 5 bytes"), MemoryError()])
def test_too_little_memory_for_the_tensors_is_not_damage(run, said, monkeypatch, error):
    def load_file(path):
        raise error

    monkeypatch.setattr(integrity, "load_file", load_file)
    for load_some in (load_newest, load_best):
        with pytest.raises(Unreadable):
            load_some(run)
    assert (said, steps(run)) == ([], [10, 20, 30])


def test_a_manifest_of_brackets_is_damaged_and_no_crash(run, said):
    (run / "checkpoints" / "step-00000030" / "manifest.json").write_text("[" * 100_000)
    assert load_newest(run).state["step"] == 20


@pytest.mark.parametrize(
    "changes",
    [
        {"step": None},
        {"step": "30"},
        {"evaluation": [1]},
        {"evaluation": {"loss": "low"}},
        {"evaluations": "ten"},
        {"best_validation_loss": []},
        {"dataset_fingerprint": {}},
        {"complete_evaluation": {}},
        {"evaluation": {"loss": 10**400}},
        {"step": -7},
        {"elapsed_s": math.nan},
        {"micro_batch": {"size": 0}},
        {"micro_batch": {"size": "a"}},
        {"record": {"step": 1}},
        {"unevaluated": {"step": 1}},
        {"overfitting": {"total": "x", "count": 1, "best": None, "at_best": None, "said": False}},
        {"evaluated_windows": "x"},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_state_that_nobody_here_wrote_is_refused_though_its_manifest_agrees(run, said, changes):
    """Whoever gives a run away also writes its hashes."""
    path = list_checkpoints(run)[-1]
    state = json.loads((path / "state.json").read_text()) | changes
    (path / "state.json").write_text(json.dumps(state))
    (path / "manifest.json").write_text(json.dumps(integrity.manifest_of(path, 30)))
    for read in (load_newest, load_best):
        with pytest.raises(InputError, match=f"'{next(iter(changes))}' is .*, which this program does not write"):
            read(run)
    assert steps(run) == [10, 20, 30]
