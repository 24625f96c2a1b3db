"""Peak memory of fine-tuning GPT-2 124M on the CPU: all weights, and adapters of rank 16 on all matrices of the blocks.

The base is random weights of that shape, saved by transformers. Each peak is that of a process of its own, from
loading the base to the second step, with each number of sequences of 1,024 tokens in SEQUENCES, all at a time.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import arguments, finish, measured, show
from benchmarks.steps import build, random_text, timed
from gpt.config import TrainConfig
from gpt.memory import peak_memory
from gpt.model.config import ModelConfig
from gpt.model.lora import LoRAConfig
from gpt.presets import preset
from gpt.training.checkpointing import load_base
from gpt.training.trainer import Trainer

SEQUENCES = (2, 8)
MODEL = ModelConfig()
WAYS = {
    "all weights": LoRAConfig(),
    "rank 16": LoRAConfig(rank=16),
    "rank 16, base in bfloat16": LoRAConfig(rank=16, base_dtype="bfloat16"),
}


def write_base(directory: Path, model: ModelConfig = MODEL) -> None:
    """Save random weights of a shape as transformers does."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {name: getattr(model, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
    GPT2LMHeadModel(GPT2Config(n_positions=model.context_length, **shape)).save_pretrained(directory)


def config(base: Path, way: str, sequences: int, model: ModelConfig = MODEL) -> TrainConfig:
    """The settings of a step of so many sequences, all at a time."""
    return replace(
        preset("finetune"),
        model=model,
        lora=WAYS[way],
        init_from=str(base),
        batch_tokens=sequences * model.context_length,
        micro_batch_size=sequences,
        device="cpu",
        compile="off",
    )


def trained(base: Path, way: str, sequences: int, steps: int) -> dict[str, Any]:
    """Load the base in this process and make steps; what they took."""
    settings = config(base, way, sequences)
    trainer: Trainer = build(settings)
    load_base(base, trainer)
    with tempfile.TemporaryDirectory() as directory:
        seconds = timed(trainer, random_text(Path(directory)), steps)
    return {"peak_bytes": peak_memory("cpu"), "seconds": seconds}


def in_process(base: Path, way: str, sequences: int, steps: int = 2) -> dict[str, Any]:
    """The same in a process of its own, which has nothing else in its memory."""
    code = f"""
import json
from pathlib import Path
from benchmarks.adapters import trained
print(json.dumps(trained(Path({str(base)!r}), {way!r}, {sequences}, {steps})))
"""
    return json.loads(measured([sys.executable, "-c", code], Path.cwd()).output.splitlines()[-1])


def saved_base(directory: Path) -> Path:
    """Have a process of its own save a base, as transformers takes memory, too."""
    code = f"from pathlib import Path\nfrom benchmarks.adapters import write_base\nwrite_base(Path({str(directory)!r}))"
    measured([sys.executable, "-c", code], Path.cwd())
    return directory


def main() -> None:
    options = arguments(__doc__, peer=False, steps=2)
    result: dict[str, Any] = {"peak_bytes": {}, "seconds": {}, "of_all_weights": {}}
    with tempfile.TemporaryDirectory() as directory:
        base = saved_base(Path(directory))
        for sequences in SEQUENCES:
            found = {way: in_process(base, way, sequences, options.steps) for way in WAYS}
            peaks = {way: entry["peak_bytes"] for way, entry in found.items()}
            size = f"{sequences} × {MODEL.context_length}"
            result["peak_bytes"][size] = peaks
            result["seconds"][size] = {way: min(entry["seconds"]) for way, entry in found.items()}
            result["of_all_weights"][size] = {way: peak / peaks["all weights"] for way, peak in peaks.items()}
            show(json.dumps(result))
    finish("adapters", "cpu", result)


if __name__ == "__main__":
    main()
