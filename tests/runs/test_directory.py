"""A run's directory: its name, its lock, its files, and what becomes of a start that is refused."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from filelock import FileLock

from gpt import InputError
from gpt.runs.directory import is_run, newest_run, open_run, read_config, require_unused, write_config, write_tokenizer
from gpt.runs.load import load_tokenizer


def test_files_of_a_run(trained_run):
    names = {path.name for path in trained_run.iterdir()}
    assert names == {
        ".lock",
        "config.json",
        "tokenizer.json",
        "metrics.jsonl",
        "checkpoints",
    }  # loss.png is the report's
    assert json.loads((trained_run / "config.json").read_text())["version"] == 2


def test_new_runs_get_names_of_their_own(monkeypatch, tmp_path, tiny_config, dataset):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        with open_run(tiny_config, dataset.tokenizer, resume=False) as run:
            names.append(run.as_posix())
    assert names == ["runs/python-custom", "runs/python-custom-2", "runs/python-custom-3"]
    assert read_config(tmp_path / names[1]).run_dir.as_posix() == names[1]


def test_a_directory_in_use_is_refused(trained_run, tmp_path, tiny_config, dataset):
    with pytest.raises(InputError, match="already holds a run; go on with it by `resume`"):
        open_run(replace(tiny_config, run_dir=trained_run), dataset.tokenizer, resume=False).__enter__()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="exists and is not empty"):
        open_run(replace(tiny_config, run_dir=tmp_path / "mine"), dataset.tokenizer, resume=False).__enter__()
    with pytest.raises(InputError, match="is no directory; choose another"):
        require_unused(tmp_path / "mine" / "letter.txt")


def test_two_trainers_cannot_have_one_run_and_the_lock_ends_with_its_holder(trained_run, tiny_config, dataset):
    config = replace(tiny_config, run_dir=trained_run)
    with (
        open_run(config, dataset.tokenizer, resume=True),
        pytest.raises(InputError, match="another process is training in it; wait until it ends"),
    ):
        open_run(config, dataset.tokenizer, resume=True).__enter__()
    with open_run(config, dataset.tokenizer, resume=True) as run:
        assert run == trained_run


def test_a_process_that_was_killed_leaves_no_lock(trained_run):
    code = "import filelock, os, sys; filelock.FileLock(sys.argv[1]).acquire(); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code, str(trained_run / ".lock")], check=False)
    assert killed.returncode == -9
    FileLock(trained_run / ".lock").acquire(timeout=0).lock.release()


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize(
    ("number", "there", "said"),
    [
        (errno.ENOSYS, True, r"\.lock says .*: if none is training, on any machine, remove it|cannot be locked"),
        (errno.ENOLCK, False, r"cannot be locked \(No locks available\); .* on another one|remove it"),
        (errno.EWOULDBLOCK, False, "another process is training in it; wait until it ends"),
    ],
)
def test_where_a_run_cannot_be_locked_it_is_said_what_to_do(
    number, there, said, trained_run, tiny_config, dataset, monkeypatch
):
    """Some network file systems have no flock; what is said of them depends on filelock's version."""
    fcntl = pytest.importorskip("fcntl")
    if not there:
        (trained_run / ".lock").unlink(missing_ok=True)

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError, match=said):
        open_run(replace(tiny_config, run_dir=trained_run), dataset.tokenizer, resume=True).__enter__()


