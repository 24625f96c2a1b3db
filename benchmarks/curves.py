"""Reference curves of presets, to lay one's own beside: docs/curves/PRESET-seed-N.jsonl, which `gpt plot` draws.

Each preset is trained to its end with three seeds, and evaluated ten times on the validation split: on all of it, or on
200,000 tokens spread evenly. Curves that are there already are not made again, so that the whole can be done in parts:

    python -m benchmarks.curves shakespeare-char-modern --data data/shakespeare
    python -m benchmarks.curves nano --data data/python
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.common import ROOT, ours, show
from gpt.presets import preset

CURVES = ROOT / "docs" / "curves"
SEEDS, EVALUATIONS, TOKENS = (1, 2, 3), 10, 200_000
KEPT = ("step", "tokens", "epoch", "train_loss", "val_loss", "val_loss_ci95", "val_bits_per_byte", "complete_val_loss")


def curve(name: str, data: Path, seed: int, device: str) -> list[dict[str, float]]:
    """Train a preset once; its evaluations, with what tells whether another run is comparable."""
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        every = ("--evaluation.every", preset(name).steps // EVALUATIONS, "--evaluation.tokens", TOKENS)
        where = ("--data", data.resolve(), "--run-dir", run, "--device", device)
        ours(Path(directory), name, *where, "--seed", seed, *every)
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        return [{key: record[key] for key in KEPT if key in record} for record in records if "val_loss" in record]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--data", type=Path, required=True, help="dataset that the preset is for")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    CURVES.mkdir(exist_ok=True)
    for seed in SEEDS:
        file = CURVES / f"{options.preset}-seed-{seed}.jsonl"
        if file.exists():
            continue
        records = curve(options.preset, options.data, seed, options.device)
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        show(f"{file}: {records[-1]}")


if __name__ == "__main__":
    main()
