"""Campaigns against a real training: kills, damage, full disks, signals, dead ranks. Each returns a row of the table.

Trainings of one process are forked from a server that has torch loaded already, so that hundreds are quick; what is
forked is all of train.py, with its own run directory, and dies as any process does.
"""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from helpers import ROOT, Training, heard

import train
from gpt import files
from gpt.commands import clean_errors
from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.runs import checkpoint, integrity
from gpt.runs.checkpoint import list_checkpoints, load, step_of
from gpt.runs.directory import open_run
from gpt.tracking.jsonl import read_metrics

STEPS = 200
SHAPE = (
    "nano --model.n-layer 2 --model.n-head 2 --model.n-embd 64 --model.context-length 32 --model.ngram-buckets 512 "
    "--model.dropout 0.1 --batch-tokens 384 --evaluation.sample-tokens 4"
)
PACE = f"--device cpu --steps {STEPS} --evaluation.every 50 --checkpoint.every 5 --log-every 1"
Tensors = dict[str, torch.Tensor]
LONGEST_WAIT = 120.0  # seconds; a machine that is slower than this is not the subject


@dataclass
class Row:
    """What became of the faults of one kind."""

    fault: str
    tried: int = 0
    survived: int = 0
    lost: int = 0
    """Steps done but not saved at the moment of the fault, over all of them."""

    def count(self, survived: bool, lost: int = 0) -> None:
        self.tried += 1
        self.survived += survived
        self.lost += lost


def wait_for(condition: Callable[[], bool], pause: float = 0.01) -> None:
    end = time.monotonic() + LONGEST_WAIT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(pause)


def options(dataset: Dataset, run: Path) -> list[str]:
    return [*SHAPE.split(), *PACE.split(), "--data", str(dataset.path), "--run-dir", str(run), "--resume"]


def weights(run: Path, steps: int = STEPS) -> Tensors:
    newest = list_checkpoints(run)[-1]
    assert step_of(newest) == steps, newest
    return load(newest, optimizer=True).model


def same(one: Tensors, two: Tensors) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def require_valid_metrics(run: Path, last: int) -> None:
    steps = [record["step"] for record in read_metrics(run)]
    assert steps == list(range(1, last + 1)), steps


# ---- trainings of one process ----


def _train(arguments: list[str], output: Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    with clean_errors():
        sys.exit(train.main(arguments))


class Process:
    """train.py at work in a process of its own."""

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # the server looks nowhere else
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["campaigns"])

    def __init__(self, dataset: Dataset, run: Path, *more: str) -> None:
        self.run, self.output = run, run.with_suffix(".log")
        self.output.unlink(missing_ok=True)
        self.process = self.context.Process(target=_train, args=([*options(dataset, run), *more], self.output))
        self.process.start()

    def wait_for_steps(self) -> bool:
        """Until it has begun to train, or is at its end; whether it is still alive."""
        wait_for(lambda: not self.process.is_alive() or "from step" in self.said())
        return self.process.is_alive()

    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def began_at(self) -> int:
        return int(self.said().split("from step ")[1].split(" ")[0].replace(",", ""))

    def stop(self, number: int) -> int:
        """Send a signal and wait; the exit code."""
        os.kill(self.process.pid, number)
        return self.end()

    def end(self) -> int:
        self.process.join(LONGEST_WAIT)
        assert self.process.exitcode is not None, "it hangs"
        return self.process.exitcode


def reference(dataset: Dataset, directory: Path) -> Tensors:
    """The weights of an undisturbed run."""
    assert Process(dataset, directory / "undisturbed").end() == 0
    require_valid_metrics(directory / "undisturbed", STEPS)
    return weights(directory / "undisturbed")


def disturbed(dataset: Dataset, directory: Path, expected: Tensors) -> Iterator[Process]:
    """One training after the other of a run that the caller disturbs, and of the next one when that is finished.

    Each must go on from the newest checkpoint that was there, and a finished run must have the expected weights.
    """
    number = 0
    while True:
        number += 1
        run = directory / f"disturbed-{number}"
        while True:
            before = [step_of(path) for path in list_checkpoints(run)]
            training = Process(dataset, run)
            if training.wait_for_steps():
                yield training
            code = training.end()
            if "from step" in training.said():
                assert training.began_at() == (before[-1] if before else 0), training.said()
                assert not before or not list((run / "checkpoints").glob(".step-*")) or code != 0
            if code == 0:
                break
            assert code in (-signal.SIGKILL, 75), training.said()
        require_valid_metrics(run, STEPS)
        assert same(weights(run), expected)


