"""The interactive session of sample.py, in a real terminal and in a pipe."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time

import pytest
from helpers import ROOT, run_sample
from processes import forked, run_in_terminal

CONTROL_CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r")


class Terminal:
    """A script in a pseudo-terminal: type into it, and wait for what it shows, control codes left out."""

    def __init__(self, directory, script, *arguments):
        self.terminal, theirs = pty.openpty()
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("4H", 50, 160, 0, 0))  # no line is wrapped
        given = (str(ROOT / script), list(arguments), str(directory), os.ttyname(theirs))
        environment = os.environ | {"XDG_STATE_HOME": str(directory / "state")}
        self.process = forked(*given, environment, target=run_in_terminal)
        self.received = ""
        self.deadline = time.monotonic() + 60

    def type(self, text):
        os.write(self.terminal, text.encode())

    def expect(self, wanted):
        """Read on until `wanted` was shown after all that was expected before; what came before it."""
        while wanted not in (shown := CONTROL_CODES.sub("", self.received)):
            assert time.monotonic() < self.deadline, f"{wanted!r} never came, but {shown!r}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.received += os.read(self.terminal, 4096).decode(errors="replace")
        before, _, self.received = shown.partition(wanted)
        return before

    def exit_code(self):
        self.process.join(max(0, self.deadline - time.monotonic()))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        return self.process.exitcode


PROMPT = " tokens] >"


@pytest.fixture
def session_command(trained):
    run = trained[0] / "runs" / "python-nano"
    return ["sample.py", "--device", "cpu", "--max-tokens", "12", "--seed", "1", "--run", str(run)]


def test_an_interactive_session_in_a_real_terminal(session_command, tmp_path):
    """Every command, a paste, Tab, Ctrl-C in mid-generation and at the prompt, Ctrl-D; then the history of it."""
    session = Terminal(tmp_path, *session_command)
    session.expect(PROMPT)
    type_every_command(session, tmp_path, session_command[-1])
    enter(session, "/max-tokens 1000000", "max_tokens is 1000000")
    session.type("too early\r\x03")  # Ctrl-C right after Enter, before the terminal is as it was
    session.expect("too early\n[temperature")  # the next prompt, and no continuation
    session.expect(PROMPT)
    session.type("class y\r")
    session.expect("\nclass y")  # no echo of what is typed, which stands behind the prompt: it is being continued
    session.type("\x03")  # Ctrl-C, in mid-generation
    session.expect("[stopped]")
    session.expect(PROMPT)
    session.type("never sent\x03")  # Ctrl-C at the prompt drops the line
    session.expect(PROMPT)
    session.type("\x04")  # Ctrl-D
    assert session.exit_code() == 0
    again = Terminal(tmp_path, *session_command)
    again.expect(PROMPT)
    again.type("\x1b[A")  # arrow up: the last line of the session before
    again.expect("class y")
    again.type("\x15\x04")
    assert again.exit_code() == 0


def type_every_command(session, directory, run):
    enter(session, "/help", "/why", "/temperature 0.7")
    for name, value in SETTINGS:
        shown = f"{name.removeprefix('repetition-')} {value}"
        enter(session, f"/{name} {value}", f"{name.replace('-', '_')} is {value}", shown)
    enter(session, "def x", "def x")
    enter(session, "")
    enter(session, "/undo", "back to: def x")
    enter(session, "/retry", "def x")
    enter(session, "/why", "%")
    enter(session, "/save story.txt", "story.txt: ")
    assert (directory / "story.txt").read_text().startswith("def x")
    enter(session, "/save story.txt", "is there already")
    enter(session, f"/load {run}", "python-nano, step")
    session.type("\x1b[200~class A:\n    pass\n\x1b[201~")  # a paste of two lines
    enter(session, "", "class A:", "    pass")
    session.type("/res\t\r")  # Tab completes
    session.expect("text forgotten")
    session.expect(PROMPT)


def enter(session, line, *expected):
    """Type a line; what is shown up to the next prompt has all that is expected, in this order."""
    session.type(line + "\r")
    for text in expected:
        session.expect(text)
    session.expect(PROMPT)


SETTINGS = [
    ("temperature", 0.7),
    ("top-k", 5),
    ("top-p", 0.9),
    ("min-p", 0.01),
    ("repetition-penalty", 1.1),
    ("seed", 3),
]


def test_an_interactive_session_in_a_pipe(trained):
    home, _ = trained
    lines = "def x\n/undo\n/nonsense\n/help\n"
    output = run_sample(home, "--interactive", "--max-tokens", 12, "--seed", 1, stdin=lines)
    for text in ("def x", "back to the beginning", "unknown command '/nonsense'", "/why"):
        assert text in output
    assert "\x1b" not in output
