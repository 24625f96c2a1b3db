"""What a run reports: metrics.jsonl, Weights & Biases, and the picture of its losses."""

import contextlib
import json
import math
import os
import queue
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Generator
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from torch import Tensor

from gpt.config import Config
from gpt.errors import InputError
from gpt.evaluation.loss import Evaluation
from gpt.files import parse_json
from gpt.run import METRICS, PICTURE, WANDB_ID, quoted
from gpt.settings import to_dict

Record = dict[str, Any]
Say = Callable[[str], None]
WANDB_LOOKS = 0.2  # seconds between looks at what has been saved
WANDB_BEGINS, WANDB_ENDS = 30, 6  # seconds that it is given; a run that was told to stop has ten in all


def evaluation_record(evaluation: Evaluation, prefix: str = "") -> Record:
    """What a record says of an evaluation; `val_loss_ci95` is half a 95 % interval."""
    error = evaluation.loss_se
    return {
        f"{prefix}val_loss": evaluation.loss,
        f"{prefix}val_loss_se": error,
        f"{prefix}val_loss_ci95": None if error is None else evaluation.factor * error,
        f"{prefix}val_bits_per_byte": evaluation.bits_per_byte,
    }


class MetricsFile:
    """metrics.jsonl: one JSON object per line, their steps increasing.

    A full disk does not stop it: what cannot be written now is written with a later record.
    """

    def __init__(self, run: Path, after_step: int, say: Say = print) -> None:
        """Open it to go on after a step: later lines, and one torn by a crash, are removed."""
        self.path, self.say = run / METRICS, say
        kept = [record for record in read_metrics(run) if record["step"] <= after_step]
        partial = run / f".{METRICS}.partial"
        partial.write_text("".join(map(_line, kept)), encoding="utf-8", newline="\n")
        partial.replace(self.path)
        self._file = open(self.path, "ab", buffering=0)
        self._whole_bytes = self._file.seek(0, os.SEEK_END)
        self._waiting = b""
        self._failed = False

    def write(self, record: Record) -> None:
        self._waiting += _line(record).encode()
        try:
            self._file.truncate(self._whole_bytes)  # of a line that did not fit, its beginning may be there
            rest = self._waiting
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            if not self._failed:
                self.say(f"{self.path}: cannot be written ({error.strerror}); its lines are kept until it can be")
            self._failed = True
        else:
            self._whole_bytes += len(self._waiting)
            self._waiting, self._failed = b"", False

    def close(self) -> None:
        self._file.close()


def _line(record: Record) -> str:
    """JSON knows no number that is not finite: those become null."""
    finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def read_metrics(run: Path) -> list[Record]:
    """The records of a run; a last line that a crash tore is left out."""
    try:
        lines = (run / METRICS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line)
            if not isinstance(record["step"], int) or not isinstance(record["train_loss"], float | int | None):
                raise TypeError
            records.append(record)
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                raise InputError(f"{run / METRICS}, line {number}: is no record; repair or remove the line") from None
    return records


class WandbLog:
    """Weights & Biases, in a thread of its own: whatever becomes of it or of the network, training does not wait.

    Imported only when it is wanted, and never left to ask for a login. It is told of a step once a checkpoint holds it:
    what it has been told it keeps, and the steps that a crash undoes would stand in the way of those done in their
    place ("Tried to log to step … that is less than the current step").
    """

    def __init__(self, config: Config, run: Path, say: Say, saved_step: Callable[[], int]) -> None:
        """Begin the run there, or go on with the one that was begun for `run` before."""
        self.config, self.run, self.say, self.saved_step = config, run, say, saved_step
        self._thread = None
        if config.wandb == "disabled":
            return
        self.run_id = self._kept_id()
        self._records: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def write(self, record: Record) -> None:
        if self._thread is not None:
            self._records.put(record)

    def close(self) -> None:
        if self._thread is None:
            return
        self._records.put(None)
        self._thread.join(WANDB_ENDS)
        if self._thread.is_alive():
            for child in psutil.Process().children(recursive=True):
                if child.name().startswith("wandb"):  # its process would keep ours from ending
                    child.kill()
            self.say(f"wandb: did not finish in {WANDB_ENDS} s; upload with: {self._sync_command}")

    @property
    def _sync_command(self) -> str:
        return f"wandb sync {quoted(self.run / 'wandb')}/*run-*"

    def _kept_id(self) -> str:
        """The id that the first start of the run drew; kept in a file, as that start may not live to a checkpoint."""
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
            self.say(f"wandb: {_first_line(error)}; training goes on without it")

    def _saved_records(self) -> Generator[Record]:
        """The records as their steps are saved; those that are left when training ends in order, at its end."""
        waiting: deque[Record] = deque()
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
            self.say(f"wandb: {_first_line(error)}; recorded offline instead, upload with: {self._sync_command}")
            wandb.teardown()  # its process still thinks that the run is in use
            return self._start("offline")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def row_hashes(samples: range, inputs: Tensor, targets: Tensor) -> Tensor:
    """A 63-bit hash of each row and its sample number, (B,) int64.

    Their sum names the batch, however its rows are divided between processes.
    """
    rows = zip(samples, inputs.numpy(), targets.numpy(), strict=True)
    digests = [
        blake2b(x.tobytes() + y.tobytes(), digest_size=8, key=sample.to_bytes(8, "little")).digest()
        for sample, x, y in rows
    ]
    return torch.tensor([int.from_bytes(digest, "little") >> 1 for digest in digests], dtype=torch.int64)


def draw_losses(run: Path) -> Path:
    """Write loss.png: the training loss, and the validation loss with two standard errors, over the steps."""
    import matplotlib

    matplotlib.use("Agg")  # a picture in a file needs no screen
    from matplotlib import pyplot

    records = read_metrics(run)
    evaluated = [record for record in records if "val_loss" in record]
    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120)
    axes.plot(
        [r["step"] for r in records],
        [math.nan if r["train_loss"] is None else r["train_loss"] for r in records],  # a gap where a batch was skipped
        color="#9db7d5",
        linewidth=1,
        label="training batch",
    )
    axes.errorbar(
        [r["step"] for r in evaluated],
        [math.nan if r["val_loss"] is None else r["val_loss"] for r in evaluated],
        yerr=[r.get("val_loss_ci95") or 0 for r in evaluated],
        color="#c44e52",
        marker="o",
        markersize=4,
        capsize=3,
        label="validation (95 % interval)",
    )
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.set_title(run.name, parse_math=False)  # two dollars in a name are no formula
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(run / PICTURE)
    pyplot.close(figure)
    return run / PICTURE
