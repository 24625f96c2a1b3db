"""A process that makes training steps of ours on random tokens: what the other benchmarks start and measure.

    python -m benchmarks.steps PRESET STEPS SETTINGS

SETTINGS is JSON laid over the preset. Prints one JSON line: the seconds of each step, and its parts.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpt.config import TrainConfig
from gpt.config_io import overlay
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import Document, Texts
from gpt.corpus.split import Piece
from gpt.dataset.dataset import Dataset
from gpt.dataset.loader import Loader
from gpt.device import synchronize
from gpt.memory import peak_memory
from gpt.presets import preset
from gpt.training.start import new_model
from gpt.training.state import TrainState
from gpt.training.trainer import Trainer


def as_named(document: Document) -> Iterator[Piece]:
    """Put a document on the side of the split that it is named after."""
    yield Piece(document.name, document.name, document.text)


def random_text(directory: Path) -> Dataset:
    """A dataset of random signs and digits: how fast training is does not depend on what it reads."""
    letters = np.random.default_rng(0).integers(32, 60, 2_000_000, dtype=np.uint8).tobytes().decode()
    texts = Texts({"train": letters, "validation": letters[:20_000]})
    return prepare(texts, lambda corpus: as_named, "bytes", directory / "data", {})


def build(config: TrainConfig) -> Trainer:
    """A trainer of a new model."""
    model = new_model(config, config.device if config.device != "auto" else "cpu")
    return Trainer(model, config)


def timed(
    trainer: Trainer, dataset: Dataset, steps: int, before: Callable[[int], None] = lambda _: None
) -> list[float]:
    """Seconds of each step; `before` is called with its number."""
    config, state, seconds = trainer.config, TrainState(), []
    loader = Loader(dataset.train, config.batch_sequences, config.model.context_length, config.seed)
    for step in range(steps):
        before(step)
        synchronize(trainer.device)
        start = time.perf_counter()
        trainer.step(state, loader.batch(step))
        synchronize(trainer.device)
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    name, steps, settings = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    config = overlay(preset(name), settings, "SETTINGS")
    with tempfile.TemporaryDirectory() as directory:
        trainer = build(config)
        result: dict[str, Any] = {
            "seconds": timed(trainer, random_text(Path(directory)), steps),
            "peak_bytes": peak_memory(trainer.device),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
