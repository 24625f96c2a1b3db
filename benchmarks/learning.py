"""Tokens that ours needs for the loss that nanoGPT's GPT-2 recipe reaches at the end of its schedule.

nanoGPT: its settings for GPT-2 (AdamW, β₂ 0.95, weight decay 0.1, a cosine to a tenth of its peak), with the model and
the number of tokens scaled to the machine. Its documented rate of 6e-4 is meant for 600,000 steps, and our recipe was
tuned for few; so nanoGPT's rate is tuned first, and it trains at the best. Ours: the modern recipe on a model of the
same depth and width, with schedules of ever fewer tokens as long as they still reach that loss on the complete
validation split. Losses of nanoGPT are its own estimates on random batches, about as many tokens as the split has.
"""

import json
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import NanoGPT, all_ids, arguments, described, finish, ours, show, validation_loss
from gpt.dataset.dataset import open_dataset
from gpt.model.config import ModelConfig
from gpt.presets import preset


@dataclass(frozen=True)
class Scale:
    """What fits a machine."""

    model: ModelConfig
    batch: int
    """Sequences per step of nanoGPT."""
    steps: int
    warm_up: int
    our_preset: str
    our_batch: int
    """Sequences per step of ours."""


SCALES = {
    "cpu": Scale(ModelConfig(n_layer=6, n_head=6, n_embd=384, context_length=256), 16, 60, 6, "gpt2-modern", 4),
    "cuda": Scale(ModelConfig(), 480, 400, 40, "gpt2-modern", 128),
}
LESS_AND_LESS = (3, 4, 6)  # fractions of nanoGPT's tokens
RATES = (6e-4, 1.2e-3, 2.4e-3, 4.8e-3, 9.6e-3)  # that nanoGPT may have; the first is its documented one


def best_rate(losses: dict[float, float]) -> float:
    """The rate of the lowest loss. The rates tried must reach beyond it, else it is not known to be the best."""
    best = min(losses, key=lambda rate: losses[rate])
    if best == max(losses):
        show(f"nanoGPT is best at the highest rate that was tried, {best}: try higher ones")
    return best


def nanogpt_loss(peer: NanoGPT, scale: Scale, device: str, rate: float, seed: int, validation: int) -> float:
    micro = scale.batch if device == "cpu" else 32
    flags = {
        "dataset": "text", "n_layer": scale.model.n_layer, "n_head": scale.model.n_head, "n_embd": scale.model.n_embd,
        "block_size": scale.model.context_length, "batch_size": micro,
        "gradient_accumulation_steps": scale.batch // micro,
        "max_iters": scale.steps, "lr_decay_iters": scale.steps, "warmup_iters": scale.warm_up, "weight_decay": 0.1,
        "learning_rate": rate, "min_lr": rate / 10, "eval_interval": scale.steps, "log_interval": 50,
        "eval_iters": max(20, min(200, validation // (micro * scale.model.context_length))), "device": device,
        "compile": device == "cuda",
    }  # fmt: skip
    source = peer.path / "train.py"  # its seed is no setting
    text, found = re.subn(r"torch\.manual_seed\(\d+ ", f"torch.manual_seed({1337 + seed} ", source.read_text())
    assert found == 1
    source.write_text(text)
    return validation_loss(peer.train(*(f"--{name}={value}" for name, value in flags.items())).output)


def our_loss(work: Path, scale: Scale, tokens: int, device: str, data: Path, seed: int) -> float:
    batch = scale.our_batch * scale.model.context_length
    steps = tokens // batch
    run = work / f"ours-{seed}-{steps}"
    model = {"n-layer": scale.model.n_layer, "n-head": scale.model.n_head, "n-embd": scale.model.n_embd}
    flags = [
        f"--model.{name}={value}" for name, value in (model | {"context-length": scale.model.context_length}).items()
    ]
    ours(
        work, scale.our_preset, "--data", data, "--run-dir", run, "--seed", seed, "--device", device, *flags,
        "--batch-tokens", batch, "--steps", steps, "--evaluation.every", 0, "--checkpoint.every", 0,
    )  # fmt: skip
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["val_loss"]


def main() -> None:
    options = arguments(__doc__, runs=3, device="cpu", data=None)
    data, scale = (options.data or Path("data/python")).resolve(), SCALES[options.device]
    dataset = open_dataset(data)
    tokens = scale.steps * scale.batch * scale.model.context_length
    size = dataset.tokenizer.vocab_size
    theirs = replace(scale.model, vocab_size=size, bias=False)
    own = preset(scale.our_preset)
    shape = {
        "n_layer": theirs.n_layer,
        "n_head": theirs.n_head,
        "n_embd": theirs.n_embd,
        "context_length": theirs.context_length,
    }
    models = {
        "ours": described(replace(own.model, vocab_size=size, **shape), "Muon and AdamW"),
        "nanogpt": described(theirs, "AdamW"),
    }
    result: dict[str, Any] = {"models": models, "nanogpt_tokens": tokens}
    result |= {"nanogpt_nats": [], "our_nats": [], "token_ratio": []}
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        peer = NanoGPT(options.nanogpt, work)
        peer.prepare("text", all_ids(dataset.train), all_ids(dataset.validation), dataset.tokenizer.vocab_size)

        def their_loss(rate: float, seed: int) -> float:
            return nanogpt_loss(peer, scale, options.device, rate, seed, dataset.validation.tokens)

        tuning = {rate: their_loss(rate, seed=options.runs) for rate in RATES}  # a seed that is not measured
        rate = best_rate(tuning)
        result |= {"nanogpt_tuning": {str(tried): loss for tried, loss in tuning.items()}, "nanogpt_rate": rate}
        for number in range(options.runs):
            target = their_loss(rate, number)
            show(f"nanoGPT: {target:.4f} nats after {tokens:,} tokens")
            losses: dict[int, float] = {}
            for fraction in LESS_AND_LESS:
                losses[fraction] = our_loss(work, scale, tokens // fraction, options.device, data, number)
                show(f"ours: {losses[fraction]:.4f} nats after {tokens // fraction:,} tokens")
                if losses[fraction] > target:
                    break
            reached = [fraction for fraction, loss in losses.items() if loss <= target]
            result["nanogpt_nats"].append(target)
            result["our_nats"].append({str(fraction): loss for fraction, loss in losses.items()})
            result["token_ratio"].append(max(reached, default=0))
    finish("learning", options.device, result | {"ratio": median(result["token_ratio"])})


if __name__ == "__main__":
    main()
