"""The process that draws and measures beside a training."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers import ROOT

from gpt.dataset.dataset import REMEMBERED
from gpt.evaluation import baselines
from gpt.evaluation.baselines import measure_baselines, read_baselines
from gpt.evaluation.windows import Windows
from gpt.tracking.plot import draw_losses
from gpt.training import beside as module
from gpt.training.beside import NICE, Beside

BEGIN = Beside.begin  # which tests do without


@pytest.fixture
def remembered(dataset):
    """The path of a dataset that was opened before."""
    path = dataset.path / REMEMBERED
    if not path.exists():
        path.write_text("{}")  # of which it then remembers nothing
    return dataset.path


@pytest.fixture
def begun(monkeypatch):
    """A process that has begun, and is waited for on a busy machine."""
    monkeypatch.setattr(module, "PATIENCE", 100.0)
    beside = Beside()
    BEGIN(beside)
    yield beside
    beside.end()


def ends(process):
    """Whether a process ends in time."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(process).wait(60)
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


@pytest.mark.process
@pytest.mark.parametrize(("expected", "tokens"), [(True, None), (False, 500)])
def test_the_same_is_measured_and_drawn_as_by_the_training_itself(
    begun, trained_run, dataset, remembered, expected, tokens
):
    windows = Windows(dataset.validation, 32, dataset.tokenizer.end_of_text, tokens=tokens)
    process = begun.process
    if expected:
        begun._ask(do="expect", data=str(remembered))
    (trained_run / "loss.png").unlink(missing_ok=True)
    begun.measure(trained_run, dataset, windows)
    begun.draw(trained_run)
    assert begun.drawn() == str(trained_run / "loss.png")
    assert (begun.process, process.returncode) == (None, 0)
    drawn = (trained_run / "loss.png").read_bytes()
    assert read_baselines(trained_run, dataset.fingerprint) == measure_baselines(dataset, windows)
    assert drawn == draw_losses(trained_run).read_bytes()


@pytest.mark.process
def test_it_yields_to_the_training(begun):
    """It gets less of processors that are busy, and goes first where memory is short."""
    process, end = psutil.Process(begun.process.pid), time.monotonic() + 60
    while process.nice() != min(19, os.nice(0) + module.NICE) and time.monotonic() < end:
        time.sleep(0.01)
    assert process.nice() == min(19, os.nice(0) + module.NICE)
    if sys.platform == "linux":
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"


@pytest.mark.process
def test_a_picture_that_cannot_be_drawn_is_said(begun, tmp_path):
    begun.draw(tmp_path / "missing")
    assert begun.drawn().startswith("could not be drawn (")


@pytest.mark.process
def test_a_process_that_was_killed_has_drawn_nothing(begun, tmp_path, dataset):
    begun.process.kill()
    begun.process.wait()
    begun.measure(tmp_path, dataset, Windows(dataset.validation, 32))
    begun.draw(tmp_path)
    assert begun.drawn() is None
    assert begun.process is None


@pytest.mark.process
def test_one_that_gets_no_processor_is_not_waited_for(begun, trained_run, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    process = begun.process
    os.kill(process.pid, signal.SIGSTOP)
    begun.draw(trained_run)
    assert begun.drawn() is None
    assert process.returncode == -signal.SIGKILL


@pytest.mark.process
def test_it_yields_to_the_training_and_is_not_reached_by_its_ctrl_c(begun):
    process = begun.process.pid
    assert os.getsid(process) == os.getsid(0), "where niceness counts within a session alone"
    assert os.getpgid(process) != os.getpgid(0)
    deadline = time.monotonic() + 60
    while os.getpriority(os.PRIO_PROCESS, process) != NICE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.getpriority(os.PRIO_PROCESS, process) == NICE


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_the_training_however_that_ends(number):
    program = "from gpt.training.beside import beside; import time; beside.begin(); "
    program += "print(beside.process.pid, flush=True); time.sleep(600)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    training = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, text=True, **pipes)
    process = int(training.stdout.readline())
    training.send_signal(number)
    training.wait()
    assert ends(process)


@pytest.mark.process
def test_it_is_no_part_of_a_program_that_ends_at_once():
    program = "from gpt.training.beside import beside; beside.begin(); print(beside.process.pid)"
    start = time.perf_counter()
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 60
    assert ends(int(found.stdout))


def test_what_is_expected_is_measured_once(dataset, remembered, monkeypatch):
    honest = measure_baselines(dataset, Windows(dataset.validation, 32))
    measuring = module._expected(remembered)
    monkeypatch.setattr(baselines, "_compressed_size", None)
    monkeypatch.setattr(baselines, "NgramCounts", None)
    assert measuring.measure(Windows(dataset.validation, 32)) == honest


@pytest.mark.parametrize("damage", ["validation-00000.bin", REMEMBERED, None])
def test_nothing_is_expected_of_data_that_is_not_there_or_was_never_opened(remembered, tmp_path, damage):
    copy = tmp_path / "data"
    if damage:
        shutil.copytree(remembered, copy)
        (copy / damage).unlink()
    assert module._expected(copy) is None


def test_nobody_asks_where_there_is_no_process(tmp_path, dataset):
    beside = Beside()
    beside.measure(tmp_path, dataset, Windows(dataset.validation, 32))
    beside.draw(tmp_path)
    assert beside.drawn() is None
    beside.end()


def test_a_system_that_has_no_process_to_give_is_done_without(monkeypatch):
    def start(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", start)
    beside = Beside()
    BEGIN(beside)
    assert beside.process is None
