"""Real programs that get SIGINT at several moments: one sentence, no traceback, nothing by half."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from helpers import ROOT
from processes import Script

from gpt import interrupts

pytestmark = pytest.mark.process


def begin(code, cwd):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
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


def script(path):
    return f'runpy.run_path({str(ROOT / path)!r}, run_name="__main__")'


INSTALLED = "from gpt.__main__ import main; main()"  # the program that an installer writes
PROGRAMS = {path: script(path) for path in ("train.py", "sample.py", "data/prepare.py")}
COMMANDS = ("train", "sample", "prepare", "score", "eval", "export", "cost")
PROGRAMS |= {f"gpt {command}": INSTALLED for command in COMMANDS}
PROGRAMS["-m gpt eval"] = 'runpy.run_module("gpt", run_name="__main__")'


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_while_libraries_load_is_a_word(program, tmp_path):
    """Loading is held up at the first library that takes long, so that the moment is sure."""
    for library in ("torch", "numpy", "tyro"):
        # Many short sleeps: a signal between the last step of Python and a long one would be heard at its end.
        held = "import time\nprint('loading', flush=True)\nfor _ in range(600):\n    time.sleep(0.1)\n"
        (tmp_path / f"{library}.py").write_text(held)
    code = f"""
        import runpy, sys
        sys.path[:0] = [{str(tmp_path)!r}]
        sys.argv = {program.removeprefix("-m ").split()}
        {PROGRAMS[program]}
    """
    process = begin(code, cwd=tmp_path)
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    assert ended(process) == (interrupts.INTERRUPTED, "", "interrupted")


def test_garbage_is_looked_for_again_once_all_is_loaded():
    interrupts.end_quietly_while_loading()
    assert not gc.isenabled()
    interrupts.loaded()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0  # not in what was loaded
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def fork(program, *arguments, tmp_path):
    """Start a program, written down, in an empty directory, as a process that has its libraries loaded already."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    outputs = {"output": tmp_path / "output", "errors": tmp_path / "errors"}
    started = Script(tmp_path / "program.py", *arguments, cwd=tmp_path / "empty", **outputs)
    deadline = time.monotonic() + 60
    while started.said() != "held\n":
        assert started.process.is_alive() and time.monotonic() < deadline, outputs["errors"].read_text()
        time.sleep(0.02)
    return started


def interrupt_held(started, tmp_path):
    """Send SIGINT to what holds the main thread for 30 s; what it says on standard error."""
    start = time.monotonic()
    assert started.stop(signal.SIGINT) == interrupts.INTERRUPTED
    assert time.monotonic() - start < 20
    assert started.said() == "held\n"
    errors = (tmp_path / "errors").read_text()
    assert "Traceback" not in errors
    return errors.strip()


HELD = """
    import hashlib, sys, time
    from pathlib import Path
    from gpt import interrupts
    from gpt.commands import clean_errors

    interrupts.GRACE_SECONDS = 0.2
    with clean_errors():
        partial = Path(".data.partial")
        partial.mkdir()
        with interrupts.Interruptible(partial, "nothing was written"):
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
    started = fork(HELD, how, tmp_path=tmp_path)
    assert interrupt_held(started, tmp_path) == "interrupted: nothing was written"
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_training_that_prepares_its_data_ends_at_once_though_a_library_holds_it(tmp_path):
    program = """
        import hashlib
        from pathlib import Path
        from gpt import interrupts
        from gpt.commands import clean_errors
        from gpt.commands.train import prepare_default
        from gpt.corpus.reading import Corpus
        from gpt.training.signals import StopRequest

        def hold(*_):
            print("held", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)

        interrupts.GRACE_SECONDS = 0.2
        Corpus.__init__ = hold
        with clean_errors(), StopRequest():
            prepare_default(Path("data/python"))
    """
    errors = interrupt_held(fork(program, tmp_path=tmp_path), tmp_path)
    assert errors.startswith("preparing data/python")
    assert errors.endswith("interrupted: nothing was written")
    assert list((tmp_path / "empty" / "data").iterdir()) == []


def test_ctrl_c_again_while_a_program_ends_is_silent(tmp_path):
    program = """
        import atexit, time
        from gpt.commands import clean_errors
        with clean_errors():
            atexit.register(time.sleep, 30)
            print("begun", flush=True)
            time.sleep(30)
    """
    process = begin(program, cwd=tmp_path)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "interrupted\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (-signal.SIGINT, "", "")


def test_work_is_not_finished_while_the_process_is_being_ended(tmp_path, monkeypatch):
    """The end came a moment too early: what is written last must not then be done by half."""
    removing, happened = threading.Event(), []

    def remove_slowly(*_, **__):
        removing.set()
        time.sleep(0.3)

    monkeypatch.setattr(interrupts.shutil, "rmtree", remove_slowly)
    monkeypatch.setattr(interrupts, "GRACE_SECONDS", 0)
    monkeypatch.setattr(interrupts, "end_now", lambda _: happened.append("ended"))
    work = interrupts.Interruptible(tmp_path / "partial", "nothing was written")
    thread = threading.Thread(target=work._heard, args=(signal.SIGINT,))
    thread.start()
    assert removing.wait(10)
    work.finish()
    happened.append("finished")
    thread.join()
    assert happened == ["ended", "finished"]


def test_one_context_within_another_says_its_words(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="the inner"), interrupts.Interruptible():  # noqa: SIM117
        with interrupts.Interruptible(tmp_path / "partial", "the inner"):
            signal.raise_signal(signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1


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


def test_a_library_that_is_not_installed_is_named_and_other_errors_have_their_traceback(capfd):
    def told(error):
        interrupts._explain(type(error), error, None)
        return capfd.readouterr().err

    missing = told(ModuleNotFoundError("No module named 'psutil._x'", name="psutil._x"))
    assert missing.startswith(f"error: psutil is not installed for {sys.executable}: activate the environment")
    for error in (ModuleNotFoundError("No module named 'gpt.x'", name="gpt.x"), ValueError("a fault"), KeyError("x")):
        assert told(error).startswith(type(error).__name__)
