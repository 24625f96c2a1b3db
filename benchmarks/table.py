"""README's performance table, made from the files in benchmarks/results/.

python -m benchmarks.table          writes it into README.md
"""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import RESULTS, ROOT

BEGIN, END = "<!-- performance: made by `python -m benchmarks.table` -->", "<!-- end of performance -->"
Row = tuple[str, str, str]
Result = dict[str, Any]


def time_to_loss(result: Result) -> list[Row]:
    seconds = {side: median(values) for side, values in result["seconds"].items()}
    figures = f"{seconds['ours']:.1f} s against {seconds['nanogpt']:.0f} s: {result['ratio']:.1f} times faster"
    return [
        (f"tinyshakespeare to {result['target_nats']} nats per character, from start to exit", figures, "time_to_loss")
    ]


def bits_per_byte(result: Result) -> list[Row]:
    bits = {name: median(run["bits_per_byte"] for run in runs) for name, runs in result.items() if _is_runs(runs)}
    ours = bits.pop("ours")
    best = min(bits, key=lambda name: bits[name])
    figures = f"{ours:.3f} against {bits[best]:.3f} ({best.removeprefix('nanogpt, ')})"
    seconds = median(run["training_s"] for run in result["ours"])
    return [(f"Python, bits per byte after {seconds:.0f} s of training", figures, "bits_per_byte")]


def _is_runs(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def learning(result: Result) -> list[Row]:
    what = f"tokens for the loss of its GPT-2 recipe after {result['nanogpt_tokens'] / 1e6:.2f} M tokens"
    needed = int(result["ratio"])
    return [(what, f"1/{needed} of them are enough" if needed else "a third of them is not enough", "learning")]


def throughput(result: Result) -> list[Row]:
    rows = []
    for name, found in result.items():
        if not isinstance(found, dict):
            continue
        speeds = {mode: median(values) for mode, values in found["tokens_per_s"].items()}
        listed = ", ".join(f"{mode} {speed:,.0f}" for mode, speed in speeds.items())
        times = f"{found['ratio']:.2f} times: " if "ratio" in found else ""
        pace = f"{found['model_tflops']:.3g} TFLOP/s, MFU {found['mfu']:.0%}"
        rows.append((f"training tokens/s, {name}", f"{times}{listed} ({pace})", "throughput"))
    return rows


def memory(result: Result) -> list[Row]:
    peaks = {name: f"{size / 1e9:.1f} GB" for name, size in result["peak_bytes"].items()}
    figures = f"{peaks['ours']} against {peaks['nanogpt']}; {peaks['ours, plain']} at {1 / result['speed_ratio']:.2f} "
    figures += "of the speed without `--recompute activations` and the head in chunks"
    return [("peak memory, 124M, 8 × 1,024 tokens at a time", figures, "memory")]


def overheads(result: Result) -> list[Row]:
    share = result["share_of_default_run"]
    return [
        ("`import gpt` beyond `import torch`", f"{max(0.0, result['import_seconds_beyond_torch']):.2f} s", "overheads"),
        ("batches from disk", f"{result['batch_tokens_per_s'] / 1e6:.0f} M tokens/s", "overheads"),
        ("`nano`, time between steps", f"{share['between steps']:.1%}", "overheads"),
        ("`nano`, evaluation and saving", f"{share['evaluation and saving']:.1%}", "overheads"),
    ]


ROWS: dict[str, Callable[[Result], list[Row]]] = {
    "time-to-loss": time_to_loss,
    "bits-per-byte": bits_per_byte,
    "learning": learning,
    "throughput": throughput,
    "memory": memory,
    "overheads": overheads,
}


def table(results: Path) -> str:
    """The table of all results that are there, the CPU's first."""
    lines = ["| What, ours against nanoGPT | Figures | Command | Measured on |", "|---|---|---|---|"]
    for device in ("cpu", "gpu"):
        for name, rows in ROWS.items():
            file = results / f"{device}-{name}.json"
            if file.exists():
                result = json.loads(file.read_text(encoding="utf-8"))
                where = f"{result['device']}, torch {result['torch']}, {result['date']}"
                lines += [f"| {what} | {figures} | `{program}` | {where} |" for what, figures, program in rows(result)]
    return "\n".join(lines)


def with_table(text: str, results: Path) -> str:
    """README's text with the table in its place."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n\n" + table(results) + "\n\n" + END + rest.split(END)[1]


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")


if __name__ == "__main__":
    main()
