import contextlib
import hashlib
import io
import logging
import os
import sys
import time

import pytest

from gpt import log as log_module
from gpt.log import Progress, StandardError, log

termios = pytest.importorskip("termios", reason="there are no such terminals")


def test_long_work_is_heard_of_while_a_library_holds_the_main_thread(monkeypatch, said):
    monkeypatch.setattr(log_module, "EVERY_SECONDS", 0.05)
    with Progress() as doing:
        doing.doing = "read 3 of 7 files"
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**6)
    assert len(said) > 2
    assert said[0] == "read 3 of 7 files (0 s)"
    heard = len(said)
    time.sleep(0.2)
    assert len(said) == heard


def test_short_work_is_silent(said):
    with Progress() as doing:
        doing.doing = "reading"
    assert said == []


@contextlib.contextmanager
def terminal(monkeypatch):
    """Standard error as a terminal of 40 columns; gives what returns what was written to it since."""
    controller, end = os.openpty()
    termios.tcsetwinsize(end, (10, 40))
    os.set_blocking(controller, False)

    def shown():
        return (written.read(100_000) or b"").decode()

    with (
        os.fdopen(end, "w") as stream,
        os.fdopen(controller, "rb", buffering=0) as written,
        monkeypatch.context() as changes,
    ):
        changes.setattr(sys, "stderr", stream)
        yield shown


def test_on_a_terminal_one_line_is_drawn_again_below_what_is_said(monkeypatch):
    monkeypatch.setattr(log_module, "EVERY_SECONDS_LIVE", 0.02)
    line = "reading a\u240ab (0 s)"
    blanks = " " * (len(line) + 1)
    with terminal(monkeypatch) as shown, log.through(StandardError()):
        with Progress(live=True) as progress:
            progress.doing = "reading a\nb"
            time.sleep(0.15)
            assert shown().startswith(f"{line}\r{blanks}\r{line}\r")
            log.info("a message")
            assert f"\r{blanks}\ra message\r\n{line}\r" in f"\r{shown()}"
            progress.doing = "x" * 100
            time.sleep(0.15)
            drawn = shown()
            assert "x" * 39 in drawn.split("\r")
            assert "x" * 40 not in drawn
        assert shown().endswith(f"{' ' * 40}\r")  # nothing is left of it


def test_a_line_is_drawn_for_nobody_but_our_own_voice_on_a_terminal(said, monkeypatch):
    """A program with handlers of its own, and a pipe, get lines now and then."""
    monkeypatch.setattr(log_module, "EVERY_SECONDS", 0.02)
    with terminal(monkeypatch) as shown, log.through(logging.NullHandler()), Progress(live=True) as progress:
        progress.doing = "reading"
        time.sleep(0.1)
        assert shown() == ""
    assert said and set(said) == {"reading (0 s)"}
    said.clear()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with log.through(StandardError()), Progress(live=True) as progress:
        progress.doing = "reading"
        time.sleep(0.1)
    assert set(said) == {"reading (0 s)"}
    assert set(sys.stderr.getvalue().splitlines()) == {"reading (0 s)"}


def test_nothing_is_said_of_work_without_a_name(monkeypatch, said):
    monkeypatch.setattr(log_module, "EVERY_SECONDS", 0.02)
    with Progress():
        time.sleep(0.1)
    assert said == []