def kills(dataset: Dataset, directory: Path, expected: Tensors, count: int, rng: random.Random) -> list[Row]:
    """kill -9 at random moments; half of them in a save, which a leftover proves."""
    saving, training_row = Row("kill -9 during a save"), Row("kill -9 at another moment")
    for training in disturbed(dataset, directory, expected):
        checkpoints = training.run / "checkpoints"
        if saving.tried < count // 2:
            while training.process.is_alive() and not any(checkpoints.glob(".step-*.partial")):
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, 0.01))
        else:
            time.sleep(rng.uniform(0, 0.25))
        if training.stop(signal.SIGKILL) == 0:
            continue  # it had finished
        row = saving if any(checkpoints.glob(".step-*")) else training_row
        if row.tried < count // 2:
            recorded = [record["step"] for record in read_metrics(training.run)]
            assert recorded == sorted(set(recorded))
            for path in list_checkpoints(training.run):
                checkpoint.verify(path)  # whatever has a checkpoint's name is whole
            newest = step_of(list_checkpoints(training.run)[-1]) if list_checkpoints(training.run) else 0
            row.count(survived=True, lost=max(recorded, default=0) - newest)
        if saving.tried + training_row.tried == 2 * (count // 2):
            break
    finish(dataset, directory, expected)
    return [saving, training_row]


def finish(dataset: Dataset, directory: Path, expected: Tensors) -> None:
    """The run that was disturbed last goes on to its end, and has the weights of an undisturbed one."""
    run = max(directory.glob("disturbed-*/config.json"), key=lambda path: path.stat().st_mtime).parent
    assert Process(dataset, run).end() == 0
    require_valid_metrics(run, STEPS)
    assert same(weights(run), expected)
    assert not list((run / "checkpoints").glob(".step-*"))


def signals(dataset: Dataset, directory: Path, expected: Tensors, count: int, rng: random.Random) -> Row:
    """SIGINT, SIGTERM or SIGUSR1 at random moments: saved, ended with 75 within 10 s, and nothing lost."""
    row = Row("SIGINT, SIGTERM or SIGUSR1 to one process")
    for training in disturbed(dataset, directory, expected):
        time.sleep(rng.uniform(0.05, 0.5))
        start = time.monotonic()
        if training.stop(rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])) == 0:
            continue  # it had finished
        took = time.monotonic() - start
        newest = list_checkpoints(training.run)[-1] if list_checkpoints(training.run) else None
        done = max((record["step"] for record in read_metrics(training.run)), default=0)
        saved = step_of(newest) if newest else 0
        said = f"stopped after step {saved:,}, saved; go on with: gpt train --run-dir {training.run} --resume"
        row.count(training.process.exitcode == 75 and took < 10 and said in training.said(), max(0, done - saved))
        if row.tried == count:
            break
    finish(dataset, directory, expected)
    return row


# ---- files ----


def damages(config: TrainConfig, dataset: Dataset, directory: Path, count: int, rng: random.Random) -> Row:
    """A flipped bit, a lost end, a block of zeros or a missing file in the newest of three checkpoints."""
    row = Row("damaged file in a checkpoint")
    run, training = new_trainer(config, dataset, directory / "run")
    training.fit()
    written = {step_of(path): load(path, optimizer=True) for path in list_checkpoints(run)}
    for _ in range(count):
        copy = directory / "copy"
        shutil.copytree(run, copy)
        newest = list_checkpoints(copy)[-1]
        file = newest / rng.choice([checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.STATE, checkpoint.MANIFEST])
        original = file.read_bytes()
        damage(file, rng)
        changed = not file.exists() or file.read_bytes() != original
        with heard() as said:
            loaded = checkpoint.load_newest(copy)
        assert loaded is not None
        truth = written[step_of(loaded.path)]
        intact = same(loaded.model, truth.model) and same(loaded.optimizer, truth.optimizer)
        intact = intact and loaded.state == truth.state
        named = bool(said) and str(newest) in said[0] and f"{newest.name}.damaged-1" in said[0]
        back = step_of(newest) - step_of(loaded.path)
        # A flip in the manifest's white space changes nothing that is read: then the newest itself is used.
        row.count(intact and (named or (back == 0 and file.name == checkpoint.MANIFEST)) and changed, back)
        shutil.rmtree(copy)
    return row


