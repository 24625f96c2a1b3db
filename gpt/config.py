"""Every setting of training and sampling: frozen dataclasses whose fields say their unit.

A config cannot exist in an invalid state: validation happens on construction, and here only.
Nothing in this module touches a file, a device or a model.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gpt.choices import ComputeDtype, Device, Exact, Parallel, Recompute
from gpt.errors import InputError, require
from gpt.model.config import ModelConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """What moves the weights, how fast at which step, and the gradient clip."""

    name: Literal["adamw", "muon"] = "adamw"
    """AdamW (Loshchilov and Hutter 2019) for all weights, or Muon (Jordan et al. 2024) for the matrices of blocks."""
    learning_rate: float = 6e-4
    """AdamW's peak learning rate."""
    muon_learning_rate: float = 0.02
    """Muon's peak learning rate: the size of a step's singular values."""
    muon_momentum: float = 0.95
    """Decay of Muon's momentum, per step; 0 to below 1."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: a cosine down to the final rate, or stable at the peak and then a straight line down to it."""
    decay_ratio: float = 0.4
    """Fraction of all steps in which wsd comes down, at least one of them; 0 to 1, and 0 never comes down."""
    min_lr_ratio: float = 0.1
    """Learning rate at the last step, as a fraction of the peak; 0 to 1. 0 is reached one step after the last."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from 0 to its peak; at most half of all steps."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only (embeddings are matrices; norms and biases are not)."""
    beta1: float = 0.9
    """Decay of AdamW's first moment, per step; 0 to below 1."""
    beta2: float = 0.95
    """Decay of AdamW's second moment, per step; 0 to below 1."""
    gradient_clip: float = 1.0
    """Largest global norm of the gradient; 0 leaves it as it is."""
    skip_spikes: bool = False
    """Skip a batch whose gradient norm is over 6 standard deviations above the mean of the last 128 accepted ones."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "muon_learning_rate"):
            require(0 < getattr(self, name) < math.inf, f"optimizer.{name}", getattr(self, name), "above 0")
        require(0 <= self.decay_ratio <= 1, "optimizer.decay_ratio", self.decay_ratio, "from 0 to 1")
        require(0 <= self.min_lr_ratio <= 1, "optimizer.min_lr_ratio", self.min_lr_ratio, "from 0 to 1")
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "at least 0")
        require(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, "at least 0")
        for name in ("beta1", "beta2", "muon_momentum"):
            require(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "at least 0 and below 1")
        require(0 <= self.gradient_clip < math.inf, "optimizer.gradient_clip", self.gradient_clip, "at least 0")


@dataclass(frozen=True)
class EvaluationConfig:
    """When the validation split is read. It always is after the last step, and then also completely,
    unless that would take longer than all training."""

    every: int = 250
    """Steps between evaluations; 0 evaluates after the last step only."""
    tokens: int = 10_000_000
    """Tokens that each evaluation predicts: of a validation split that has more, always the same, spread evenly."""
    sample_tokens: int = 48
    """New tokens of the sample that each evaluation shows, from the dataset's prompt; 0 shows none."""

    def __post_init__(self) -> None:
        for name in ("every", "sample_tokens"):
            require(getattr(self, name) >= 0, f"evaluation.{name}", getattr(self, name), "at least 0")
        require(self.tokens >= 1, "evaluation.tokens", self.tokens, "at least 1")


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved. It always is at a new best validation loss and when training ends or is stopped."""

    every: int = 250
    """Steps between checkpoints; 0 saves none in between."""
    keep: int = 2
    """Newest checkpoints kept, beside the best."""

    def __post_init__(self) -> None:
        require(self.every >= 0, "checkpoint.every", self.every, "at least 0")
        require(self.keep >= 1, "checkpoint.keep", self.keep, "at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run."""

    preset: str = "custom"
    """The preset that the settings began with; to choose one, name it first, without a flag."""
    data: Path = Path("data/python")
    """Dataset directory, as gpt prepare writes it."""
    run_dir: Path | None = None
    """Run directory; by default a new one, runs/DATA-PRESET."""
    init_from: str = "scratch"
    """Where the weights begin: 'scratch', a run directory, or a Hugging Face GPT-2 (directory or hub id, such as
    openai-community/gpt2, or ID@REVISION; a run keeps the commit)."""
    steps: int = 1000
    """Optimizer steps; the learning-rate schedule spans them."""
    stop_at: int | None = None
    """Stop after this step, saved; a resumed run then goes on with the same schedule."""
    batch_tokens: int = 8192
    """Tokens that one step learns from; a multiple of model.context_length."""
    micro_batch_size: int | Literal["auto"] = "auto"
    """Sequences in one forward and backward pass of a process; gradients accumulate until batch_tokens are read.
    auto takes what fits into memory. Where memory runs out all the same, it is halved, and the step done again."""
    seed: int = 1337
    """Seed of initialisation, data order and dropout."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA, else MPS, else the CPU."""
    dtype: ComputeDtype = "auto"
    """Arithmetic of the forward and backward passes; weights are float32. auto: bfloat16 on CUDA devices that have
    it, float16 with loss scaling on others, float32 elsewhere."""
    parallel: Parallel = "ddp"
    """How several processes (torchrun) share the model: each has all of it (ddp), a part (fsdp), or the processes of
    a node have it together (hsdp)."""
    exact: Exact = "auto"
    """Resume bit for bit, as if never stopped, on the same machine. auto: on for the CPU, where it costs nothing but
    that a resumed run keeps its number of threads, and off on CUDA, where it costs speed and off sets nothing."""
    timeout: int = 300
    """Seconds that processes wait for each other within a step before they give up."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto compiles on CUDA only."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Weights & Biases logging."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    early_stopping_patience: int | None = None
    """End after this many evaluations in a row without a new best validation loss; by default never."""
    recompute: Recompute = "none"
    """What the backward pass computes again instead of finding it in memory: the MLPs' activations (a quarter of all
    that is kept, for next to no arithmetic), or whole blocks (all but their inputs, for a third more arithmetic)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_tokens", "log_every", "timeout"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        automatic = self.micro_batch_size == "auto"
        require(
            automatic or self.micro_batch_size >= 1, "micro_batch_size", self.micro_batch_size, "at least 1, or auto"
        )
        require(self.stop_at is None or self.stop_at >= 1, "stop_at", self.stop_at, "at least 1")
        require(
            self.early_stopping_patience is None or self.early_stopping_patience >= 1,
            "early_stopping_patience",
            self.early_stopping_patience,
            "at least 1",
        )
        if self.early_stopping_patience is not None and self.evaluation.every == 0:
            raise InputError("early_stopping_patience needs evaluations to count: give `evaluation.every`")
        require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")
        if self.batch_tokens % self.model.context_length:
            nearest = nearest_multiple(self.batch_tokens, self.model.context_length)
            raise InputError(
                f"batch_tokens is {self.batch_tokens:,}, which is not a multiple of model.context_length "
                f"({self.model.context_length:,}): use `batch_tokens` {nearest}"
            )

    @property
    def batch_sequences(self) -> int:
        """Sequences of model.context_length tokens in one optimizer step."""
        return self.batch_tokens // self.model.context_length


def nearest_multiple(number: int, of: int) -> int:
    """The positive multiple of `of` nearest to `number`."""
    return max(1, round(number / of)) * of
