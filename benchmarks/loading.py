"""Reading: opening a dataset, batches and their hashes, and what the thread that reads the next batch saves.

    python -m benchmarks.loading

Rates of batches are per second of one core (the process's own time), from files that were just written and so lie in
the page cache. Steps are timed by the clock, in turns with and without the thread, also with a disk that takes a
millisecond for each read: the median of a turn's steps counts, and the median of the turns' ratios.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.common import arguments, finish, show
from benchmarks.steps import build, random_text
from gpt.dataset.dataset import REMEMBERED, Dataset, open_dataset
from gpt.dataset.loader import Batch, Loader, Prefetcher
from gpt.dataset.manifest import ShardInfo, write_manifest
from gpt.dataset.shards import Shard, Split, write_shard
from gpt.hashing import row_hashes
from gpt.presets import preset
from gpt.text.tokenizer import Tokenizer
from gpt.training.start import fit_to_dataset
from gpt.training.state import TrainState
from gpt.training.trainer import Trainer

SHARDS, SHARD_TOKENS = 100, 2_000_000
CONTEXT, ROWS = 1024, 512
SLOW_DISK = 1e-3  # seconds a read


def write(path: Path, shards: int = SHARDS, tokens: int = SHARD_TOKENS) -> None:
    """A dataset of random bytes as ids, of so many shards of so many tokens, and one to validate with."""
    tokenizer, rng, infos = Tokenizer.utf8_bytes(), np.random.default_rng(0), []
    path.mkdir()
    tokenizer.save(path / "tokenizer.json")
    for number in range(shards + 1):
        split = "train" if number else "validation"
        ids = rng.integers(0, 256, tokens, dtype=np.uint16)
        digest = write_shard(path / f"{number:05}.bin", [ids])
        infos.append(ShardInfo(f"{number:05}.bin", split, len(ids), 1, len(ids), int(ids.max()), digest))
    write_manifest(path, tokenizer, infos, {}, "", {})


def seconds_to_open(path: Path, runs: int) -> dict[str, list[float]]:
    """What opening takes where nothing is remembered, and where all is."""
    found: dict[str, list[float]] = {"first": [], "later": []}
    for _ in range(runs):
        (path / REMEMBERED).unlink(missing_ok=True)
        for seconds in found.values():
            start = time.perf_counter()
            open_dataset(path)
            seconds.append(time.perf_counter() - start)
    return found


def tokens_per_core_second(split: Split, runs: int) -> dict[str, float]:
    """The rates of reading, of hashing what was read, and of both."""
    loader = Loader(split, ROWS, CONTEXT, seed=0)
    tokens, seconds = ROWS * CONTEXT, {"read": [], "hash": [], "both": []}
    for step in range(10 * runs):
        start = time.process_time()
        batch = loader.batch(step)
        read = time.process_time()
        row_hashes(loader.samples(step), batch.inputs, batch.targets)
        end = time.process_time()
        for name, taken in (("read", read - start), ("hash", end - read), ("both", end - start)):
            seconds[name].append(taken)
    return {name: tokens / median(found) for name, found in seconds.items()}


def steps_per_second(trainer: Trainer, dataset: Dataset, steps: int, runs: int) -> dict[str, list[float]]:
    """The rates of whole steps, the reading of their batches included, in turns."""
    config, found = trainer.config, {"in turn": [], "ahead": []}
    for _ in range(runs):
        for name, rates in found.items():
            loader = Loader(dataset.train, config.batch_sequences, config.model.context_length, config.seed)
            with Prefetcher(loader) as batches:
                read: Callable[[int], Batch] = batches.batch if name == "ahead" else loader.batch
                state, ends = TrainState(), [time.perf_counter()]
                for step in range(steps):
                    trainer.step(state, read(step))
                    ends.append(time.perf_counter())
                rates.append(1 / median(np.diff(ends)))
    return found


def with_a_slow_disk(trainer: Trainer, dataset: Dataset, steps: int, runs: int) -> dict[str, list[float]]:
    """The same where each read waits first."""
    honest = Shard.read

    def read(shard: Shard, start: int, count: int) -> np.ndarray:
        time.sleep(SLOW_DISK)
        return honest(shard, start, count)

    Shard.read = read
    try:
        return steps_per_second(trainer, dataset, steps, runs)
    finally:
        Shard.read = honest


def main() -> None:
    options = arguments(__doc__, peer=False, runs=5, steps=40)
    result: dict[str, object] = {"open_tokens": SHARDS * SHARD_TOKENS, "shards": SHARDS}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "data"
        write(path)
        time.sleep(3)  # what was written a moment ago is not remembered
        show("opening")
        result["open_s"] = seconds_to_open(path, options.runs)
        dataset = open_dataset(path)
        show("reading")
        result["tokens_per_core_s"] = {
            "one shard": tokens_per_core_second(Split("train", dataset.train.shards[:1]), options.runs),
            f"{SHARDS} shards": tokens_per_core_second(dataset.train, options.runs),
        }
        show("training")
        text = random_text(Path(directory))
        trainer = build(fit_to_dataset(preset("nano"), text))
        steps_per_second(trainer, text, 5, 1)
        result["steps_per_s"] = steps_per_second(trainer, text, options.steps, options.runs)
        result["steps_per_s_slow_disk"] = with_a_slow_disk(trainer, text, options.steps, options.runs)
    finish("loading", "cpu", result | {"threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
