"""Real programs that get SIGINT at several moments: one sentence, no traceback, nothing by half."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from helpers import ROOT

from gpt import interrupts


def begin(code_or_script, *arguments, cwd):
    command = [sys.executable, *(["-c", code_or_script] if "\n" in code_or_script else [str(ROOT / code_or_script)])]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    output, errors = process.communicate(timeout=100)
    assert "Traceback" not in errors, errors
    return process.returncode, output, errors.strip()


@pytest.mark.parametrize("script", ["train.py", "sample.py", "data/textfiles.py"])
def test_ctrl_c_while_libraries_load_is_a_word(script, tmp_path):
    """Loading is held up at torch, so that the moment is sure."""
    (tmp_path / "torch.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    (tmp_path / "tyro.py").write_text((tmp_path / "torch.py").read_text())
    code = f"""
        import runpy, sys
        sys.path[:0] = [{str(tmp_path)!r}]
        sys.argv = [{script!r}]
        runpy.run_path({str(ROOT / script)!r}, run_name="__main__")
    """
    process = begin(textwrap.dedent(code), cwd=tmp_path)
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    assert ended(process) == (interrupts.INTERRUPTED, "", "interrupted")


HELD = """
import hashlib, sys, time
from pathlib import Path
from gpt.cli import sentences
from gpt.interrupts import Interruptible

with sentences():
    partial = Path(".data.partial")
    partial.mkdir()
    with Interruptible(partial, "nothing was written"):
        try:
            print("held", flush=True)
            if sys.argv[1] == "held":  # by a library: no step of Python, and no handler, for half a minute or more
                hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)
            time.sleep(30)
        finally:
            partial.rmdir()
"""


@pytest.mark.parametrize("how", ["held", "free"])
def test_work_ends_though_a_library_holds_the_main_thread_and_leaves_nothing_by_half(how, tmp_path):
    process = begin(HELD, how, cwd=tmp_path)
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    code, _, errors = ended(process)
    assert (code, errors) == (interrupts.INTERRUPTED, "interrupted: nothing was written")
    assert time.monotonic() - start < 20  # it was to be held for 30 s
    assert list(tmp_path.iterdir()) == []


def test_what_is_finished_is_not_interrupted(tmp_path):
    with interrupts.Interruptible(tmp_path / "partial", "nothing") as interruptible:
        interruptible.finish()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt, match="nothing was written"):  # noqa: SIM117
        with interrupts.Interruptible(tmp_path / "partial", "nothing was written"):
            signal.raise_signal(signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_listener_hears_what_the_main_thread_does_not():
    heard = []
    with interrupts.Listener(heard.append):
        before = signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.raise_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while not heard and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]
    assert signal.set_wakeup_fd(-1) == -1
