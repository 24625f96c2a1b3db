"""What is begun before libraries are loaded, by what the arguments look like."""

import subprocess
import sys
from unittest import mock

import pytest
from helpers import save_steps

from gpt.commands import ahead
from gpt.training.beside import Beside


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    """The files that are hashed ahead, in a directory with a run below runs/ and one elsewhere."""
    (tmp_path / "runs").mkdir()
    for name in ("runs/older", "newer"):
        save_steps(tmp_path / name, [3.0, 1.0, 2.0])
        (tmp_path / name / "config.json").write_text('{"format": "gpt-run"}')
    monkeypatch.chdir(tmp_path)
    files = []
    monkeypatch.setattr(ahead, "hash_ahead", lambda path: files.append(path.as_posix()))
    return files


BEST = "checkpoints/step-00000020/model.safetensors"


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["--run", "newer", "--prompt", "def"], f"newer/{BEST}"),
        (["--prompt", "def", "--run=newer"], f"newer/{BEST}"),
        (["--run", "older"], f"runs/older/{BEST}"),
        (["--prompt", "def"], f"runs/older/{BEST}"),
        ([], f"runs/older/{BEST}"),
    ],
)
def test_the_weights_that_will_be_sampled_from_are_hashed(hashed, arguments, file):
    ahead.begin("sample", arguments)
    assert hashed == [file]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("sample", ["--run", "newer", "--checkpoint", "last"]),
        ("sample", ["--run", "newer", "--checkpoint=10"]),
        ("sample", ["--run", "newer", "--help"]),
        ("sample", ["--run", "missing"]),
        ("sample", ["--run"]),
        ("eval", ["--run", "newer"]),
    ],
)
def test_nothing_is_hashed_where_it_is_not_known_what(hashed, tmp_path, command, arguments):
    if arguments == ["--run"]:
        (tmp_path / "runs/older/config.json").unlink()  # there is no newest one
    ahead.begin(command, arguments)
    assert hashed == []


def test_a_checkpoint_that_cannot_be_read_is_left_to_the_command(hashed, tmp_path):
    for path in (tmp_path / "newer" / "checkpoints").iterdir():
        (path / "manifest.json").write_text("{")
    ahead.begin("sample", ["--run", "newer"])
    assert hashed == []


@pytest.mark.parametrize(
    ("arguments", "rank", "begun"),
    [
        (["nano", "--data", "data/own"], None, ["data/own"]),
        ([], "0", [None]),
        ([], "1", []),
        (["nano", "--dry-run"], None, []),
        (["-h"], None, []),
    ],
)
def test_one_process_begins_beside_a_training(monkeypatch, arguments, rank, begun):
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with mock.patch.object(Beside, "begin") as begin:
        ahead.begin("train", arguments)
    assert [call.args[0] for call in begin.call_args_list] == begun


@pytest.mark.process
def test_what_takes_long_to_import_is_not_imported_for_it():
    program = (
        "import sys; from gpt.commands.ahead import begin; begin('sample', []);"
        "from gpt.training.beside import beside; print({'torch', 'matplotlib'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
