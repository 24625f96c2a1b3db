"""What is not training: importing, the time between steps, reading batches, evaluating, saving."""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.common import arguments, finish, measured
from benchmarks.steps import build
from gpt.commands import train
from gpt.dataset.dataset import open_dataset
from gpt.dataset.loader import Loader
from gpt.dataset.shards import Shard, Split
from gpt.presets import preset
from gpt.training import trainer as trainer_module
from gpt.training.signals import StopRequest
from gpt.training.start import fit_to_dataset
from gpt.training.state import TrainState
from gpt.training.validation import Validation


def import_seconds(runs: int) -> list[float]:
    """What `import gpt` adds to `import torch`, in processes that take turns."""
    found = []
    for _ in range(runs):
        plain, ours = (
            measured([sys.executable, "-c", f"import {name}"], Path.cwd()).seconds for name in ("torch", "torch, gpt")
        )
        found.append(ours - plain)
    return found


def tokens_per_second(split: Split, context_length: int, batch: int) -> float:
    """How fast batches come from a shard that was just written, so from the page cache, over some 20 million tokens."""
    loader = Loader(split, batch, context_length, seed=0)
    steps = 20_000_000 // (batch * context_length)
    start = time.perf_counter()
    for step in range(steps):
        loader.batch(step)
    return steps * batch * context_length / (time.perf_counter() - start)


class Stopwatch:
    """Sums the time spent in functions, which may call each other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, function: str, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, function)

        def watched(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        setattr(owner, function, watched)


def run_shares(data: Path) -> dict[str, float]:
    """Fractions of the default run on a CPU that it spends outside forward, backward and optimizer, and in what."""
    config, watch = fit_to_dataset(preset("nano"), open_dataset(data)), Stopwatch()
    with tempfile.TemporaryDirectory() as directory:
        trainer, validation = build(config), Validation(config, open_dataset(data))
        watch.watch(trainer, "accumulate", "training")
        watch.watch(trainer.optimizer, "step", "training")
        watch.watch(trainer_module, "unscale_gradients", "training")
        watch.watch(trainer_module, "clip_gradients", "training")
        watch.watch(validation, "evaluate", "evaluation and saving")
        watch.watch(train, "save", "evaluation and saving")
        watch.watch(train, "fit", "all")
        state = TrainState(evaluated_windows=len(validation.windows))
        with StopRequest() as stop:
            train.fit(Path(directory), trainer, state, validation, stop)
    whole, apart = watch.seconds["all"], watch.seconds["evaluation and saving"]
    return {
        "between steps": (whole - watch.seconds["training"] - apart) / whole,
        "evaluation and saving": apart / whole,
        "seconds": whole,
    }


def main() -> None:
    options = arguments(__doc__, peer=False, runs=5, data=None)
    data = options.data or Path("data/python")
    with tempfile.TemporaryDirectory() as directory:
        np.random.default_rng(0).integers(0, 50_257, 50_000_000, dtype=np.uint16).tofile(Path(directory) / "train.bin")
        split = Split("train", [Shard(Path(directory) / "train.bin")])
        batches = [tokens_per_second(split, context_length=1024, batch=512) for _ in range(options.runs)]
    finish(
        "overheads",
        "cpu",
        {
            "import_seconds_beyond_torch": median(import_seconds(options.runs)),
            "batch_tokens_per_s": median(batches),
            "share_of_default_run": run_shares(data),
            "threads": torch.get_num_threads(),
        },
    )


if __name__ == "__main__":
    main()
