"""Where the records of a training go: one record, several sinks."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from gpt.config import TrainConfig
from gpt.tracking.jsonl import Metrics, MetricsFile
from gpt.tracking.progress import ProgressDisplay
from gpt.tracking.wandb import WandbLog

FIRST_AFTER, MOST_DRAWING = 10.0, 0.02  # seconds, and share of the time


class Sink(Protocol):
    """Takes records, those of later steps later."""

    def write(self, record: Metrics) -> None: ...

    def close(self) -> None: ...


class Picture:
    """Draws loss.png anew at evaluations, as far as that takes no time to speak of."""

    def __init__(self, run: Path) -> None:
        self.run, self.next_time = run, time.monotonic() + FIRST_AFTER

    def write(self, record: Metrics) -> None:
        start = time.monotonic()
        if "val_loss" in record and start >= self.next_time:
            from gpt.tracking.plot import draw_losses

            with contextlib.suppress(Exception):  # a full disk, or what matplotlib does not like: the end says so
                draw_losses(self.run)
            self.next_time = time.monotonic() + (time.monotonic() - start) / MOST_DRAWING

    def close(self) -> None:
        """Leave the picture as it is: the end of the training draws it."""


class Tracking:
    """Gives every record to the display, and those that stay to metrics.jsonl, Weights & Biases and the picture.

    Use as a context manager. Of several processes, the main one keeps records.
    """

    def __init__(
        self,
        run: Path,
        config: TrainConfig,
        display: ProgressDisplay,
        finished_steps: int,
        saved_step: Callable[[], int],
        is_main: bool = True,
    ) -> None:
        """Open the sinks. `finished_steps` have records in metrics.jsonl; `saved_step` is the newest checkpoint's."""
        self.display, self.log_every = display, config.log_every
        self.last_step = min(config.steps, config.stop_at or config.steps)
        self.sinks: list[Sink] = [MetricsFile(run, finished_steps), Picture(run)] if is_main else []
        if is_main and config.wandb != "disabled":
            self.sinks.append(WandbLog(config, run, saved_step))

    def write(self, record: Metrics) -> None:
        step = record["step"]
        if "val_loss" in record or "skipped" in record or step == self.last_step or step % self.log_every == 0:
            for sink in self.sinks:
                sink.write(record)
        self.display.write(record)

    def __enter__(self) -> "Tracking":
        self.display.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.display.close()
        for sink in self.sinks if kind is None else ():  # whoever interrupts does not wait for Weights & Biases
            sink.close()
