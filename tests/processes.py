"""Ways to run a program as a process of its own.

Most are forked from a server that has torch loaded already, which makes them start in a moment; what is forked is all
of a script, and it dies as any process does. What `torchrun` starts begins anew.
"""

import gc
import multiprocessing
import os
import runpy
import socket
import sys
from pathlib import Path
from unittest import mock

import torch
from torch.distributed import run

from gpt.training.beside import Beside

ROOT = Path(__file__).parents[1]
LONGEST_WAIT = 120.0  # seconds; a machine that is slower than this is not the subject

FORKS = multiprocessing.get_context("forkserver")
SERVER_LOOKS_IN = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *filter(None, sys.path)])
LOADED = ["helpers", "gpt.commands.prepare", "gpt.commands.sample", "torch.distributed.fsdp", "torch.distributed.run"]
LOADED += ["torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg"]  # which each training loads
FORKS.set_forkserver_preload(LOADED)


def _run(script: str, arguments: list[str], directory: str, outputs: list[str], environment: dict[str, str]) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, output in enumerate(outputs, 1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
    _become(script, arguments, directory, environment)


def run_in_terminal(script: str, arguments: list[str], directory: str, terminal: str, environment: dict[str, str]):
    """Be a script at a terminal, which is that of the process from here on: its Ctrl-C is a signal."""
    os.setsid()
    shown = os.open(terminal, os.O_RDWR)
    for number in range(3):
        os.dup2(shown, number)
    torch.set_num_threads(1)  # two that wait for each other spin away the time of the tests beside them
    _become(script, arguments, directory, environment)


def _become(script: str, arguments: list[str], directory: str, environment: dict[str, str]) -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):  # anew: a stream remembers what it was opened upon
        by_line = number == 2 or os.isatty(number)
        stream = open(number, "w" if number else "r", 1 if by_line else -1, encoding="utf-8", closefd=False)
        setattr(sys, name, stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    Beside.begin = lambda *_: None  # it would load matplotlib, which is here
    gc.freeze()  # what the server has loaded need not be looked through, which would copy it
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def forked(*given: object, target=_run) -> multiprocessing.Process:
    """Start a process that does what `target` does with all that is given."""
    process = FORKS.Process(target=target, args=given)
    with mock.patch.dict(os.environ, PYTHONPATH=SERVER_LOOKS_IN):  # the first starts the server
        process.start()
    return process


class Script:
    """A script at work in a process, forked; what it prints goes to a file."""

    def __init__(self, script: str | Path, *arguments: object, cwd: Path, output=None, errors=None, **more: str):
        """Start it in a directory; `more` are variables of its environment, `errors` a file of its own for errors."""
        self.output = output or cwd / f"{Path(script).stem}-{os.urandom(4).hex()}.log"
        self.output.unlink(missing_ok=True)
        outputs = [str(self.output), str(errors or self.output)]
        self.process = forked(str(ROOT / script), list(map(str, arguments)), str(cwd), outputs, os.environ | more)

    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def stop(self, number: int) -> int:
        """Send a signal and wait; the exit code."""
        os.kill(self.process.pid, number)
        return self.end()

    def end(self) -> int:
        """Wait; the exit code."""
        self.process.join(LONGEST_WAIT)
        assert self.process.exitcode is not None, "it hangs"
        return self.process.exitcode


def run_script(script, *arguments, cwd, code=0):
    """What a script of the repository prints, its exit code and lack of a traceback checked."""
    started = Script(script, *arguments, cwd=cwd)
    assert started.end() == code, started.said()
    output = started.said()
    started.output.unlink()
    assert "Traceback" not in output
    return output


def world(processes, program, *arguments, cwd, failing=False):
    """What the ranks of a world print, each a forked process; `failing`: none of them ends well."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    size = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    ranks = [
        Script(program, *arguments, cwd=cwd, RANK=str(rank), LOCAL_RANK=str(rank), **size, **where)
        for rank in range(processes)
    ]
    codes = [rank.end() for rank in ranks]
    output = "\n".join(rank.said() for rank in ranks)
    assert all(codes) if failing else not any(codes), output
    return output


def torchrun(processes: int, script: str | Path, *arguments: object, cwd: Path, output: Path, launcher=()) -> Script:
    """Start torchrun, with options of its own as `launcher`, and a script."""
    command = ["--nproc-per-node", processes, *launcher, "--", ROOT / script, *arguments]
    return Script(run.__file__, *command, cwd=cwd, output=output, OMP_NUM_THREADS="1")
