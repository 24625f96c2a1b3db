"""The token ids that a model was trained on, where they still lie."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpt.dataset.dataset import open_dataset
from gpt.errors import InputError
from gpt.runs.directory import is_run, read_config
from gpt.text.tokenizer import Tokenizer

MOST_TOKENS, PARTS = 4_000_000, 16  # of larger corpora, parts from all over them
LARGEST = 1 << 30  # bytes of shards: to open a dataset for the first time is to read it all


def training_ids(run: Path, tokenizer: Tokenizer) -> np.ndarray:
    """Read ids of a run's training text, (N,), about MOST_TOKENS at the most.

    None where it is not there any more, is of another tokenizer, or cannot be read: it serves for guesses alone.
    """
    try:
        return np.concatenate([np.empty(0, dtype=np.int64), *_parts(run, tokenizer)])
    except (InputError, OSError):  # also while it is prepared anew
        return np.empty(0, dtype=np.int64)


def _parts(run: Path, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    paths = [
        path  # without a tokenizer, GPT-2's would be looked for in the network, and a warning said
        for path in (read_config(run).datasets if is_run(run) else ())
        if (path / "tokenizer.json").is_file()
    ]
    for path in paths:
        if sum(file.stat().st_size for file in path.iterdir() if file.suffix in (".bin", ".npy")) > LARGEST:
            continue
        dataset = open_dataset(path)
        if dataset.tokenizer.fingerprint != tokenizer.fingerprint:
            continue
        tokens, most = dataset.train.tokens, MOST_TOKENS // len(paths)
        if tokens <= most:
            yield dataset.train.read(0, tokens)
        else:
            yield from (dataset.train.read(i * tokens // PARTS, most // PARTS) for i in range(PARTS))
