"""Which recipe learns most: variants of a preset against the preset itself, seed by seed, on the same text.

    python -m benchmarks.recipe WORK --data data/python --seeds 1 2 3 \
        --variant "head 0.3=--optimizer.head-lr-scale 0.3" \
        --variant "tables 3=--optimizer.embedding-lr-scale 3" --equal time

Each training is that of `train.py`, of as many steps as the preset has, or --steps; a number with % in the flags of one
is that share of its steps. Its last weights are evaluated on the complete validation split, piece by piece, and a
variant is compared with the preset on the same pieces (gpt.evaluation.compare), seed by seed and of all seeds together.

With `--equal time`, a variant gets as many steps as take the time of the preset's. How long its steps take is measured
first, on an idle machine, by a shorter training of both: side by side, or one after the other with --jobs 1.

With --jobs 2, the default, two trainings run side by side with a thread each, so that both cores are used; they
disturb each other, so that times are compared within such pairs only, and are not those of a training alone.

WORK/results.jsonl keeps a line for each training as it ends, and WORK/*.npy what it made of each piece: stopped, the
same command goes on with what is missing; another version of the code needs another WORK. The last line on standard
output is the comparison as JSON.
"""

import argparse
import hashlib
import json
import logging
import math
import os
import re
import sys
import tempfile
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from benchmarks.common import rounded, show
from benchmarks.finetune_sweep import train
from gpt.dataset.dataset import Dataset, open_dataset
from gpt.evaluation.compare import Measured, bits_difference
from gpt.evaluation.loss import sums_per_piece
from gpt.evaluation.windows import Windows
from gpt.log import log
from gpt.presets import PRESETS, preset
from gpt.runs.load import load_run

PLAIN = "plain"
QUIET = "--evaluation.every 0 --evaluation.tokens 1024"
PACE = 0.2  # of the steps: of the trainings that only say how long a step takes


@dataclass(frozen=True)
class Training:
    """One training: what decides its result, and what else it ran beside."""

    preset: str
    data: str
    """The dataset's fingerprint."""
    flags: str
    seed: int
    steps: int
    beside: str | None = None
    """The flags of the training whose time this one's is compared with."""

    @property
    def arguments(self) -> list[str]:
        """Give its flags, with shares of the steps as numbers of steps."""
        return re.sub(r"\b(\d+)%", lambda share: str(round(self.steps * int(share[1]) / 100)), self.flags).split()

    @property
    def name(self) -> str:
        """Give a name of its own for its file."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


class Bench:
    """Has trainings done that WORK has no result of yet, by a pool of processes."""

    def __init__(self, work: Path, data: Path, context_length: int, pool: Executor) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.data, self.pool = work, data.resolve(), pool
        self.dataset = open_dataset(data)
        self.windows = windows_of(self.dataset, context_length)
        self.file = work / "results.jsonl"
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        self.results = {Training(**line["training"]): line for line in map(json.loads, lines)}

    def run(self, trainings: list[Training]) -> list[dict[str, Any]]:
        """Give what trainings came to, and do those of which that is not known, as many at a time as there are jobs."""
        missing = [each for each in dict.fromkeys(trainings) if each not in self.results]
        for future in as_completed([self.pool.submit(trained, each, self.work, self.data) for each in missing]):
            training, line = future.result()
            with self.file.open("a", encoding="utf-8") as file:
                print(json.dumps(line), file=file)
            self.results[training] = line
            show(f"{training.flags or PLAIN}, seed {training.seed}: {rounded(line)}")
        return [self.results[training] for training in trainings]

    def measured(self, trainings: list[Training]) -> Measured:
        """Average what trainings made of each piece."""
        return Measured(np.mean([np.load(self.work / f"{each.name}.npy") for each in trainings], axis=0), self.windows)


def windows_of(dataset: Dataset, context_length: int) -> Windows:
    """Lay windows over the complete validation split."""
    return Windows(dataset.validation, context_length, dataset.tokenizer.end_of_text)


def limit_threads(threads: int) -> None:
    """Let a process of the pool compute with so many threads."""
    torch.set_num_threads(threads)
    log.logger.setLevel(logging.WARNING)


def trained(training: Training, work: Path, data: Path) -> tuple[Training, dict[str, Any]]:
    """Train, evaluate the last weights, keep what they made of each piece, and give the line of results."""
    with tempfile.TemporaryDirectory(dir=work) as directory:
        run, dataset = Path(directory) / "run", open_dataset(data)
        where = f"--data {data} --run-dir {run} --seed {training.seed} --steps {training.steps}"
        last = train(" ".join([training.preset, where, QUIET, *training.arguments]))[-1]
        model = load_run(run, checkpoint="last").model
        if model.config.context_length != preset(training.preset).model.context_length:
            sys.exit("a variant must keep the preset's context, so that all predict the same pieces")
        windows, lengths = windows_of(dataset, model.config.context_length), dataset.tokenizer.byte_lengths()
        sums = sums_per_piece(model, windows, lengths, "cpu", torch.float32, 16)
    assert sums is not None
    np.save(work / training.name, sums.numpy())
    nats, _, text = sums.sum(0).tolist()
    figures = {"steps": last["step"], "seconds": last["elapsed_s"], "tokens": last["tokens"]}
    figures |= {"bits_per_byte": nats / text / math.log(2)}
    return training, {"training": asdict(training), **figures}


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="dataset that the preset is for")
    parser.add_argument("--preset", default="nano", choices=PRESETS)
    parser.add_argument("--variant", action="append", default=[], type=variant, help="NAME=FLAGS of train.py")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, help="of the preset; by default its own")
    parser.add_argument("--equal", choices=("steps", "time"), default="steps", help="what a variant has as much of")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    parser.add_argument("--threads", type=int, default=1, help="of each")
    return parser.parse_args()


def variant(text: str) -> tuple[str, str]:
    """Read NAME=FLAGS. Raises ArgumentTypeError for what is none."""
    name, equals, flags = text.partition("=")
    if not (equals and name.strip() and flags.strip()) or name.strip() == PLAIN:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=FLAGS, with a name other than {PLAIN}")
    return name.strip(), flags.strip()


def steps_in_equal_time(bench: Bench, plain: Training, flags: str) -> int:
    """Find how many steps of a variant take the time of all of the preset's."""
    short = replace(plain, steps=max(1, round(PACE * plain.steps)))
    pair = [replace(short, flags=one, beside=other) for one, other in (("", flags), (flags, ""))]
    own, others = (result["seconds"] for result in bench.run(pair))
    return max(1, round(plain.steps * own / others))


