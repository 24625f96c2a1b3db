"""What --float32-matmul-precision medium wins in speed, and whether it costs anything in learning; for the log.

    python -m benchmarks.precision                                  # speed, on random tokens
    python -m benchmarks.precision --learning nano --data data/python

Speed: the same trainer makes some steps in one precision, then as many in the other, in turns. Beside the time by the
clock stands the processor's, of all threads, which other programs disturb less. Learning: seeds 1 to 3 of a preset,
each trained with and without, one after the other. Prints a JSON line for each.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch

from benchmarks.common import ours, rounded, show
from benchmarks.steps import build, random_text, timed
from gpt.choices import MatmulPrecision
from gpt.config_io import overlay
from gpt.device import choose_products
from gpt.presets import preset

PRECISIONS: tuple[MatmulPrecision, ...] = get_args(MatmulPrecision)
SEEDS = (1, 2, 3)
SHAPES: dict[str, tuple[str, dict[str, Any], int]] = {  # a preset, what differs from it, and steps of a turn
    "nano": ("nano", {}, 20),
    "shakespeare-char-cpu": ("shakespeare-char-cpu", {}, 20),
    "GPT-2 124M, 1 x 256": ("gpt2", {"model": {"context_length": 256}, "batch_tokens": 256}, 2),
}


def speeds(name: str, turns: int, directory: Path) -> dict[str, Any]:
    """Steps per second in both precisions, of the median turn, by the clock and by the processor's time."""
    base, settings, steps = SHAPES[name]
    trainer = build(overlay(preset(base), settings | {"device": "cpu"}, "SHAPES"))
    dataset = random_text(directory)
    found: dict[str, list[tuple[float, float]]] = {precision: [] for precision in PRECISIONS}
    for turn in range(turns + 1):
        for precision in PRECISIONS:
            trainer.products = choose_products(precision, "cpu")
            before = time.process_time()
            seconds = timed(trainer, dataset, steps)
            if turn:  # the first warms up
                found[precision].append((steps / sum(seconds), steps / (time.process_time() - before)))
    result: dict[str, Any] = {}
    for column, kind in enumerate(("steps per second", "steps per processor second")):
        result[kind] = {precision: median(turn[column] for turn in found[precision]) for precision in PRECISIONS}
        exact, fast = (found[precision] for precision in PRECISIONS)
        ratios = [a[column] / b[column] for a, b in zip(fast, exact, strict=True)]
        result[kind] |= {"ratio": median(ratios), "ratios": [min(ratios), max(ratios)]}
    return result


def losses(name: str, data: Path, seed: int, steps: int) -> dict[str, Any]:
    """The last evaluation of a training in each precision, and its seconds."""
    result: dict[str, Any] = {}
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as directory:
            run = Path(directory) / "run"
            where = ("--data", data.resolve(), "--run-dir", run, "--device", "cpu", "--seed", seed, "--steps", steps)
            ours(Path(directory), name, *where, "--float32-matmul-precision", precision)
            last = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        result[precision] = {key: last[key] for key in ("step", "val_loss", "val_loss_se", "elapsed_s")}
    return result | {"difference": result["medium"]["val_loss"] - result["highest"]["val_loss"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[*SHAPES])
    parser.add_argument("--learning", metavar="PRESET")
    parser.add_argument("--steps", type=int, help="of these trainings; by default the preset's")
    parser.add_argument("--data", type=Path, help="dataset that the preset is for")
    options = parser.parse_args()
    if (options.learning is None) != (options.data is None):
        parser.error("--learning and --data belong together")
    if options.learning:
        steps = options.steps or preset(options.learning).steps
        for seed in SEEDS:
            found = losses(options.learning, options.data, seed, steps)
            print(json.dumps({"preset": options.learning, "seed": seed} | found), flush=True)
        return
    show(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in options.shapes:
        with tempfile.TemporaryDirectory() as directory:
            print(json.dumps({"model": name} | rounded(speeds(name, options.turns, Path(directory)))), flush=True)


if __name__ == "__main__":
    main()
