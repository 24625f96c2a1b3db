"""Fold the adapters of a run into the weights that they were trained on, and write a run without adapters.

1. Merged weights are computed in float32, and then rounded to what is to be written.
2. They are held against base and adapters apart: by their logits, and by the loss on validation data.
3. Only if the loss is hardly worse, they are written, as a run that every command reads.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff

from gpt.choices import Device
from gpt.commands.train import open_data
from gpt.config import EvaluationConfig, TrainConfig, nearest_multiple
from gpt.config_io import later, parse
from gpt.device import choose_device, choose_dtype
from gpt.distributed.world import World
from gpt.errors import InputError
from gpt.evaluation.compare import Measured, loss_difference
from gpt.evaluation.loss import summarize, sums_per_piece
from gpt.files import write_directory
from gpt.interrupts import Interruptible
from gpt.log import log
from gpt.model.lora import LoRAConfig, merged_weights
from gpt.model.transformer import GPT
from gpt.runs import checkpoint as checkpoints
from gpt.runs.directory import TOKENIZER, is_run, quoted, read_config, write_config
from gpt.runs.load import LoadedRun, load_run
from gpt.terminal import command
from gpt.training.finetuning import whole_weights
from gpt.training.validation import validation_windows

MOST_WORSE = 1e-3  # nats per token: what rounding may cost
COMPARED_WINDOWS = 4  # whose logits are compared
BATCH_TOKENS = 8192  # in one forward pass


def main(arguments: Sequence[str] | None = None) -> None:
    with Interruptible():
        parse(tyro.cli, later(merge), arguments, config=(DisallowNone,))()


def merge(
    to: Path,
    run: Path | None = None,
    checkpoint: str = "best",
    dtype: Literal["float32", "bfloat16"] = "float32",
    data: Path | None = None,
    tokens: int = 100_000,
    unchecked: FlagCreatePairsOff[bool] = False,
    device: Device = "auto",
) -> None:
    """Fold a run's adapters into its base's weights, and write a run without them.

    It is refused where validation loss would be worse by more than 0.001 nats.

    Args:
        to: New directory to write.
        run: Run that trained adapters, by path or by name below runs/; by default the newest run.
        checkpoint: Best, last, or the number of a step.
        dtype: What weights are written in. They are computed in float32.
        data: Dataset directory of the comparison; by default what the run was trained on.
        tokens: Validation tokens that the comparison predicts.
        unchecked: Write without comparing losses, where no data is at hand.
        device: Where to compare; auto takes CUDA, else MPS, else the CPU.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"`to` {to}: exists and is not empty; choose a new directory")
    if tokens < 1:
        raise InputError(f"`tokens` is {tokens}; it must be at least 1")
    loaded = load_run(run, choose_device(device), checkpoint=checkpoint)
    config = read_config(loaded.path) if is_run(loaded.path) else None
    if config is None or not config.lora.rank:
        raise InputError(f"{loaded.path}: has no adapters to be merged; name a run that was trained with `lora.rank`")
    if not loaded.state["step"]:
        raise InputError(
            f"{loaded.source}: no step was better than none, and its adapters change nothing: use {config.init_from} "
            "itself, or merge a later `checkpoint`, such as last"
        )
    stored = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    weights = {name: tensor.to("cpu", stored) for name, tensor in merged_weights(loaded.model).items()}
    merged = _plain_model(loaded, weights)
    lines = [f"{loaded.source}, merged in float32 and rounded to {dtype}"]
    if unchecked:
        ids = torch.arange(loaded.config.context_length) % loaded.config.vocab_size
        lines.append(_logits_line(loaded.model, merged, ids.unsqueeze(0)))
    else:
        lines += _compared(loaded, merged, replace(config, data=data or config.data), tokens, dtype)
    _write(loaded, weights, config, to)
    print("\n".join([*lines, f"written: {to}"]), flush=True)
    log.info(f"sample from it: {command('sample')} --run {quoted(to)}")


