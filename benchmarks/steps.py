"""A process that makes training steps of ours on random tokens: what the other benchmarks start and measure.

    python -m benchmarks.steps PRESET STEPS SETTINGS

SETTINGS is JSON laid over the preset. Prints one JSON line: the seconds of each step, and its parts.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt.config import TrainConfig
from gpt.config_io import overlay
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import Document, Texts
from gpt.corpus.split import Piece
from gpt.device import synchronize
from gpt.distributed.world import World
from gpt.memory import peak_memory
from gpt.presets import preset
from gpt.training.start import new_model
from gpt.training.trainer import Trainer


def as_named(document: Document) -> Iterator[Piece]:
    """Put a document on the side of the split that it is named after."""
    yield Piece(document.name, document.name, document.text)


def build(config: TrainConfig, directory: Path) -> Trainer:
    """A trainer on random signs and digits: how fast it is does not depend on what it reads."""
    letters = np.random.default_rng(0).integers(32, 60, 2_000_000, dtype=np.uint8).tobytes().decode()
    texts = Texts({"train": letters, "validation": letters[:20_000]})
    dataset = prepare(texts, lambda corpus: as_named, "bytes", directory / "data", {})
    device = config.device if config.device != "auto" else "cpu"
    return Trainer(config, new_model(config, device), dataset, directory, World(device))


def timed(trainer: Trainer, steps: int, before: Callable[[int], None] = lambda _: None) -> list[float]:
    """Seconds of each step; `before` is called with its number."""
    seconds = []
    for step in range(steps):
        before(step)
        synchronize(trainer.device)
        start = time.perf_counter()
        trainer.train_step()
        synchronize(trainer.device)
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    name, steps, settings = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    config = overlay(preset(name), settings, "SETTINGS")
    with tempfile.TemporaryDirectory() as directory:
        trainer = build(replace(config, run_dir=Path(directory)), Path(directory))
        result: dict[str, Any] = {"seconds": timed(trainer, steps), "peak_bytes": peak_memory(trainer.device)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