def compared(bench: Bench, plain: list[Training], other: list[Training]) -> dict[str, Any]:
    """Compare trainings, seed by seed: bits per byte of the others minus those of the preset.

    `over_text` is the standard error of the mean over documents of the validation split, for these seeds; `over_seeds`
    that over seeds, for this text, of at least two.
    """
    each = [bits_difference(bench.measured([a]), bench.measured([b])).value for a, b in zip(plain, other, strict=True)]
    together = bits_difference(bench.measured(plain), bench.measured(other))
    of_plain = fmean(bench.results[training]["bits_per_byte"] for training in plain)
    return {
        "bits_per_byte": fmean(bench.results[training]["bits_per_byte"] for training in other),
        "difference": together.value,
        "relative": together.value / of_plain,
        "over_text": together.standard_error,
        "over_seeds": stdev(each) / math.sqrt(len(each)) if len(each) > 1 else None,
        "each_seed": each,
        "steps": bench.results[other[0]]["steps"],
        "seconds": fmean(bench.results[training]["seconds"] for training in other),
    }


def main() -> None:
    asked = options()
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)  # of the processes that train
    torch.set_num_threads(asked.threads)
    config = preset(asked.preset)
    pool = ProcessPoolExecutor(asked.jobs, get_context("spawn"), limit_threads, (asked.threads,))
    with pool:
        bench = Bench(asked.work, asked.data, config.model.context_length, pool)
        first = Training(asked.preset, bench.dataset.fingerprint, "", asked.seeds[0], asked.steps or config.steps)
        trainings = {PLAIN: [replace(first, seed=seed) for seed in asked.seeds]}
        for name, flags in asked.variant:
            steps = steps_in_equal_time(bench, first, flags) if asked.equal == "time" else first.steps
            trainings[name] = [replace(first, flags=flags, steps=steps, seed=seed) for seed in asked.seeds]
        bench.run([each for several in zip(*trainings.values(), strict=True) for each in several])
    table = {name: compared(bench, trainings[PLAIN], several) for name, several in trainings.items()}
    for name, row in table.items():
        errors = " ".join(f"± {row[error]:.4f}" for error in ("over_text", "over_seeds") if row[error] is not None)
        show(f"{name:24} {row['bits_per_byte']:.4f} {row['difference']:+.4f} {errors} ({row['relative']:+.2%})")
    print(json.dumps(rounded({"preset": asked.preset, "equal": asked.equal, "seeds": asked.seeds, "variants": table})))


if __name__ == "__main__":
    main()