def _plain_model(loaded: LoadedRun, weights: dict[str, torch.Tensor]) -> GPT:
    """Build the model that the merged weights make, in float32 whatever they are rounded to."""
    model = GPT(copy.copy(loaded.config))
    model.load_state_dict(weights)
    return model.to(loaded.model.device).eval().requires_grad_(False)


def _compared(loaded: LoadedRun, merged: GPT, config: TrainConfig, tokens: int, dtype: str) -> list[str]:
    """Compare a model before and after on validation data, in words. Raises InputError if the loss is worse."""
    missing = [path for path in config.datasets if not path.exists()]
    if missing:
        raise InputError(
            f"{missing[0]}: is not there, and merged weights are compared on its validation split: name a dataset by "
            "`data`, or leave the comparison out by `unchecked`"
        )
    device = loaded.model.device.type
    dataset = open_data(config, World(device))
    if dataset.tokenizer.fingerprint != loaded.tokenizer.fingerprint:
        raise InputError(f"{dataset.path}: is written with another tokenizer than {loaded.path}; name another dataset")
    windows = validation_windows(replace(config, evaluation=EvaluationConfig(tokens=tokens)), dataset)
    windows.require_targets()
    batch = max(1, BATCH_TOKENS // loaded.config.context_length)
    lengths, arithmetic = dataset.tokenizer.byte_lengths(), choose_dtype("float32", device)
    losses, measured = [], []
    for model in (loaded.model, merged):
        sums = sums_per_piece(model, windows, lengths, device, arithmetic, batch)
        assert sums is not None
        losses.append(summarize(sums, windows).loss)
        measured.append(Measured(windows.weighted(sums.numpy()), windows))
    worse = loss_difference(*measured, windows.strata).value
    if not worse <= MOST_WORSE:  # NaN is no better
        advice = "use `dtype` float32" if dtype != "float32" else "go on with base and adapters apart"
        raise InputError(
            f"{loaded.source}: merged and rounded to {dtype}, its validation loss would be {losses[1]:.4f} instead of "
            f"{losses[0]:.4f} nats, worse by {worse:.2g} where {MOST_WORSE:g} is allowed; nothing was written: {advice}"
        )
    inputs, *_ = windows.read(range(min(COMPARED_WINDOWS, len(windows))))
    return [
        _logits_line(loaded.model, merged, inputs),
        f"validation loss          {losses[1]:.6f} nats per token, {losses[0]:.6f} before: {worse:+.1e}",
        f"compared on              {windows.targets:,} tokens of {dataset.path}",
    ]


@torch.no_grad()
def _logits_line(one: GPT, two: GPT, inputs: torch.Tensor) -> str:
    """Say by how much logits change at most, (B, T) ids."""
    pairs = ((one(row), two(row)) for row in inputs.to(one.device).split(1))
    change, size = torch.tensor([((b - a).abs().max(), a.abs().max()) for a, b in pairs]).amax(dim=0).tolist()
    return f"largest change of a logit {change:.1e}, of logits up to {size:.1f}"


def _write(loaded: LoadedRun, weights: dict[str, torch.Tensor], config: TrainConfig, to: Path) -> None:
    """Write a finished run of these weights: of its adapters nothing is left, nor of their optimizer's state.

    Its settings name the optimizer and the batch of the weights that the adapters were put on, since these would go on
    with them.
    """
    plain = replace(config, lora=LoRAConfig(), run_dir=to, steps=loaded.state["step"], stop_at=None)
    if base := whole_weights(config.init_from):
        batch = nearest_multiple(base.batch_tokens, config.model.context_length)
        plain = replace(plain, optimizer=base.optimizer, batch_tokens=batch)
    with write_directory(to) as partial:
        write_config(partial, plain)
        loaded.tokenizer.save(partial / TOKENIZER)
        checkpoints.save(partial, weights, {}, loaded.state)
