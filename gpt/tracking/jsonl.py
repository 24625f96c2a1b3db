"""What a run reports: metrics.jsonl, Weights & Biases, and the picture of its losses."""

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt.errors import InputError
from gpt.files import parse_json, write_whole
from gpt.log import log
from gpt.runs.directory import METRICS

if TYPE_CHECKING:
    from gpt.evaluation.loss import Evaluation

Metrics = dict[str, Any]


def evaluation_metrics(evaluation: "Evaluation", split: str = "val") -> Metrics:
    """Make the entries of an evaluation in a record, named for its split; `val_loss_ci95` is half a 95 % interval."""
    error = evaluation.loss_se
    return {
        f"{split}_loss": evaluation.loss,
        f"{split}_loss_se": error,
        f"{split}_loss_ci95": None if error is None else evaluation.factor * error,
        f"{split}_bits_per_byte": evaluation.bits_per_byte,
    }


class MetricsFile:
    """metrics.jsonl: one JSON object per line, their steps increasing.

    A full disk does not stop it: what cannot be written now is written with a later record.
    """

    def __init__(self, run: Path, after_step: int) -> None:
        """Open it to go on after a step: later lines, and one torn by a crash, are removed."""
        self.path = run / METRICS
        kept = [record for record in read_metrics(run) if record["step"] <= after_step]
        write_whole(self.path, "".join(map(_line, kept)))
        self._file = open(self.path, "ab", buffering=0)
        self._whole_bytes = self._file.seek(0, os.SEEK_END)
        self._waiting, self._failed = b"", False

    def write(self, record: Metrics) -> None:
        self._waiting += _line(record).encode()
        try:
            self._file.truncate(self._whole_bytes)  # of a line that did not fit, its beginning may be there
            rest = self._waiting
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            if not self._failed:
                log.warning(f"{self.path}: cannot be written ({error.strerror}); its lines are kept until it can be")
            self._failed = True
        else:
            self._whole_bytes += len(self._waiting)
            self._waiting, self._failed = b"", False

    def close(self) -> None:
        self._file.close()


def _line(record: Metrics) -> str:
    """Format a record as JSON; numbers that are not finite become null."""
    finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def read_metrics(run: Path) -> list[Metrics]:
    """Read the records of a run, without a last line that a crash tore."""
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
