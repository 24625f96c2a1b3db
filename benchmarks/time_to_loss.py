"""Seconds from start to exit until tinyshakespeare is predicted as well as by nanoGPT's documented CPU run.

nanoGPT: its README's command, 2,000 iterations, which ends at 1.8857 nats on the complete validation split at context
64. Ours: the preset shakespeare-char-modern, whose own evaluation of the complete split must be at most that.
"""

import json
import sys
import tempfile
from pathlib import Path

from benchmarks.common import (
    NANOGPT_CPU,
    NanoGPT,
    all_ids,
    arguments,
    described_nanogpt_cpu,
    described_preset,
    finish,
    measured,
    ours,
    ratio,
    show,
)
from gpt.dataset.dataset import open_dataset

TARGET = 1.8857


def main() -> None:
    options = arguments(__doc__, runs=3, text=None)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        text = ["--input", str(options.text.resolve())] if options.text else []
        recipe = Path(__file__).parents[1] / "data" / "prepare.py"
        measured([sys.executable, str(recipe), "shakespeare", "--out", "characters", *text], work)
        dataset = open_dataset(work / "characters")
        peer = NanoGPT(options.nanogpt, work)
        peer.prepare(
            "shakespeare_char", all_ids(dataset.train), all_ids(dataset.validation), dataset.tokenizer.vocab_size
        )
        seconds: dict[str, list[float]] = {"nanogpt": [], "ours": []}
        losses = []
        for number in range(options.runs):
            theirs = peer.train(*NANOGPT_CPU, "--eval_iters=20", "--max_iters=2000", "--lr_decay_iters=2000")
            run = work / f"run-{number}"
            own = ours(
                work,
                "shakespeare-char-modern",
                "--data",
                "characters",
                "--run-dir",
                run,
                "--seed",
                number,
                "--device",
                "cpu",
            )
            last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
            losses.append(last["val_loss"])
            seconds["nanogpt"].append(theirs.seconds)
            seconds["ours"].append(own.seconds)
            show(f"run {number + 1}: nanoGPT {theirs.seconds:.1f} s, ours {own.seconds:.1f} s to {losses[-1]:.4f}")
        finish(
            "time-to-loss",
            "cpu",
            {
                "models": {
                    "ours": described_preset("shakespeare-char-modern", dataset.tokenizer.vocab_size),
                    "nanogpt": described_nanogpt_cpu(dataset.tokenizer.vocab_size),
                },
                "target_nats": TARGET,
                "our_nats": losses,
                "reached": max(losses) <= TARGET,
                "seconds": seconds,
                "ratio": ratio(seconds["nanogpt"], seconds["ours"]),
            },
        )


if __name__ == "__main__":
    main()
