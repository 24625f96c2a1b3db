"""Which rate and how many epochs suit small weights that are tuned on a text: what gpt.suits' tables rest on.

    python benchmarks/finetune_sweep.py WORK TEXT.txt OTHER.txt --rows 100:4 1000:2,4:3 --times 1 3 --lora 16

In the directory WORK, a small GPT-2 is trained on TEXT.txt for a few minutes, and then tuned on the beginning of
OTHER.txt with multiples of the planned rate, over several epochs, seed by seed; each is trained to its end, with the
same evaluations. After --seconds of processor time no further line of the table begins; WORK/runs.jsonl keeps the
losses of each run as it ends.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from gpt.commands.prepare import main as prepare
from gpt.commands.train import begin_with, fit, opened_run, settle
from gpt.commands.train_options import parse_train
from gpt.config import TrainConfig
from gpt.distributed.world import World
from gpt.log import log
from gpt.runs.directory import is_run
from gpt.tracking.jsonl import read_metrics
from gpt.training.checkpointing import begin
from gpt.training.signals import StopRequest
from gpt.training.start import new_model
from gpt.training.trainer import Trainer
from gpt.training.validation import Validation

BASE = "gpt2 --batch-tokens 2048 --optimizer.learning-rate 3e-3 --optimizer.warmup-steps 50"
PLAIN = "--evaluation.sample-tokens 0 --device cpu --checkpoint.every 0"
ALIKE = "--evaluation.tokens 50000 --evaluation.no-train-split"  # the same windows, however long a run is
ROWS = ("30:4,8:1", "5:4,10:1", "100:4:3", "300:3:1", "1000:2:3")


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("work", "text", "other"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--rows", nargs="+", default=ROWS, help="KILOBYTES:EPOCHS,EPOCHS:SEEDS, of 3 seeds by default")
    parser.add_argument("--times", nargs="+", type=float, default=(1, 3, 10), help="multiples of the planned rate")
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters; 0 tunes all weights")
    parser.add_argument("--shape", type=int, nargs=3, default=(2, 128, 128), help="layers, width and context")
    parser.add_argument("--steps", type=int, default=900, help="of training the base")
    parser.add_argument("--seconds", type=float, default=900, help="of processor time")
    return parser.parse_args()


def settled(arguments: str) -> TrainConfig:
    """Find the settings that train.py would train with."""
    command = parse_train([*arguments.split(), "--dry-run", *PLAIN.split()])
    dataset = begin_with(command, World("cpu"))
    assert dataset is not None
    return settle(command, dataset, World("cpu"))


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


def trained_base(work: Path, text: Path, shape: tuple[int, int, int], steps: int) -> Path:
    """Train a GPT-2 of that shape on a text, unless WORK has it already."""
    layers, width, context = shape
    base, data = work / f"base-{layers}-{width}-{context}", work / "text"
    if not data.exists():
        prepare(f"files --input {text} --tokenizer bpe:1024 --name text --out {data} --workers 1".split())
    if not is_run(base):
        model = f"--model.n-layer {layers} --model.n-head 4 --model.n-embd {width} --model.context-length {context}"
        train(f"{BASE} {model} --steps {steps} --data {data} --run-dir {base}")
    return base


def beginning(work: Path, other: Path, kilobytes: int, base: Path) -> Path:
    """Prepare the first kilobytes of a text by the base's tokenizer, unless WORK has them already."""
    data, part = work / f"part-{kilobytes}", work / f"part-{kilobytes}.txt"
    if not data.exists():
        part.write_bytes(other.read_bytes()[: 1000 * kilobytes])
        prepare(f"files --input {part} --tokenizer {base} --name part --out {data} --workers 1".split())
    return data


def losses(work: Path, tune: str, rate: float, epochs: str, seeds: int) -> Iterator[list[float]]:
    """Tune, seed by seed: all validation losses of each, the first before the first step."""
    for seed in range(seeds):
        run = work / f"run-{time.time_ns()}"
        flags = f"--optimizer.learning-rate {rate} --epochs {epochs} --seed {seed} --run-dir {run} {ALIKE}"
        found = [record["val_loss"] for record in train(f"{tune} {flags}") if "val_loss" in record]
        with (work / "runs.jsonl").open("a") as file:  # what was done survives
            print(json.dumps({"tune": tune, "rate": rate, "epochs": epochs, "seed": seed, "losses": found}), file=file)
        yield found


def main(asked: argparse.Namespace) -> None:
    """Print a table for each size of text: the best loss of each seed, and what they are on the average."""
    base = trained_base(asked.work, asked.text, asked.shape, asked.steps)
    for row in asked.rows:
        kilobytes, several, seeds = [*row.split(":"), "3"][:3]
        tune = f"finetune --init-from {base} --data {beginning(asked.work, asked.other, int(kilobytes), base)}"
        tune += f" --lora.rank {asked.lora}" if asked.lora else ""
        rate = settled(tune).optimizer.learning_rate
        print(f"{kilobytes} KB, {f'LoRA of rank {asked.lora}' if asked.lora else 'all weights'}, rate {rate:g} times")
        for times in asked.times:
            for epochs in several.split(","):
                if time.process_time() > asked.seconds:
                    return
                found = [*losses(asked.work, tune, times * rate, epochs, int(seeds))]
                best, last = [min(each) for each in found], fmean(each[-1] for each in found)
                line = f"{times:8.2f} × {epochs:>3} epochs: {found[0][0]:.4f} → best {fmean(best):.4f}, last {last:.4f}"
                print(f"{line}   ({', '.join(f'{loss:.4f}' for loss in best)})", flush=True)


if __name__ == "__main__":
    log.logger.setLevel(logging.WARNING)
    main(options())
