"""Training tokens per second of the exact GPT-2, the same model and batch in nanoGPT and ours, both eager and compiled.

nanoGPT's times are those of its own log; ours are the trainer's whole steps. Each mode is a process of its own, and
they take turns. The better mode of each side counts.
"""

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import (
    NanoGPT,
    arguments,
    described,
    finish,
    iteration_seconds,
    matrix_speed,
    measured,
    ratio,
    show,
)
from gpt.analysis.cost import flops_per_token
from gpt.device import choose_dtype
from gpt.model.config import ModelConfig
from gpt.presets import modern

Shape = tuple[ModelConfig, int, int, int]
# name: the model without biases, as nanoGPT has it by default; sequences; warm-up and measured steps
CPU = {
    "4 x 128": (
        ModelConfig(n_layer=4, n_head=4, n_embd=128, context_length=64, vocab_size=65, bias=False),
        12,
        20,
        100,
    ),
    "124M": (ModelConfig(context_length=256, bias=False), 4, 2, 4),
}
CUDA = {
    "gpt2": (ModelConfig(bias=False), 32, 10, 20),
    "gpt2-medium": (ModelConfig(n_layer=24, n_head=16, n_embd=1024, bias=False), 16, 10, 20),
}


def nanogpt_steps(
    peer: NanoGPT, model: ModelConfig, batch: int, steps: int, device: str, compiled: bool
) -> list[float]:
    flags = {
        "dataset": "random", "n_layer": model.n_layer, "n_head": model.n_head, "n_embd": model.n_embd,
        "block_size": model.context_length, "batch_size": batch, "gradient_accumulation_steps": 1, "max_iters": steps,
        "eval_interval": 10**6, "eval_iters": 1, "log_interval": 1, "device": device, "compile": compiled,
    }  # fmt: skip
    return iteration_seconds(peer.train(*(f"--{name}={value}" for name, value in flags.items())).output)


def our_steps(model: ModelConfig, batch: int, steps: int, device: str, compiled: bool, work: Path) -> list[float]:
    settings = {
        "model": {name: getattr(model, name) for name in ModelConfig.__dataclass_fields__},
        "batch_tokens": batch * model.context_length, "micro_batch_size": batch, "device": device, "steps": 10**6,
        "compile": "on" if compiled else "off",
    }  # fmt: skip
    process = measured([sys.executable, "-m", "benchmarks.steps", "gpt2", str(steps), json.dumps(settings)], work)
    return json.loads(process.output.splitlines()[-1])["seconds"]


def compare(peer: NanoGPT, shape: Shape, device: str, runs: int, work: Path) -> dict[str, Any]:
    """Tokens per second of both sides in both modes, by run."""
    model, batch, warm_up, steps = shape
    found: dict[str, list[float]] = {}
    for _ in range(runs):
        for compiled in (False, True) if device == "cpu" else (True,):
            mode = "compiled" if compiled else "eager"
            theirs = nanogpt_steps(peer, model, batch, warm_up + steps, device, compiled)
            own = our_steps(model, batch, warm_up + steps, device, compiled, work)
            for side, seconds in (("nanogpt", theirs), ("ours", own)):
                speed = batch * model.context_length / median(seconds[warm_up:])
                found.setdefault(f"{side} {mode}", []).append(speed)
                show(f"  {side} {mode}: {speed:,.0f} tokens/s")
    best = {}
    for side in ("nanogpt", "ours"):
        best[side] = max((speeds for name, speeds in found.items() if name.startswith(side)), key=median)
    compared = {
        "tokens_per_s": found,
        "ratio": ratio(best["ours"], best["nanogpt"]),
        "models": described(model, "AdamW"),
    }
    return compared | used(model, best["ours"], device)


def used(model: ModelConfig, speeds: list[float], device: str) -> dict[str, float | None]:
    """What the model computes per second, in TFLOP/s, and what matrix products reach on this device at this moment."""
    achieved = median(speeds) * flops_per_token(model)
    limit = max(matrix_speed(device, choose_dtype("auto", device)) for _ in range(3))  # a moment may be a busy one
    mfu = achieved / limit if achieved <= limit else None
    return {"model_tflops": achieved / 1e12, "matrix_tflops": limit / 1e12, "mfu": mfu}


def modern_speed(shape: Shape, runs: int, work: Path) -> dict[str, Any]:
    """Tokens per second on CUDA of the modern variant of a shape."""
    model, (batch, warm_up, steps) = modern(shape[0]), shape[1:]
    speeds = []
    for _ in range(runs):
        seconds = our_steps(model, batch, warm_up + steps, "cuda", True, work)
        speeds.append(batch * model.context_length / median(seconds[warm_up:]))
    return {"tokens_per_s": {"ours compiled": speeds}, "models": described(model, "AdamW")} | used(
        model, speeds, "cuda"
    )


def main() -> None:
    options = arguments(__doc__, runs=3, device="cpu")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        peer = NanoGPT(options.nanogpt, work)
        result = {}
        for name, shape in (CUDA if options.device == "cuda" else CPU).items():
            show(f"{name}:")
            vocab_size = shape[0].vocab_size
            random = np.random.default_rng(0).integers(0, vocab_size, 500_000)
            peer.prepare("random", random, random[:100_000], vocab_size)
            result[name] = compare(peer, shape, options.device, options.runs, work)
            if options.device == "cuda":
                result[f"{name}, modern"] = modern_speed(shape, options.runs, work)
        finish("throughput", options.device, result)


if __name__ == "__main__":
    main()
