"""Faults of one of several processes, started by torchrun."""

import contextlib
import random
import signal
import socket
import time
from pathlib import Path

import psutil
from helpers import same
from processes import torchrun

from gpt.dataset.dataset import Dataset
from gpt.runs.checkpoint import list_checkpoints, step_of
from gpt.tracking.jsonl import read_metrics
from reliability.common import Row, options, require_valid_metrics, wait_for, weights
from reliability.one_process import Process


class Gang:
    """torchrun and the processes that it started."""

    def __init__(
        self, processes: int, dataset: Dataset, run: Path, *more: str, launcher: tuple[str, ...] = (), log: str = ""
    ) -> None:
        self.run = run
        output = run.with_name(log or run.name).with_suffix(".log")
        arguments = [*options(dataset, run), *more]
        self.launcher = torchrun(processes, "train.py", *arguments, cwd=run.parent, output=output, launcher=launcher)

    def ranks(self) -> list[psutil.Process]:
        """The processes that train, by rank."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.launcher.process.pid).children()
            return sorted(children, key=lambda child: int(child.environ().get("RANK", "0")))
        return []

    def starts(self) -> int:
        return self.said().count("from step")

    def steps(self) -> int:
        return max((record["step"] for record in read_metrics(self.run)), default=0) if self.run.exists() else 0

    def said(self) -> str:
        return self.launcher.said()

    def has_ended(self) -> bool:
        return not self.launcher.process.is_alive()

    def end(self) -> int:
        return self.launcher.end()


def two_launchers(dataset: Dataset, directory: Path) -> None:
    """Two nodes on one machine, each with its own torchrun and one process, that meet by a rendezvous.

    With hsdp, so that there are copies between nodes; and a training of one process to compare with.
    """
    more = ("--model.dropout", "0.0", "--steps", "10", "--checkpoint.every", "5")
    one = Process(dataset, directory / "one-node", *more)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    meeting = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-endpoint", f"localhost:{port}")
    run, more = directory / "two-nodes", (*more, "--parallel", "hsdp")
    nodes = [Gang(1, dataset, run, *more, launcher=meeting, log=f"node-{number}") for number in range(2)]
    assert [node.end() for node in nodes] == [0, 0], [node.said() for node in nodes]
    assert one.end() == 0


def changing_numbers(dataset: Dataset, directory: Path, numbers: list[int]) -> None:
    """One run by 4 processes, then 1, 2 and 4 again, each for an equal part of its steps."""
    run = directory / "changing"
    for part, number in enumerate(numbers, 1):
        last = ("--stop-at", str(500 * part // len(numbers))) if part < len(numbers) else ()
        gang = Gang(number, dataset, run, "--steps", "500", "--model.dropout", "0.0", *last)
        assert gang.end() == (0 if part == len(numbers) else 1), gang.said()


def dead_ranks(dataset: Dataset, directory: Path, count: int, steps: int, rng: random.Random) -> Row:
    """kill -9 of one of three processes, up to three times a run, under `torchrun --max-restarts 3`."""
    row = Row("kill -9 of one of three processes under torchrun")
    last = ("--steps", str(steps))
    undisturbed = Gang(3, dataset, directory / "undisturbed-gang", *last)
    assert undisturbed.end() == 0, undisturbed.said()
    expected = weights(directory / "undisturbed-gang", steps)
    number = 0
    while row.tried < count:
        number += 1
        gang = Gang(3, dataset, directory / f"gang-{number}", *last, launcher=("--max-restarts", "3"))
        killed = 0
        while killed < 3 and row.tried + killed < count:
            before = gang.steps()
            wait_for(lambda: gang.has_ended() or (gang.starts() > killed and gang.steps() > before))  # noqa: B023
            time.sleep(rng.uniform(0, 0.3))
            ranks = gang.ranks()
            if gang.has_ended() or not ranks:
                break  # it has finished
            done = gang.steps()
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(ranks).kill()
            newest = list_checkpoints(gang.run)
            row.lost += max(0, done - (step_of(newest[-1]) if newest else 0))
            killed += 1
        code = gang.end()
        good = code == 0 and same(weights(gang.run, steps), expected)
        require_valid_metrics(gang.run, steps)
        row.tried += killed
        row.survived += killed if good else 0
        assert good, gang.said()
    return row


def signals_to_ranks(dataset: Dataset, directory: Path, count: int, rng: random.Random) -> Row:
    """A signal to one, two or all of three processes: all save the same step and end with 75."""
    row = Row("SIGINT, SIGTERM or SIGUSR1 to some of three processes")
    number = 0
    while row.tried < count:
        number += 1
        gang = Gang(3, dataset, directory / f"ranks-{number}", "--steps", "100000")
        wait_for(lambda: gang.steps() > 3)  # noqa: B023
        time.sleep(rng.uniform(0, 0.3))
        ranks, start = gang.ranks(), time.monotonic()
        kind = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
        for rank in rng.sample(ranks, rng.randint(1, 3)):
            rank.send_signal(kind)
        code = gang.end()
        saved = step_of(list_checkpoints(gang.run)[-1])
        took, said = time.monotonic() - start, gang.said()
        good = code == 1 and said.count("exitcode  : 75") == 3 and f"stopped after step {saved:,}, saved" in said
        row.count(good and took < 10, gang.steps() - saved)
    return row


def has_ended(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def hung_ranks(dataset: Dataset, directory: Path, count: int, rng: random.Random) -> Row:
    """SIGSTOP to one of three processes: the others end with an error within the timeout."""
    row = Row("a process of three that hangs (SIGSTOP), --timeout 5")
    for number in range(count):
        gang = Gang(3, dataset, directory / f"hang-{number}", "--steps", "100000", "--timeout", "5")
        wait_for(lambda: gang.steps() > 3)  # noqa: B023
        stopped, *others = rng.sample(gang.ranks(), 3)
        stopped.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        wait_for(lambda: all(has_ended(other) for other in others))  # noqa: B023
        took = time.monotonic() - start
        stopped.kill()
        gang.end()
        newest = list_checkpoints(gang.run)
        lost = gang.steps() - (step_of(newest[-1]) if newest else 0)
        row.count(took < 5 + 5 and "did not answer for 5 s" in gang.said(), lost)
    return row
