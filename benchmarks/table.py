"""The tables of docs/performance.md, made from the files in benchmarks/results/, and its picture of growth.

python -m benchmarks.table          writes them into docs/
"""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import RESULTS, ROOT, ratio
from benchmarks.growth import page as growth

BEGIN, END = "<!-- performance: made by `python -m benchmarks.table` -->", "<!-- end of performance -->"
BEGIN_GROWTH, END_GROWTH = "<!-- growth: made by `python -m benchmarks.table` -->", "<!-- end of growth -->"
# Of GPT-2 124M, without the embeddings of positions.
WEIGHTS_MB = {"float32": 494.6, "bfloat16": 247.3, "float16": 247.3, "int8": 123.7}
Row = tuple[str, str, str]
Result = dict[str, Any]


def time_to_loss(result: Result) -> list[Row]:
    seconds = {side: median(values) for side, values in result["seconds"].items()}
    figures = f"{seconds['ours']:.1f} s against {seconds['nanogpt']:.0f} s: {result['ratio']:.1f} times faster"
    what = f"tinyshakespeare to {result['target_nats']} nats per character, from start to exit: {_models(result)}"
    return [(what, figures, "time_to_loss")]


def _models(result: Result) -> str:
    """What each of two programs trains, or what both do."""
    models = result["models"]
    if isinstance(models, str):
        return f"both {models}"
    return f"ours {models['ours']}; nanoGPT {models['nanogpt']}"


def bits_per_byte(result: Result) -> list[Row]:
    bits = {name: median(run["bits_per_byte"] for run in runs) for name, runs in result.items() if _is_runs(runs)}
    ours = bits.pop("ours")
    best = min(bits, key=lambda name: bits[name])
    figures = f"{ours:.3f} against {bits[best]:.3f} ({best.removeprefix('nanogpt, ')}, its documented settings)"
    seconds = median(run["training_s"] for run in result["ours"])
    what = f"Python, bits per byte after {seconds:.0f} s of training: {_models(result)}"
    return [(what, figures, "bits_per_byte")]


