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
from gpt.runs.checkpoint import best_state, list_checkpoints, step_of
from gpt.runs.directory import CONFIG, TOKENIZER, WANDB_ID, quoted, usual_name
from gpt.tracking.jsonl import Metrics, read_metrics

Mode = Literal["offline", "online", "disabled"]

WANDB_LOOKS = 0.2  # seconds between looks at what has been saved
SAMPLES = 100  # the newest, which the table has
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
        self.run_id = kept_id(run)
        self._records: queue.SimpleQueue[Metrics | None] = queue.SimpleQueue()
        self._samples = deque((_sample(record) for record in read_metrics(run) if "sample" in record), SAMPLES)
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
            log.warning(f"wandb: did not finish in {WANDB_ENDS} s; upload with: {sync_command(self.run)}")
        elif self.config.wandb == "offline":
            log.info(f"wandb: recorded offline; upload with: {sync_command(self.run)}")

    def _work(self) -> None:
        try:
            wandb_run = _start(self.config, self.run, self.run_id, self.config.wandb)
            wandb_run.define_metric("step")
            wandb_run.define_metric("*", step_metric="step")  # the axis: its own counter only rises
            for record in self._saved_records():
                wandb_run.log(self._with_table(record))
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

    def _with_table(self, record: Metrics) -> Metrics:
        """Put a record's sample into a table of all samples so far."""
        if "sample" not in record:
            return record
        import wandb

        self._samples.append(_sample(record))
        rows = [*map(list, self._samples)]
        table = wandb.Table(columns=["step", "val_loss", "sample"], data=rows)  # one that was logged is closed
        return {key: value for key, value in record.items() if key != "sample"} | {"samples": table}


def _sample(record: Metrics) -> tuple[int, float | None, str]:
    return record["step"], record.get("val_loss"), record["sample"]


def kept_id(run: Path) -> str:
    """Return the id that the run's first start drew; it is kept in a file, for that start may see no checkpoint."""
    file = run / WANDB_ID
    kept = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    if not re.fullmatch("[0-9a-f]{8}", kept):  # what a crash has torn is no id
        kept = uuid.uuid4().hex[:8]
        file.write_text(kept, encoding="utf-8")
    return kept


def sync_command(run: Path) -> str:
    return f"wandb sync {quoted(run / 'wandb')}/*run-*"


def _start(config: TrainConfig, run: Path, run_id: str, mode: Mode) -> Any:
    """Begin a run there, or go on with it; offline where it cannot be reached. Raises wandb's errors."""
    import wandb

    try:
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise wandb.errors.UsageError("nobody is logged in (`wandb login` does that)")
        return wandb.init(
            project="gpt",
            name=run.name,
            group=config.wandb_group or usual_name(config),
            job_type="pretrain" if config.init_from == "scratch" else "finetune",
            dir=run,
            mode=mode,
            config=to_dict(config),
            id=run_id,
            resume="allow",
            settings=wandb.Settings(init_timeout=WANDB_BEGINS, console="off"),
        )
    except wandb.Error as error:
        if mode == "offline":
            raise
        log.warning(f"wandb: {_first_line(error)}; recorded offline instead, upload with: {sync_command(run)}")
        wandb.teardown()  # its process still thinks that the run is in use
        return _start(config, run, run_id, "offline")


def log_checkpoint(config: TrainConfig, run: Path) -> None:
    """Log the best checkpoint of a run as an artifact, with what is needed to load it; however long that takes.

    Whatever becomes of it, the training has ended well: a warning says what went wrong.
    """
    import wandb

    best = best_state(run)
    checkpoint = next(path for path in list_checkpoints(run) if best is None or step_of(path) == best["step"])
    log.info(f"wandb: logging {checkpoint} as an artifact")
    try:
        wandb_run = _start(config, run, kept_id(run), config.wandb)
        artifact = wandb.Artifact(f"checkpoint-{wandb_run.id}", "model", metadata={"step": step_of(checkpoint)})
        for name in (CONFIG, TOKENIZER):
            artifact.add_file(str(run / name), name=name)
        artifact.add_dir(str(checkpoint), name=f"checkpoints/{checkpoint.name}")
        wandb_run.log_artifact(artifact, aliases=["best", checkpoint.name])
        wandb_run.finish()
    except Exception as error:  # none that it has may end a training
        log.warning(f"wandb: {_first_line(error)}; the checkpoint was not logged")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