def damage(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    kind = rng.choice(["flip", "flip", "truncate", "zero", "remove"])
    if kind == "remove":
        file.unlink()
        return
    if kind == "truncate":
        del content[rng.randrange(len(content)) :]
    elif kind == "zero":
        start = rng.randrange(len(content))
        block = content[start : start + 64]
        content[start : start + 64] = bytes(len(block)) if any(block) else b"\xff" * len(block)
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def new_trainer(config: TrainConfig, dataset: Dataset, run: Path) -> tuple[Path, Training]:
    torch.manual_seed(config.seed)
    with open_run(replace(config, run_dir=run), dataset.tokenizer, resume=False):
        return run, Training(config, dataset, run)


# ---- disks ----


@contextlib.contextmanager
def small_disk(directory: Path, size: int) -> Iterator[bool]:
    """A tmpfs of `size` bytes at a directory, where the system allows to mount one: then True."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    mounted = (
        shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)


def full_disks(config: TrainConfig, dataset: Dataset, directory: Path, points: int, monkeypatch) -> Row:
    """The disk fills up at step 10, up to a point within a save, and is free again at step 15.

    On a small tmpfs; where none can be mounted, the operation of that point reports ENOSPC. At every second point
    the space is lied about beforehand, as if another program took it in the middle of the save.
    """
    config = replace(config, steps=20, checkpoint=replace(config.checkpoint, every=5, keep=9))
    config = replace(config, evaluation=replace(config.evaluation, every=0))
    run, undisturbed = new_trainer(config, dataset, directory / "undisturbed")
    undisturbed.fit()
    expected = load(list_checkpoints(run)[-1], optimizer=True)
    checkpoint_bytes = sum(file.stat().st_size for file in expected.path.iterdir())
    row = Row("disk full at a point of a save")
    for point in range(points):
        with (
            small_disk(directory / f"disk-{point}", 8 * checkpoint_bytes + 2_000_000) as mounted,
            monkeypatch.context() as patch,
        ):
            run, training = new_trainer(config, dataset, directory / f"disk-{point}" / "run")
            if point % 2:
                patch.setattr(integrity, "require_space", lambda *_: None)
            fill = fill_disk if mounted else fail_operation
            script = fill(directory / f"disk-{point}", point / points, checkpoint_bytes, patch)
            training.around_steps(scripted(training, script))
            with heard() as said:
                finished = training.fit()
            newest = load(list_checkpoints(run)[-1], optimizer=True)
            steps = [step_of(path) for path in list_checkpoints(run)]
            for path in list_checkpoints(run):
                checkpoint.verify(path)
            warned = any("step 10 could not be saved" in line and "tries again" in line for line in said)
            good = finished and same(newest.model, expected.model) and steps == [5, 15, 20] and warned
            require_valid_metrics(run, 20)
            row.count(good)
    return row


def scripted(training: Training, script: Iterator[None]) -> Callable[[Callable[[], dict]], dict]:
    """Move the script on before steps 10 and 15."""

    def step(do: Callable[[], dict]) -> dict:
        if training.state.step in (9, 14):
            next(script)
        return do()

    return step


def fill_disk(directory: Path, fraction: float, checkpoint_bytes: int, _: object) -> Iterator[None]:
    ballast = directory / "ballast"
    with open(ballast, "wb") as file:
        free = shutil.disk_usage(directory).free - int(fraction * checkpoint_bytes)
        file.write(b"\0" * max(0, free))
    yield
    ballast.unlink()
    yield


def fail_operation(_: Path, fraction: float, __: int, patch) -> Iterator[None]:
    operations = iter(range(10**6))
    failing = int(fraction * 10)  # of two writes, three hashes, five syncs
    homes = {"save_tensors": integrity, "sha256": integrity, "sync": files}
    originals = {name: getattr(home, name) for name, home in homes.items()}
    armed = [True]

    def failing_at(name: str) -> Callable:
        def operation(*arguments: object) -> object:
            if armed[0] and next(operations) >= failing:
                raise OSError(28, "No space left on device")
            return originals[name](*arguments)

        return operation

    for name in originals:
        patch.setattr(homes[name], name, failing_at(name))
    yield
    armed[0] = False
    yield


# ---- several processes ----


class Gang:
    """torchrun and the processes that it started."""

    def __init__(
        self, processes: int, dataset: Dataset, run: Path, *more: str, launcher: tuple[str, ...] = (), log: str = ""
    ) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *launcher]
        command += [str(ROOT / "train.py"), *options(dataset, run), *more]
        self.run, self.output = run, run.with_name(log or run.name).with_suffix(".log")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with open(self.output, "w") as output:
            self.launcher = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)

    def ranks(self) -> list[psutil.Process]:
        """The processes that train, by rank."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.launcher.pid).children()
            return sorted(children, key=lambda child: int(child.environ().get("RANK", "0")))
        return []

    def starts(self) -> int:
        return self.output.read_text().count("from step")

    def steps(self) -> int:
        return max((record["step"] for record in read_metrics(self.run)), default=0) if self.run.exists() else 0

    def end(self) -> int:
        return self.launcher.wait(LONGEST_WAIT)


def two_launchers(dataset: Dataset, directory: Path) -> None:
    """Two nodes on one machine, each with its own torchrun and one process, that meet by a rendezvous.

    With hsdp, so that there are copies between nodes; and a training of one process to compare with.
    """
    more = ("--model.dropout", "0.0", "--steps", "60", "--checkpoint.every", "20")
    one = Process(dataset, directory / "one-node", *more)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    meeting = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-endpoint", f"localhost:{port}")
    run, more = directory / "two-nodes", (*more, "--parallel", "hsdp")
    nodes = [Gang(1, dataset, run, *more, launcher=meeting, log=f"node-{number}") for number in range(2)]
    assert [node.end() for node in nodes] == [0, 0], [node.output.read_text() for node in nodes]
    assert one.end() == 0


def changing_numbers(dataset: Dataset, directory: Path, numbers: list[int]) -> None:
    """One run by 4 processes, then 1, 2 and 4 again, each for an equal part of its steps."""
    run = directory / "changing"
    for part, number in enumerate(numbers, 1):
        last = ("--stop-at", str(500 * part // len(numbers))) if part < len(numbers) else ()
        gang = Gang(number, dataset, run, "--steps", "500", "--model.dropout", "0.0", *last)
        assert gang.end() == (0 if part == len(numbers) else 1), gang.output.read_text()


def dead_ranks(dataset: Dataset, directory: Path, count: int, steps: int, rng: random.Random) -> Row:
    """kill -9 of one of three processes, up to three times a run, under `torchrun --max-restarts 3`."""
    row = Row("kill -9 of one of three processes under torchrun")
    last = ("--steps", str(steps))
    undisturbed = Gang(3, dataset, directory / "undisturbed-gang", *last)
    assert undisturbed.end() == 0, undisturbed.output.read_text()
    expected = weights(directory / "undisturbed-gang", steps)
    number = 0
    while row.tried < count:
        number += 1
        gang = Gang(3, dataset, directory / f"gang-{number}", *last, launcher=("--max-restarts", "3"))
        killed = 0
        while killed < 3 and row.tried + killed < count:
            before = gang.steps()
            ended = gang.launcher.poll
            wait_for(lambda: ended() is not None or (gang.starts() > killed and gang.steps() > before))  # noqa: B023
            time.sleep(rng.uniform(0, 0.3))
            ranks = gang.ranks()
            if ended() is not None or not ranks:
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
        assert good, gang.output.read_text()
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
        took, said = time.monotonic() - start, gang.output.read_text()
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
        row.count(took < 5 + 5 and "did not answer for 5 s" in gang.output.read_text(), lost)
    return row