def _is_runs(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def learning(result: Result) -> list[Row]:
    documented = "at its documented rate of 0.0006, where ours was tuned for so few"
    rate = f"at {result['nanogpt_rate']:g}, its best rate of those tried" if "nanogpt_rate" in result else documented
    millions = result["nanogpt_tokens"] / 1e6
    what = f"tokens for the loss of nanoGPT's GPT-2 recipe ({rate}) after {millions:.2f} M tokens: {_models(result)}"
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
        known = found["mfu"] is not None and found["mfu"] <= 1
        speed = f"{found['model_tflops']:.3g} TFLOP/s, MFU {format(found['mfu'], '.0%') if known else '—'}"
        rows.append((f"training tokens/s, {name}: {_models(found)}", f"{times}{listed} ({speed})", "throughput"))
    return rows


def memory(result: Result) -> list[Row]:
    peaks = {name: f"{size / 1e9:.1f} GB" for name, size in result["peak_bytes"].items()}
    figures = f"{peaks['ours']} against {peaks['nanogpt']}; {peaks['ours, plain']} at {1 / result['speed_ratio']:.2f} "
    figures += "of the speed without `--recompute activations` and the head in chunks"
    return [(f"peak memory, 8 × 1,024 tokens at a time: {_models(result)}", figures, "memory")]


def adapters(result: Result) -> list[Row]:
    """The peak of each way of fine-tuning, and which part of that of all weights it is."""
    rows = []
    for size, peaks in result["peak_bytes"].items():
        shares = result["of_all_weights"][size]
        figures = ", ".join(f"{way} {peak / 1e9:.1f} GB ({shares[way]:.0%})" for way, peak in peaks.items())
        rows.append((f"peak memory of fine-tuning GPT-2 124M, {size} tokens at a time", figures, "adapters"))
    return rows


def overheads(result: Result) -> list[Row]:
    share = result["share_of_default_run"]
    return [
        ("`import gpt` beyond `import torch`", f"{max(0.0, result['import_seconds_beyond_torch']):.2f} s", "overheads"),
        ("batches from the page cache", f"{result['batch_tokens_per_s'] / 1e6:.0f} M tokens/s", "overheads"),
        ("`nano`, time between steps", f"{share['between steps']:.1%}", "overheads"),
        ("`nano`, evaluation and saving", f"{share['evaluation and saving']:.1%}", "overheads"),
    ]


def preparing(result: Result) -> list[Row]:
    """Of each size and format: megabytes a second, which part of tiktoken on all cores that is, and memory."""
    rows = []
    for what, found in result.items():
        if isinstance(found, dict):
            figures = ", ".join(
                f"{name} {of['mb_per_s']:.1f} ({of['of_tiktoken_on_all_cores']:.0%}, {of['peak_mb']:.0f} MB)"
                if of["mb_per_s"]
                else f"{name} not told from its start ({of['peak_mb']:.0f} MB)"
                for name, of in found.items()
                if isinstance(of, dict)
            )
            rows.append(
                (f"preparing {what}: MB/s, of tiktoken on {result['cores']} cores, memory", figures, "preparing")
            )
    return rows


def loading(result: Result) -> list[Row]:
    first, later = (median(result["open_s"][name]) for name in ("first", "later"))
    size = f"{result['open_tokens'] / 1e6:.0f} M tokens in {result['shards']} shards"
    rows = [(f"opening {size}, the first time and later", f"{first:.2f} s, {later:.2f} s", "loading")]
    for name, rates in result["tokens_per_core_s"].items():
        figures = ", ".join(f"{what} {rate / 1e6:.0f} M" for what, rate in rates.items())
        rows.append((f"batches from the page cache, {name}: tokens per second of one core", figures, "loading"))
    for name, rates in (("", result["steps_per_s"]), (", a disk with 1 ms a read", result["steps_per_s_slow_disk"])):
        gain = ratio(rates["ahead"], rates["in turn"])
        rows.append((f"`nano`, steps per second with the next batch read ahead{name}", f"{gain:.2f} times", "loading"))
    return rows


def own_text(result: Result) -> list[Row]:
    """How far above its best evaluation a training without flags ends, by the size of the text."""
    rises: dict[tuple[str, str], list[float]] = {}
    for name, run in result["runs"].items():
        rises.setdefault((name.split()[0], run["date"]), []).append(run["ours"]["final"] - run["ours"]["best"])
    figures = ", ".join(
        f"{size}: {max(found):.3f} in {len(found)} runs ({date})" for (size, date), found in rises.items()
    )
    return [("own text without flags, nats by which the last validation loss exceeds the best", figures, "own_text")]


def generation_rows(result: Result) -> list[Row]:
    rate = {dtype: f"{median(shares):.0%}" for dtype, shares in result["rate_at_1000_by_10"].items()}
    ratios = result["ratios"]
    beyond = median(a - b for a, b in zip(result["start_s"], result["import_torch_s"], strict=True))
    rows = [
        ("124M, one sequence, by the limit of memory", _listed(ratios, ", by the limit of memory"), "generate"),
        ("124M, several sequences by one, tokens/s", _listed(ratios, ", several by one", "{:.1f} times"), "generate"),
        (
            "124M, rate at position 1,000 by that at 10",
            ", ".join(f"{key} {share}" for key, share in rate.items()),
            "generate",
        ),
        ("124M, `sample.py` to the first token, beyond `import torch`", f"{beyond:.2f} s", "generate"),
    ]
    for library in ("ctranslate2", "transformers", "nanogpt"):
        ending = f", by {library}"
        if any(key.endswith(ending) for key in ratios):
            what = f"GPT-2 124M with the same random weights in both, tokens/s by those of {library}"
            rows.append((what, _listed(ratios, ending, "{:.2f}"), "generate"))
    reading = ratios.get("prompt of 512, by the speed of matrix products")
    if reading:
        rows.append(("124M, reading a prompt of 512, by the speed of matrix products", f"{reading:.0%}", "generate"))
    slowest = max(result["slowest_prompt_s"].values())
    rows.append(("tokenizing a million hostile characters", f"at most {slowest:.2f} s", "generate"))
    return rows


def _listed(ratios: dict[str, float], ending: str, form: str = "{:.0%}") -> str:
    found = {key.removesuffix(ending): value for key, value in ratios.items() if key.endswith(ending)}
    return ", ".join(f"{key} {form.format(value)}" for key, value in found.items())


def generation_table(result: Result) -> str:
    """Tokens per second, and seconds to the first token, of every library in every precision at every work."""
    kinds = list(next(iter(result["speeds"].values())))
    lines = [
        "| " + " | ".join([f"GPT-2 124M on {result['device']}: new tokens/s (s to the first)", *kinds]) + " |",
        "|---" * (len(kinds) + 1) + "|",
    ]
    for work, sides in result["speeds"].items():
        cells = [
            f"{median(sides[kind]['tokens_per_s']):,.1f} ({median(sides[kind]['first_s']):.3g})"
            if kind in sides
            else "-"
            for kind in kinds
        ]
        lines.append("| " + " | ".join([work, *cells]) + " |")
    speed = median(result["memory_gb_per_s"])
    dtypes = sorted({kind.split()[1] for kind in kinds})
    limits = ", ".join(f"{1000 * speed / WEIGHTS_MB[dtype]:.0f} tokens/s in {dtype}" for dtype in dtypes)
    lines += ["", f"Measured bandwidth was {speed:.1f} GB/s, which limits one sequence to {limits}."]
    return "\n".join(lines)


def speculation(result: Result) -> list[Row]:
    """What guesses gain, each text in a row of its own."""
    what = f"tokens/s with guesses by those without, `{result['model']}` if nothing else is said: "
    return [(what + name, f"{median(ratios):.2f}", "speculation") for name, ratios in result["ratios"].items()]


def attention(result: Result) -> list[Row]:
    """Each kernel's speed by that of torch's own choice, a row for each shape, and whose bits differ between calls."""
    rows = []
    for shape, kernels in result["kernels"].items():
        found = {name: kernel for name, kernel in kernels.items() if "seconds" in kernel}
        if "torch" not in found:  # its own choice failed: there is nothing to compare with
            rows.append((f"attention in training, {result['dtype']}, {shape}", kernels["torch"]["fault"], "attention"))
            continue
        own = found["torch"]["seconds"]
        speeds = [f"{name} {ratio(own, kernel['seconds']):.2f}" for name, kernel in found.items() if name != "torch"]
        unlike = [name for name, kernel in found.items() if not kernel["same_bits"]]
        figures = ", ".join(speeds) + (f"; other bits each time: {', '.join(unlike)}" if unlike else "")
        what = f"attention in training, {result['dtype']}, {shape}: speed by that of torch's choice"
        rows.append((f"{what}, {1000 * median(own):.3g} ms", figures, "attention"))
    return rows


ROWS_OF: dict[str, Callable[[Result], list[Row]]] = {
    "time-to-loss": time_to_loss,
    "bits-per-byte": bits_per_byte,
    "learning": learning,
    "throughput": throughput,
    "memory": memory,
    "adapters": adapters,
    "overheads": overheads,
    "loading": loading,
    "preparing": preparing,
    "own-text": own_text,
    "generate": generation_rows,
    "speculation": speculation,
    "attention": attention,
    "growth": growth.rows,
}


def results_of(results: Path, device: str, name: str) -> list[Result]:
    """Read what a benchmark found, on each processor on which it was run, the latest day first."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob(f"{device}-*-{name}.json"))]
    return sorted(found, key=lambda result: result["date"], reverse=True)


def table(results: Path) -> str:
    """The table of all results that are there, the CPU's first."""
    lines = [
        "| What, ours against nanoGPT if nothing else is said | Figures | Command | Measured on |",
        "|---|---|---|---|",
    ]
    tables: list[str] = []
    for device in ("cpu", "gpu"):
        for name, rows in ROWS_OF.items():
            for result in results_of(results, device, name):
                where = f"{result['device']}, torch {result['torch']}, {result['date']}"
                lines += [f"| {what} | {figures} | `{program}` | {where} |" for what, figures, program in rows(result)]
        for result in results_of(results, device, "generate"):
            tables += ["", generation_table(result)]
    return "\n".join(lines + tables)


def with_table(text: str, results: Path) -> str:
    """Give the page's text with the table and the part about growth in their places."""
    text = _with(text, (BEGIN, END), table(results))
    return _with(text, (BEGIN_GROWTH, END_GROWTH), growth.section(growth_result(results)))


def _with(text: str, marks: tuple[str, str], content: str) -> str:
    before, rest = text.split(marks[0])
    return before + marks[0] + "\n\n" + content + "\n\n" + marks[1] + rest.split(marks[1])[1]


def growth_result(results: Path) -> Result | None:
    """Read what was measured of growth last, if anything was."""
    return next(iter(results_of(results, "cpu", "growth")), None)


def main() -> None:
    page = ROOT / "docs" / "performance.md"
    page.write_text(with_table(page.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
    if result := growth_result(RESULTS):
        growth.draw(result, page.parent / growth.PICTURE)


if __name__ == "__main__":
    main()
