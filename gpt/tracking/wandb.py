"""Weights & Biases, as a sink of records."""

import contextlib
import queue
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal

import psutil

from gpt.config import TrainConfig
from gpt.config_io import to_dict
from gpt.log import log
from gpt.runs.directory import WANDB_ID, quoted
from gpt.tracking.jsonl import Metrics

WANDB_LOOKS = 0.2  # seconds between looks at what has been saved
WANDB_BEGINS, WANDB_ENDS = 30, 6  # seconds that it is given; a run that was told to stop has ten in all


class WandbLog:
    """Weights & Biases, in a thread of its own: whatever becomes of it or of the network, training does not wait.

    Imported only when it is wanted, and never left to ask for a login. It is told of a step once a checkpoint holds it:
    what it has been told it keeps, and the steps that a crash undoes would stand in the way of those done in their
    place ("Tried to log to step … that is less than the current step").
    """

    def __init__(self, config: TrainConfig, run: Path, saved_step: Callable[[], int]) -> None:
        """Begin the run there, or go on with the one that was begun for `run` before."""
        self.config, self.run, self.saved_step = config, run, saved_step
        self.run_id = self._kept_id()
        self._records: queue.SimpleQueue[Metrics | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def write(self, record: Metrics) -> None:
        self._records.put(record)

    def close(self) -> None:
        self._records.put(None)
        self._thread.join(WANDB_ENDS)
        if self._thread.is_alive():
            for child in psutil.Process().children(recursive=True):
                if child.name().startswith("wandb"):  # its process would keep ours from ending
                    child.kill()
            log.warning(f"wandb: did not finish in {WANDB_ENDS} s; upload with: {self._sync_command}")

    @property
    def _sync_command(self) -> str:
        return f"wandb sync {quoted(self.run / 'wandb')}/*run-*"

    def _kept_id(self) -> str:
        """Return the id that the run's first start drew; it is kept in a file, for that start may see no checkpoint."""
        file = self.run / WANDB_ID
        kept = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        if not re.fullmatch("[0-9a-f]{8}", kept):  # what a crash has torn is no id
            kept = uuid.uuid4().hex[:8]
            file.write_text(kept, encoding="utf-8")
        return kept

    def _work(self) -> None:
        try:
            wandb_run = self._start(self.config.wandb)
            wandb_run.define_metric("step")
            wandb_run.define_metric("*", step_metric="step")  # the axis: its own counter only rises
            for record in self._saved_records():
                wandb_run.log(record)
            wandb_run.finish()
        except Exception as error:  # none that it has may end a training
            log.warning(f"wandb: {_first_line(error)}; training goes on without it")

    def _saved_records(self) -> Generator[Metrics]:
        """Yield records as their steps are saved; those left over, once training has ended in order."""
        waiting: deque[Metrics] = deque()
        ends = False
        while not ends:
            with contextlib.suppress(queue.Empty):
                record = self._records.get(timeout=WANDB_LOOKS)
                ends = record is None
                if record is not None:
                    waiting.append(record)
            while waiting and (ends or waiting[0]["step"] <= self.saved_step()):
                yield waiting.popleft()

    def _start(self, mode: Literal["offline", "online", "disabled"]) -> Any:
        import wandb

        try:
            if mode == "online" and not wandb.login(prompt=False, verify=False):
                raise wandb.errors.UsageError("nobody is logged in (`wandb login` does that)")
            return wandb.init(
                project="gpt",
                name=self.run.name,
                dir=self.run,
                mode=mode,
                config=to_dict(self.config),
                id=self.run_id,
                resume="allow",
                settings=wandb.Settings(init_timeout=WANDB_BEGINS, console="off"),
            )
        except wandb.Error as error:
            if mode == "offline":
                raise
            log.warning(f"wandb: {_first_line(error)}; recorded offline instead, upload with: {self._sync_command}")
            wandb.teardown()  # its process still thinks that the run is in use
            return self._start("offline")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
