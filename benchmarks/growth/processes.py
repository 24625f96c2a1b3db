"""Training by two processes of one thread, and by one process of two threads, beside one of one thread.

    python -m benchmarks.growth.processes THREADS

is one of the processes, by itself or under torchrun. It makes some steps of each width; rank 0 prints one JSON line,
the tokens per second of each.
"""

import json
import sys
from pathlib import Path
from statistics import median

import torch

from benchmarks.common import measured, show
from benchmarks.growth.curves import Curve
from benchmarks.growth.training import TOKENS, Steps, settings, shape
from gpt.distributed.launch import join_world
from gpt.training.start import new_model
from gpt.training.trainer import Trainer

WIDTHS, STEPS = (64, 128, 256, 384), 3
PROGRAM = ["-m", "benchmarks.growth.processes"]
COMMANDS = {  # name: options of the interpreter
    "one thread": [*PROGRAM, "1"],
    "two threads": [*PROGRAM, "2"],
    "two processes": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *PROGRAM, "1"],
}


def tokens_per_s(name: str) -> dict[int, float]:
    """Run a command; its speed at each width."""
    output = measured([sys.executable, *COMMANDS[name]], Path.cwd()).output
    line = next(line for line in output.splitlines() if line.startswith("{"))
    return {int(width): speed for width, speed in json.loads(line).items()}


def processes(runs: int) -> dict[str, Curve]:
    """How many times as fast two are as one, by the width of the model, beside twice."""
    gains: dict[str, dict[int, list[float]]] = {
        name: {width: [] for width in WIDTHS} for name in COMMANDS if name != "one thread"
    }
    for run in range(runs):
        speeds = {name: tokens_per_s(name) for name in COMMANDS}
        show(f"processes, run {run + 1}, tokens/s by width: {json.dumps(speeds)}")
        for name, found in gains.items():
            for width, values in found.items():
                values.append(speeds[name][width] / speeds["one thread"][width])
    return {
        f"{name} by one": Curve(
            grows="width",
            unit="tokens/s by those of one thread",
            theory="twice as many tokens/s",
            sizes=[*found],
            measured=[*found.values()],
            counts=[2.0] * len(found),
        )
        for name, found in gains.items()
    }


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    speeds = {}
    with join_world("cpu", timeout=300) as world:
        for width in WIDTHS:
            model = shape(n_embd=width)
            config = settings(model, TOKENS, TOKENS // model.context_length)
            steps = Steps(Trainer(new_model(config, "cpu"), config, world))
            steps.one()
            speeds[width] = TOKENS / median(steps.one() for _ in range(STEPS))
        if world.is_main:
            print(json.dumps(speeds), flush=True)


if __name__ == "__main__":
    main()
