"""What a person sees while a model trains: one live line in a terminal, plain lines elsewhere."""

import contextlib
import logging
import os
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from gpt.log import log
from gpt.terminal import duration, printable
from gpt.tracking.jsonl import Metrics

SECONDS_BETWEEN_LINES = 5.0  # where the output is not a terminal


def progress_line(record: dict[str, Any], steps: int, validation_loss: float | None, seconds_left: float) -> str:
    """Format the step, its loss, the newest validation loss, speed, MFU, gradient norm, learning rate, epoch, time."""
    last = "" if "val_loss" in record else "last "  # of an earlier step
    validation = "" if validation_loss is None else f"  {last}validation {validation_loss:.4f}"
    loss = "none" if record["train_loss"] is None else f"{record['train_loss']:.4f}"
    norm = "none" if record["gradient_norm"] is None else f"{record['gradient_norm']:.2g}"
    utilization = "" if (share := record.get("mfu")) is None else f"  MFU {share:.0%}"
    return (
        f"step {record['step']:>{len(str(steps))}}/{steps}  loss {loss}{validation}  "
        f"{record['tokens_per_s']:,.0f} tokens/s{utilization}  norm {norm}  rate {record['learning_rate']:.1e}  "
        f"epoch {record['epoch']:.2f}  {duration(record['elapsed_s'])}, {duration(seconds_left)} left"
    )


class _Console(Console):
    """Keeps training when the reader of the lines (`| head`) has closed."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class ProgressDisplay(logging.Handler):
    """Use as a context manager: what the log says appears above the live line, which `write` changes at every step."""

    def __init__(
        self,
        steps: int,
        first_step: int = 0,
        last_step: int | None = None,
        elapsed_s: float = 0.0,
        validation_loss: float | None = None,
        quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        """Begin after `first_step`, which took `elapsed_s`, with the newest validation loss; end with `last_step`."""
        super().__init__()
        self.steps, self.first_step, self.last_step = steps, first_step, last_step or steps
        self.elapsed_s, self._validation_loss = elapsed_s, validation_loss
        self.console = console or _Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self._last_line = -float("inf")
        self._line = self._shown = ""  # the newest line, and the newest that stays on the screen
        self._live = Progress(
            BarColumn(bar_width=8), TextColumn("{task.description}"), console=self.console, transient=True
        )
        self._task = self._live.add_task("", total=steps)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "ProgressDisplay":
        if self.console.is_terminal:
            self._live.start()
        self._stack.enter_context(log.through(self))
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        super().close()
        if self.console.is_terminal:
            self._live.stop()
        if self._line != self._shown:  # the last loss stays, however it ended
            self.print(self._line)
        self._stack.close()

    def write(self, record: Metrics) -> None:
        self._validation_loss = record.get("val_loss", self._validation_loss)
        seconds_per_step = (record["elapsed_s"] - self.elapsed_s) / max(1, record["step"] - self.first_step)
        left = seconds_per_step * (self.last_step - record["step"])
        line = self._line = progress_line(record, self.steps, self._validation_loss, left)
        if self.console.is_terminal:
            self._live.update(self._task, completed=record["step"], description=line)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or "val_loss" in record:
            self.print(line)
            self._shown = line
            self._last_line = time.monotonic()
        if "sample" in record:
            self.print("\n".join(f"    | {line}" for line in record["sample"].strip("\n").split("\n")))

    def emit(self, record: logging.LogRecord) -> None:
        self.print(record.getMessage())

    def print(self, message: str) -> None:
        self.console.print(printable(message), markup=False, emoji=False)
