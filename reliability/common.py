"""What all campaigns share: the training that is disturbed, and how it is looked at."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from processes import LONGEST_WAIT

from gpt.dataset.dataset import Dataset
from gpt.runs.checkpoint import list_checkpoints, load, step_of
from gpt.tracking.jsonl import read_metrics

STEPS = 200
SHAPE = (
    "nano --model.n-layer 2 --model.n-head 2 --model.n-embd 64 --model.context-length 32 --model.ngram-buckets 512 "
    "--model.dropout 0.1 --batch-tokens 384 --evaluation.sample-tokens 4"
)
PACE = f"--device cpu --steps {STEPS} --evaluation.every 50 --checkpoint.every 5 --log-every 1"
Tensors = dict[str, torch.Tensor]


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
    """Arguments of train.py; what comes after them stands."""
    return [*SHAPE.split(), *PACE.split(), "--data", str(dataset.path), "--run-dir", str(run), "--resume"]


def weights(run: Path, steps: int = STEPS) -> Tensors:
    newest = list_checkpoints(run)[-1]
    assert step_of(newest) == steps, newest
    return load(newest, optimizer=True).model


def require_valid_metrics(run: Path, last: int) -> None:
    steps = [record["step"] for record in read_metrics(run)]
    assert steps == list(range(1, last + 1)), steps
