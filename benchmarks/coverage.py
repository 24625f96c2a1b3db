"""Whether the 95 % interval of a run's loss holds what it should: documents of its split are drawn anew 200 times.

Each draw takes as many documents as there are, with repetitions; its interval should hold the loss of the complete
split in 95 of 100 draws. Beside it, what standard errors over windows would have been. Prints one JSON line.

python -m benchmarks.coverage --run runs/python-nano
"""

import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import arguments, rounded
from gpt.dataset.dataset import open_dataset
from gpt.evaluation.loss import sums_per_piece
from gpt.evaluation.statistics import ratio_errors, spread
from gpt.evaluation.windows import Windows
from gpt.runs.directory import read_config
from gpt.runs.load import load_run

DRAWS, SEEDS = 200, 5


def coverage(sums: np.ndarray, seed: int) -> float:
    """The share of draws whose interval holds the ratio of all documents, (D, 2) of nats and tokens."""
    generator = np.random.default_rng(seed)
    complete, held = sums[:, 0].sum() / sums[:, 1].sum(), 0
    for _ in range(DRAWS):
        drawn = sums[generator.integers(0, len(sums), size=len(sums))]
        loss, errors = ratio_errors(*drawn.T)
        found = spread(errors, drawn[:, 1], np.arange(len(drawn)))
        held += found is not None and abs(loss - complete) <= found.half_width
    return held / DRAWS


def main() -> None:
    options = arguments(__doc__, peer=False, run=None)
    path = options.run or Path("runs/python-nano")
    run, dataset = load_run(path), open_dataset(read_config(path).data)
    windows = Windows(dataset.validation, run.config.context_length, dataset.tokenizer.end_of_text)
    found = sums_per_piece(run.model, windows, dataset.tokenizer.byte_lengths(), "cpu", torch.float32, 64)
    assert found is not None
    nats, tokens, _ = found.numpy().T
    loss, errors = ratio_errors(nats, tokens)
    by_document = np.stack([np.bincount(windows.documents, column) for column in (nats, tokens)], axis=1)
    result = {
        "run": str(path),
        "documents": len(by_document),
        "loss": loss,
        "se_over_documents": getattr(spread(errors, tokens, windows.documents), "standard_error", None),
        "se_over_windows": float(np.sqrt((errors**2).sum())),
        "covered": [coverage(by_document, seed) for seed in range(SEEDS)],
    }
    print(json.dumps(rounded(result)))


if __name__ == "__main__":
    main()
