"""What a newcomer's own text gives without flags, from 5 KB to 50 MB: gpt prepare files, then train.py.

For each text, size and seed: the validation loss at the end, the best of all evaluations and the untrained model's; the
longest stretch of six samples that stands in the training text; and nanoGPT's code on the same text by characters, for
as long as ours trained, with its best and its last loss. Runs that the result's file has already are not made again,
so that the whole can be done in parts: `--sizes 5KB 50KB`, and later the others.
"""

import argparse
import json
import math
import re
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.bits_per_byte import PILOT, text_of
from benchmarks.common import (
    NANOGPT_CPU,
    ROOT,
    NanoGPT,
    finish,
    here,
    iteration_seconds,
    measured,
    ours,
    result_file,
    show,
)
from gpt.corpus.sources import Document, Skipped, TextFiles
from gpt.dataset.dataset import Dataset, open_dataset

SIZES = {"5KB": 5_000, "50KB": 50_000, "500KB": 500_000, "5MB": 5_000_000, "50MB": 50_000_000}
EVALUATIONS = 10  # of nanoGPT's code, as many as ours has at least
Result = dict[str, Any]


def slice_of(source: Path, size: int, seed: int) -> str | None:
    """So many bytes of a file, or of all files below a directory, from another place for each seed; None of too few."""
    files = TextFiles([source])
    found = [each for part in files.parts() if not isinstance(part, Skipped) for each in files.read(part)]
    text = "".join(each.text for each in found if isinstance(each, Document)).encode()
    if len(text) < size:
        return None
    start = (len(text) - size) * (seed % 3) // 2
    return text[start : start + size].decode(errors="ignore")


def our_run(work: Path, text: str, seed: int) -> tuple[Result, Dataset]:
    """The two commands of README, without flags but for the seed, as processes."""
    (work / "text.txt").write_text(text, encoding="utf-8")
    measured([sys.executable, str(ROOT / "data" / "prepare.py"), "files", "--input", "text.txt", "--name", "own"], work)
    process = ours(work, "--data", "data/own", "--run-dir", "run", "--seed", seed, "--device", "cpu")
    records = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [record for record in records if "val_loss" in record]
    best = min(evaluated, key=lambda record: record["val_loss"])
    dataset, last = open_dataset(work / "data" / "own"), evaluated[-1]
    return {
        "vocabulary": dataset.tokenizer.vocab_size,
        "train_tokens": dataset.train.tokens,
        "epochs": last["epoch"],
        "steps": last["step"],
        "untrained": math.log(dataset.tokenizer.vocab_size),
        "best": best["val_loss"],
        "final": last["val_loss"],
        "bits_per_byte": best["val_bits_per_byte"],
        **copies(process.output),
        "training_s": last["elapsed_s"],
    }, dataset


def copies(output: str) -> dict[str, int]:
    """What train.py's last table says of six samples."""
    by_heart = re.search(r"learned by heart +(?:(\d+) of 6 samples|no: of 6)", output)
    longest = re.search(r"letter for letter in .* has ([\d,]+) characters", output)
    assert by_heart and longest, output
    return {"samples_by_heart": int(by_heart[1] or 0), "longest_copy": int(longest[1].replace(",", ""))}


def nanogpt_run(peer: NanoGPT, dataset: Dataset, seconds: float, seed: int) -> Result:
    """nanoGPT's documented CPU model on the same text, by characters, for as long."""
    texts = [text_of(dataset, split) for split in (dataset.train, dataset.validation)]
    index = {character: number for number, character in enumerate(sorted(set("".join(texts))))}
    train, validation = (np.array([index[character] for character in text]) for text in texts)
    peer.prepare("own", train, validation, len(index))
    common = (*NANOGPT_CPU, "--dataset=own")
    pilot = peer.train(*common, "--eval_iters=1", f"--max_iters={PILOT}", f"--lr_decay_iters={PILOT}")
    steps = max(EVALUATIONS, round(seconds / median(iteration_seconds(pilot.output)[PILOT // 3 :])))
    seeded = (peer.path / "train.py").read_text(encoding="utf-8").replace("1337 +", f"{1337 + seed} +")
    (peer.path / "train.py").write_text(seeded, encoding="utf-8")
    process = peer.train(
        *common,
        "--eval_iters=50",
        f"--eval_interval={steps // EVALUATIONS}",
        f"--max_iters={steps}",
        f"--lr_decay_iters={steps}",
    )
    losses = [float(loss) for loss in re.findall(r"val loss ([\d.]+)", process.output)]
    per_byte = len(validation) / len(texts[1].encode()) / math.log(2)
    return {
        "steps": steps,
        "epochs": steps * 12 * 64 / len(train),
        "bits_per_byte": min(losses) * per_byte,
        "last_bits_per_byte": losses[-1] * per_byte,
    }


def summary(runs: dict[str, Result]) -> dict[str, Any]:
    """The worst of what is promised, and the median of the ratios of bits per byte."""
    own, pairs = [run["ours"] for run in runs.values()], [run for run in runs.values() if "nanogpt" in run]
    ratios = [run["ours"]["bits_per_byte"] / run["nanogpt"]["bits_per_byte"] for run in pairs]
    return {
        "largest_rise": max(run["final"] - run["best"] for run in own),
        "runs_above_untrained": sum(run["final"] > run["untrained"] for run in own),
        "runs_by_heart": sum(run["samples_by_heart"] > 0 for run in own),
        "ratio": median(ratios) if ratios else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nanogpt", type=Path, help="checkout of github.com/karpathy/nanoGPT; without it, ours alone")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="files or directories of UTF-8 text")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    options = parser.parse_args()
    file = result_file("own-text", "cpu")
    runs: dict[str, Result] = json.loads(file.read_text())["runs"] if file.exists() else {}
    for size in options.sizes:
        for source in options.texts:
            for seed in range(options.seeds):
                key = f"{size} {source.stem} {seed}"
                if key in runs:
                    continue
                if (text := slice_of(source, SIZES[size], seed)) is None:
                    show(f"{key}: {source} has less text than that; left out")
                    break
                with tempfile.TemporaryDirectory() as directory:
                    work = Path(directory)
                    own, dataset = our_run(work, text, seed)
                    result: Result = {"date": here("cpu")["date"], "ours": own}
                    if options.nanogpt:
                        result["nanogpt"] = nanogpt_run(
                            NanoGPT(options.nanogpt, work), dataset, own["training_s"], seed
                        )
                show(f"{key}: {result}")
                runs[key] = result
                finish("own-text", "cpu", {"summary": summary(runs), "runs": runs})


if __name__ == "__main__":
    main()
