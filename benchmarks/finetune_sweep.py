"""Which rate and how many epochs suit small weights that are tuned on a small text: what gpt.presets' tables rest on.

    python benchmarks/finetune_sweep.py WORK TEXT.txt OTHER.txt [SECONDS]

In the directory WORK, a small GPT-2 is trained on TEXT.txt for a few minutes, and then tuned on the beginning of
OTHER.txt with multiples of the planned rate, over several epochs, seed by seed; each is trained to its end. SECONDS of
processor time end it before the next row (900).
"""

import logging
import sys
import time
from pathlib import Path
from statistics import fmean

from gpt.commands.prepare import main as prepare
from gpt.commands.train import begin_with, fit, opened_run, settle
from gpt.commands.train_options import parse_train
from gpt.distributed.world import World
from gpt.log import log
from gpt.runs.directory import is_run
from gpt.tracking.jsonl import read_metrics
from gpt.training.checkpointing import begin
from gpt.training.signals import StopRequest
from gpt.training.start import new_model
from gpt.training.trainer import Trainer
from gpt.training.validation import Validation

SHAPE = "--model.n-layer 2 --model.n-head 4 --model.n-embd 128 --model.context-length 128 --device cpu"
BASE = f"gpt2 {SHAPE} --batch-tokens 2048 --steps 900 --optimizer.learning-rate 3e-3 --optimizer.warmup-steps 50"
PLAIN = "--evaluation.sample-tokens 0 --device cpu --checkpoint.every 0 --micro-batch-size 16"
ROWS = (  # kilobytes, epochs, seeds
    (30, (4, 8), 1),
    (5, (4, 10), 1),
    (100, (4,), 3),
    (300, (3,), 1),
    (1000, (2,), 3),
)
TIMES = (1, 3, 10)  # the rate that the table gives


def train(arguments: str) -> list[dict]:
    """Train as train.py does, but for the report at the end; the records."""
    command, world = parse_train([*arguments.split(), *PLAIN.split()]), World("cpu")
    dataset = begin_with(command, world)
    assert dataset is not None
    config = settle(command, dataset, world)
    with StopRequest() as stop, opened_run(command, config, dataset, world) as run:
        trainer, validation = Trainer(new_model(config, "cpu"), config, world), Validation(config, dataset)
        fit(run, trainer, begin(run, trainer, validation), validation, stop)
        return read_metrics(run)


def main(work: Path, text: Path, other: Path, seconds: float = 900) -> None:
    """Print a table for each size of text: the best loss and the last, by rate and epochs."""
    base = work / "base"
    if not is_run(base):
        prepare(f"files --input {text} --tokenizer bpe:1024 --name text --out {work / 'text'} --workers 1".split())
        train(f"{BASE} --data {work / 'text'} --run-dir {base}")
    for kilobytes, epochs, seeds in ROWS:
        data, part = work / f"part-{kilobytes}", work / f"part-{kilobytes}.txt"
        if not data.exists():
            part.write_bytes(other.read_bytes()[: 1000 * kilobytes])
            prepare(f"files --input {part} --tokenizer {base} --name part --out {data} --workers 1".split())
        tune = f"finetune --init-from {base} --data {data}"
        dry = parse_train([*tune.split(), "--dry-run", *PLAIN.split()])
        dataset = begin_with(dry, World("cpu"))
        assert dataset is not None
        rate = settle(dry, dataset, World("cpu")).optimizer.learning_rate
        print(f"{kilobytes} KB, rate {rate:g} times", flush=True)
        for times in TIMES:
            for count in epochs:
                if time.process_time() > seconds:
                    return
                best, last, before = [], [], []
                for seed in range(seeds):
                    run = work / f"run-{kilobytes}-{times:.2f}-{count}-{seed}-{time.time_ns()}"
                    flags = f"--optimizer.learning-rate {times * rate} --epochs {count} --seed {seed} --run-dir {run}"
                    losses = [r["val_loss"] for r in train(f"{tune} {flags}") if "val_loss" in r]
                    before.append(losses[0]), best.append(min(losses)), last.append(losses[-1])
                print(
                    f"  {times:6.2f} × {count:3} epochs: {fmean(before):.4f} → best {fmean(best):.4f}, "
                    f"last {fmean(last):.4f}   ({', '.join(f'{loss:.3f}' for loss in best)})",
                    flush=True,
                )


if __name__ == "__main__":
    log.logger.setLevel(logging.WARNING)
    main(*map(Path, sys.argv[1:4]), *map(float, sys.argv[4:]))
