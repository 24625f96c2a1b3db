"""Peak memory and speed of a step of GPT-2 124M with 8 sequences of 1,024 tokens: nanoGPT's, and ours in two ways.

saving: the head in chunks, and the MLPs' activations computed again (--recompute activations). plain: all logits at
once, and all activations kept. Peaks are those of whole processes; for the speed the two ways take turns in one
process, step by step.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import NanoGPT, arguments, described, finish, measured, ratio, show
from benchmarks.steps import build, random_text, timed
from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.memory import retain_freed_memory
from gpt.model import loss as head
from gpt.model.config import ModelConfig
from gpt.presets import preset
from gpt.training.trainer import Trainer

SEQUENCES = 8
MODEL = ModelConfig(bias=False)  # as nanoGPT has it by default
CHUNKED = head.chunk_rows


def config(device: str) -> TrainConfig:
    tokens = SEQUENCES * MODEL.context_length
    return replace(
        preset("gpt2"), model=MODEL, batch_tokens=tokens, micro_batch_size=SEQUENCES, device=device, compile="off"
    )


def choose(trainer: Trainer, saving: bool) -> None:
    """Let the trainer's next steps save memory, or not."""
    head.__dict__["chunk_rows"] = CHUNKED if saving else lambda *_: 10**9
    trainer.model.set_recompute("activations" if saving else "none")
    retain_freed_memory(trainer.device, keep=not saving)  # as the trainer does by its setting of recompute


@contextlib.contextmanager
def our_trainer(device: str) -> Generator[tuple[Trainer, Dataset]]:
    with tempfile.TemporaryDirectory() as directory:
        yield build(config(device)), random_text(Path(directory))


def alternating(device: str, runs: int) -> dict[str, list[float]]:
    """Seconds of steps in both ways in turns, the first of each not counted."""
    with our_trainer(device) as (trainer, dataset):
        seconds = timed(trainer, dataset, 2 * runs + 2, before=lambda step: choose(trainer, saving=step % 2 == 0))
    return {"saving": seconds[2::2], "plain": seconds[3::2]}


def peak(device: str, saving: bool) -> int:
    """Bytes that a process of its own needed for two steps."""
    code = f"""
from benchmarks.memory import choose, our_trainer
from benchmarks.steps import timed
from gpt.memory import peak_memory
with our_trainer({device!r}) as (trainer, dataset):
    timed(trainer, dataset, 2, before=lambda step: choose(trainer, {saving}))
print(peak_memory({device!r}))
"""
    return int(measured([sys.executable, "-c", code], Path.cwd()).output.splitlines()[-1])


def nanogpt_peak(peer: NanoGPT, device: str) -> int:
    flags = f"--dataset=random --batch_size={SEQUENCES} --block_size={MODEL.context_length} "
    flags += "--gradient_accumulation_steps=1 --max_iters=2 --eval_interval=1000000 --eval_iters=1 "
    flags += f"--log_interval=1 --device={device} --compile=False"
    if device == "cpu":
        return peer.train(*flags.split()).peak_bytes
    code = f"import sys, torch; sys.argv = {['train.py', *flags.split()]}\n"
    code += "exec(open('train.py').read())\nprint('peak', torch.cuda.max_memory_allocated())"
    return int(measured([sys.executable, "-c", code], peer.path).output.rsplit("peak ", 1)[1])


def main() -> None:
    options = arguments(__doc__, runs=3, device="cpu")
    result: dict[str, Any] = {"models": described(MODEL, "AdamW")}
    with tempfile.TemporaryDirectory() as directory:
        peer = NanoGPT(options.nanogpt, Path(directory))
        random = np.random.default_rng(0).integers(0, MODEL.vocab_size, 500_000)
        peer.prepare("random", random, random[:100_000], MODEL.vocab_size)
        result["peak_bytes"] = {"nanogpt": nanogpt_peak(peer, options.device)}
    for name, saving in (("ours", True), ("ours, plain", False)):
        result["peak_bytes"][name] = peak(options.device, saving)
    show(json.dumps(result))
    seconds = alternating(options.device, options.runs)
    result |= {
        "seconds_per_step": seconds,
        "memory_ratio": result["peak_bytes"]["ours"] / result["peak_bytes"]["nanogpt"],
        "speed_ratio": ratio(seconds["plain"], seconds["saving"]),
        "median_seconds": {name: median(values) for name, values in seconds.items()},
    }
    finish("memory", options.device, result)


if __name__ == "__main__":
    main()
