"""kill -9, and signals, to a training of one process."""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from helpers import same
from processes import Script

from gpt.dataset.dataset import Dataset
from gpt.runs import checkpoint
from gpt.runs.checkpoint import list_checkpoints, step_of
from gpt.tracking.jsonl import read_metrics
from reliability.common import STEPS, Row, options, require_valid_metrics, wait_for, weights


class Process(Script):
    """train.py at work in a process of its own."""

    def __init__(self, dataset: Dataset, run: Path, *more: str) -> None:
        self.run = run
        arguments = [*options(dataset, run), *more]
        super().__init__("train.py", *arguments, cwd=run.parent, output=run.with_suffix(".log"))

    def wait_for_steps(self) -> bool:
        """Until it has begun to train, or is at its end; whether it is still alive."""
        wait_for(lambda: not self.process.is_alive() or "from step" in self.said())
        return self.process.is_alive()

    def began_at(self) -> int:
        return int(self.said().split("from step ")[1].split(" ")[0].replace(",", ""))

    @property
    def finished(self) -> bool:
        """Tell whether it did all steps: Ctrl-C may still have met its report."""
        return self.end() == 0 or "is finished and saved" in self.said()


class Campaign:
    """Trainings of one process that are disturbed, each until it is finished."""

    def __init__(self, dataset: Dataset, directory: Path, steps: int = STEPS, more: tuple[str, ...] = ()) -> None:
        """Set up, with more options for each; an undisturbed run is trained first, for its weights."""
        self.dataset, self.directory, self.steps, self.more = dataset, directory, steps, more
        directory.mkdir(exist_ok=True)
        assert self.training("undisturbed").end() == 0
        require_valid_metrics(directory / "undisturbed", steps)
        self.expected = weights(directory / "undisturbed", steps)

    def training(self, name: str) -> Process:
        return Process(self.dataset, self.directory / name, "--steps", str(self.steps), *self.more)

    def require_undisturbed(self, run: Path) -> None:
        """A finished run has all records, and the weights of the one that was not disturbed."""
        require_valid_metrics(run, self.steps)
        assert same(weights(run, self.steps), self.expected)

    def disturbed(self, fault: str) -> Iterator[Process]:
        """One training after the other of a run that the caller disturbs, and of the next one when that is finished.

        Each must go on from the newest checkpoint that was there.
        """
        number = 0
        while True:
            number += 1
            run = self.directory / f"{fault}-{number}"
            while True:
                before = [step_of(path) for path in list_checkpoints(run)]
                training = self.training(run.name)
                if training.wait_for_steps():
                    yield training
                code = training.end()
                if "from step" in training.said():
                    assert training.began_at() == (before[-1] if before else 0), training.said()
                    assert not before or not list((run / "checkpoints").glob(".step-*")) or code != 0
                if training.finished:
                    break
                assert code in (-signal.SIGKILL, 75), training.said()
            self.require_undisturbed(run)

    def finish(self, fault: str) -> None:
        """The run that was disturbed last goes on to its end."""
        run = max(self.directory.glob(f"{fault}-*/config.json"), key=lambda path: path.stat().st_mtime).parent
        assert self.training(run.name).end() == 0
        self.require_undisturbed(run)
        assert not list((run / "checkpoints").glob(".step-*"))

    def kills(self, count: int, rng: random.Random) -> list[Row]:
        """kill -9 at random moments; half of them in a save, which a leftover proves."""
        saving, training_row = Row("kill -9 during a save"), Row("kill -9 at another moment")
        for training in self.disturbed("killed"):
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
        self.finish("killed")
        return [saving, training_row]

    def signals(self, count: int, rng: random.Random) -> Row:
        """SIGINT, SIGTERM or SIGUSR1 at random moments: saved, ended with 75 within 10 s, and nothing lost."""
        row = Row("SIGINT, SIGTERM or SIGUSR1 to one process")
        for training in self.disturbed("signaled"):
            time.sleep(rng.uniform(0.05, 0.5))
            start = time.monotonic()
            training.stop(rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]))
            if training.finished:
                continue
            took = time.monotonic() - start
            newest = list_checkpoints(training.run)[-1] if list_checkpoints(training.run) else None
            done = max((record["step"] for record in read_metrics(training.run)), default=0)
            saved = step_of(newest) if newest else 0
            said = f"stopped after step {saved:,}, saved; go on with: python train.py --run-dir {training.run} --resume"
            row.count(training.process.exitcode == 75 and took < 10 and said in training.said(), max(0, done - saved))
            if row.tried == count:
                break
        self.finish("signaled")
        return row