def test_the_newest_run_is_the_one_last_written_to(tmp_path, tiny_config):
    with pytest.raises(InputError, match="there is no run"):
        newest_run(tmp_path)
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, tiny_config)
        time.sleep(0.02)
    (tmp_path / "not a run").mkdir()
    assert newest_run(tmp_path).name == "c"
    (tmp_path / "b" / "checkpoints" / "step-00000001").mkdir(parents=True)
    time.sleep(0.02)
    (tmp_path / "c" / "checkpoints").mkdir()
    assert newest_run(tmp_path).name == "c"
    assert newest_run(tmp_path, with_checkpoint=True).name == "b"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"version": 2}', '{"version": 9, "config": {}}'])
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert not is_run(tmp_path)
    with pytest.raises(InputError, match=r"config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize("error", [InputError("refused"), OSError("no space"), KeyboardInterrupt(), RuntimeError("x")])
@pytest.mark.parametrize("existed", [False, True])
def test_a_start_that_is_refused_before_its_first_step_leaves_its_name_free(
    tiny_config, dataset, tmp_path, error, existed
):
    config = replace(tiny_config, run_dir=tmp_path / "run")
    if existed:
        config.run_dir.mkdir()
    with pytest.raises(type(error)), open_run(config, dataset.tokenizer, resume=False):
        raise error
    assert config.run_dir.exists() == existed
    with open_run(config, dataset.tokenizer, resume=False) as run:
        assert is_run(run)


def test_what_has_trained_is_kept_whatever_refuses_it_later(trained_run, tiny_config, dataset):
    before = sorted(path.name for path in trained_run.rglob("*"))
    with pytest.raises(InputError), open_run(replace(tiny_config, run_dir=trained_run), dataset.tokenizer, resume=True):
        raise InputError("refused")
    with (
        pytest.raises(InputError, match="already holds a run"),
        open_run(replace(tiny_config, run_dir=trained_run), dataset.tokenizer, resume=False),
    ):
        pass
    assert sorted(path.name for path in trained_run.rglob("*")) == before


@pytest.mark.parametrize("name", ["notes.txt", "tokenizer.json"])
def test_a_directory_of_something_else_is_refused_and_left_as_it_is(tiny_config, dataset, tmp_path, name):
    """Also where a file has a name that a run's file has."""
    (tmp_path / name).write_text("mine")
    with (
        pytest.raises(InputError, match="not empty"),
        open_run(replace(tiny_config, run_dir=tmp_path), dataset.tokenizer, resume=False),
    ):
        pass
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("resume", [False, True])
def test_a_name_that_is_not_utf8_is_refused_before_anything_is_written(tiny_config, dataset, tmp_path, resume):
    config = replace(tiny_config, run_dir=tmp_path / "caf\udce9")
    with (
        pytest.raises(InputError, match="is not UTF-8; name another directory"),
        open_run(config, dataset.tokenizer, resume),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_run_that_cannot_be_written_is_named(tiny_config, dataset, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpt.runs.directory.write_config", full)
    config = replace(tiny_config, run_dir=tmp_path / "run")
    with (
        pytest.raises(OSError, match=r"`run_dir` .*run: cannot be written \(No space left on device\); make space"),
        open_run(config, dataset.tokenizer, resume=False),
    ):
        pass
    assert not config.run_dir.exists()


def test_a_directory_that_cannot_be_made_is_named(tiny_config, dataset, tmp_path):
    (tmp_path / "file").write_text("")
    config = replace(tiny_config, run_dir=tmp_path / "file" / "run")
    with pytest.raises(InputError, match=r"`run_dir` .*run: cannot be made \(Not a directory\)"):
        open_run(config, dataset.tokenizer, resume=False).__enter__()


def test_a_start_after_one_that_was_killed_at_once_is_accepted(tiny_config, dataset, tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "tokenizer.json").write_text("half")
    with open_run(replace(tiny_config, run_dir=tmp_path), dataset.tokenizer, resume=False) as run:
        assert load_tokenizer(run).fingerprint == dataset.tokenizer.fingerprint


def test_a_run_keeps_its_tokenizer_until_nothing_can_refuse_to_go_on(trained_run, tiny_config, dataset, bpe):
    before = (trained_run / "tokenizer.json").read_bytes()
    with pytest.raises(InputError), open_run(replace(tiny_config, run_dir=trained_run), bpe, resume=True):
        raise InputError("the learning rate would jump")
    assert (trained_run / "tokenizer.json").read_bytes() == before
    write_tokenizer(trained_run, bpe)
    assert load_tokenizer(trained_run).fingerprint == bpe.fingerprint
