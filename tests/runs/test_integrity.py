"""What is damaged is told from what cannot be read, and neither is taken for a checkpoint."""

import errno
import io
import json
import math
import os
import shutil

import pytest
import safetensors.torch
import torch
from helpers import steps_of, tensors
from safetensors import SafetensorError

from gpt import InputError
from gpt.runs import checkpoint, integrity
from gpt.runs.checkpoint import list_checkpoints, load_best, load_newest, prune, save
from gpt.runs.integrity import CorruptCheckpoint, Unreadable

LOAD_FILE = safetensors.torch.load_file


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


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_checkpoint_is_named_and_set_aside_and_the_one_before_used(run, said, damage):
    damage(run / "checkpoints" / "step-00000030")
    loaded = load_newest(run)
    assert loaded.state["step"] == 20
    assert "step-00000030" in said[0]
    assert "set aside as step-00000030.damaged-1" in said[0]
    assert steps_of(run) == [10, 20]
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
    assert steps_of(run) == [10, 20, 30]


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


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_pruning_keeps_what_is_damaged_for_loading_to_judge(run, damage):
    damage(run / "checkpoints" / "step-00000010")
    prune(run, 1)
    assert {20, 30} <= set(steps_of(run))
    judged = damage in (DAMAGES[name] for name in DAMAGES if "manifest" in name or name.endswith("the state"))
    assert (10 in steps_of(run)) == judged


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
    assert steps_of(run) == [10, 20, 30]


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
        {"corpus_fingerprint": 7},
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
    assert steps_of(run) == [10, 20, 30]


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
            return LOAD_FILE(name)

        monkeypatch.setattr(io, "open", open_)
        monkeypatch.setattr("builtins.open", open_)
        monkeypatch.setattr(safetensors.torch, "load_file", load_file)

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
    assert steps_of(run) == [20, 30, 40]  # of those that could be judged, 30 is the best
    assert said == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("file", FILES)
def test_a_file_without_permission_is_not_damaged(run, said, file):
    (run / "checkpoints" / "step-00000030" / file).chmod(0)
    with pytest.raises(Unreadable, match="Permission denied"):
        load_newest(run)
    assert (said, steps_of(run)) == ([], [10, 20, 30])


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
        return LOAD_FILE(path)

    monkeypatch.setattr(integrity, "sha256", sha256)
    monkeypatch.setattr(safetensors.torch, "load_file", load_file)
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
    assert (said, steps_of(run)) == ([], [10, 20, 30])


@pytest.mark.parametrize("error", [SafetensorError("x"), RuntimeError("unable to mmap 5 bytes"), MemoryError()])
def test_too_little_memory_for_the_tensors_is_not_damage(run, said, monkeypatch, error):
    def load_file(path):
        raise error

    monkeypatch.setattr(safetensors.torch, "load_file", load_file)
    for load_some in (load_newest, load_best):
        with pytest.raises(Unreadable):
            load_some(run)
    assert (said, steps_of(run)) == ([], [10, 20, 30])
