"""The process that draws and measures beside a training."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from helpers import ROOT

from gpt.evaluation.baselines import measure_baselines, read_baselines
from gpt.evaluation.windows import Windows
from gpt.tracking.plot import draw_losses
from gpt.training import beside as module
from gpt.training.beside import Beside

BEGIN = Beside.begin  # which tests do without


@pytest.fixture
def begun():
    """A process that has begun."""
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
def test_the_same_is_measured_and_drawn_as_by_the_training_itself(begun, trained_run, dataset, monkeypatch):
    windows = Windows(dataset.validation, 32, dataset.tokenizer.end_of_text, tokens=500)
    process = begun.process
    (trained_run / "loss.png").unlink(missing_ok=True)
    begun.measure(trained_run, dataset, windows)
    begun.draw(trained_run)
    assert begun.drawn() == str(trained_run / "loss.png")
    assert (begun.process, process.returncode) == (None, 0)
    drawn = (trained_run / "loss.png").read_bytes()
    assert read_baselines(trained_run, dataset.fingerprint) == measure_baselines(dataset, windows)
    assert drawn == draw_losses(trained_run).read_bytes()


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
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_the_training_however_that_ends(number):
    program = "from gpt.training.beside import beside; import time; beside.begin(); "
    program += "print(beside.process.pid, flush=True); time.sleep(600)"
    training = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, stderr=-3)
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
