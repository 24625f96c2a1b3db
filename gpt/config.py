"""Every setting of training and sampling: frozen dataclasses whose fields say their unit.

A config cannot exist in an invalid state: validation happens on construction, and here only.
Nothing in this module touches a file, a device or a model.
"""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from gpt.errors import InputError, did_you_mean

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Parallel = Literal["ddp", "fsdp", "hsdp"]
T = TypeVar("T")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the model. The default is GPT-2 small (Radford et al. 2019), 124,439,808 parameters."""

    n_layer: int = 12
    """Number of transformer blocks."""
    n_head: int = 12
    """Number of attention heads in a block; divides the width."""
    width: int = 768
    """Numbers per token between the blocks (GPT-2's n_embd)."""
    context: int = 1024
    """Tokens the model sees at once (GPT-2's n_positions)."""
    vocab_size: int = 50257
    """Number of token ids; training takes it from the dataset's tokenizer."""
    dropout: float = 0.0
    """Probability of dropping a value, in GPT-2's three places; 0 to below 1."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in layer normalisation."""

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "width", "context", "vocab_size"):
            _require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        _require(
            self.width % self.n_head == 0, "model.width", self.width, f"a multiple of model.n_head ({self.n_head})"
        )
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "at least 0 and below 1")
        _require(self.layer_norm_epsilon > 0, "model.layer_norm_epsilon", self.layer_norm_epsilon, "above 0")

    @property
    def head_width(self) -> int:
        return self.width // self.n_head


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, its schedule and the gradient clip."""

    learning_rate: float = 6e-4
    """Peak learning rate."""
    final_learning_rate: float = 0.1
    """Learning rate at the last step, as a fraction of the peak; 0 to 1."""
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
        _require(0 < self.learning_rate < math.inf, "optimizer.learning_rate", self.learning_rate, "above 0")
        _require(
            0 <= self.final_learning_rate <= 1, "optimizer.final_learning_rate", self.final_learning_rate, "from 0 to 1"
        )
        _require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "at least 0")
        _require(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, "at least 0")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "at least 0 and below 1")
        _require(0 <= self.gradient_clip < math.inf, "optimizer.gradient_clip", self.gradient_clip, "at least 0")


@dataclass(frozen=True)
class EvaluationConfig:
    """When the complete validation split is read. It always is after the last step."""

    every: int = 250
    """Steps between evaluations; 0 evaluates after the last step only."""

    def __post_init__(self) -> None:
        _require(self.every >= 0, "evaluation.every", self.every, "at least 0")


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved. It always is at a new best validation loss and when training ends or is stopped."""

    every: int = 250
    """Steps between checkpoints; 0 saves none in between."""
    keep: int = 2
    """Newest checkpoints kept, beside the best."""

    def __post_init__(self) -> None:
        _require(self.every >= 0, "checkpoint.every", self.every, "at least 0")
        _require(self.keep >= 1, "checkpoint.keep", self.keep, "at least 1")


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn."""

    max_tokens: int = 200
    """New tokens per sample, at the most."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = 50
    """Draw among the k likeliest tokens; above the vocabulary means all."""
    seed: int | None = None
    """Seed of the draws; without one every call draws afresh."""

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(
            0 <= self.temperature < math.inf, "temperature", self.temperature, "0 (greedy) or a finite number above 0"
        )
        _require(self.top_k >= 1, "top_k", self.top_k, "at least 1 (a number above the vocabulary means all)")
        _require(self.seed is None or 0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")


@dataclass(frozen=True)
class Config:
    """A whole training run."""

    preset: str = "custom"
    """The preset that the settings began with; to choose one, name it first, without a flag."""
    data: Path = Path("data/python")
    """Dataset directory, as the recipes in data/ write it."""
    run: Path | None = None
    """Run directory; by default a new one, runs/DATA-PRESET. Also --run-dir, as torchrun takes --run for its own."""
    init: str = "scratch"
    """Where the weights begin: 'scratch', a run directory, or a Hugging Face GPT-2 (directory or hub id)."""
    steps: int = 1000
    """Optimizer steps; the learning-rate schedule spans them."""
    stop_at: int | None = None
    """Stop after this step, saved; --resume then goes on with the same schedule."""
    batch_tokens: int = 8192
    """Tokens that one step learns from; a multiple of model.context."""
    micro_batch: int | Literal["auto"] = "auto"
    """Sequences in one forward and backward pass of a process; gradients accumulate until batch_tokens are read.
    auto takes what fits into memory. Where memory runs out all the same, it is halved, and the step done again."""
    seed: int = 1337
    """Seed of initialisation, data order and dropout."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA, else MPS, else the CPU."""
    dtype: Precision = "auto"
    """Arithmetic of the forward and backward passes; weights are float32. auto: bfloat16 on CUDA devices that have
    it, float16 with loss scaling on others, float32 elsewhere."""
    parallel: Parallel = "ddp"
    """How several processes (torchrun) share the model: each has all of it (ddp), a part (fsdp), or the processes of
    a node have it together (hsdp)."""
    timeout: int = 300
    """Seconds that processes wait for each other within a step before they give up."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto compiles on CUDA only."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Weights & Biases logging."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_tokens", "log_every", "timeout"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        automatic = self.micro_batch == "auto"
        _require(automatic or self.micro_batch >= 1, "micro_batch", self.micro_batch, "at least 1, or auto")
        _require(self.stop_at is None or self.stop_at >= 1, "stop_at", self.stop_at, "at least 1")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")
        if self.batch_tokens % self.model.context:
            nearest = nearest_multiple(self.batch_tokens, self.model.context)
            raise InputError(
                f"batch_tokens is {self.batch_tokens:,}, which is not a multiple of model.context "
                f"({self.model.context:,}): use --batch-tokens {nearest}"
            )

    @property
    def batch_sequences(self) -> int:
        """Sequences of model.context tokens in one optimizer step."""
        return self.batch_tokens // self.model.context


def nearest_multiple(number: int, of: int) -> int:
    """The positive multiple of `of` nearest to `number`."""
    return max(1, round(number / of)) * of


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise InputError(f"{name} is {value}; it must be {allowed}")


# ---- configs as plain dictionaries: JSON in a run directory, TOML from a user ----


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON-ready values; `overlay` is the way back."""

    def ready(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Path) else value for key, value in items}

    return dataclasses.asdict(config, dict_factory=ready)


def overlay(config: T, values: dict[str, Any], where: str, prefix: str = "") -> T:
    """`config` with `values` laid over it, nested tables included.

    Raises InputError, naming `where` and the key, for an unknown key or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: holds {values!r}; it must be a table of settings")
    fields = typing.get_type_hints(type(config))
    changes = {}
    for key, value in values.items():
        name = prefix + key
        if key not in fields:
            raise InputError(
                f"{where}: unknown key {name!r}; {did_you_mean(name, (prefix + known for known in fields))}"
            )
        if dataclasses.is_dataclass(fields[key]):
            if not isinstance(value, dict):
                raise InputError(f"{where}: {name!r} is {value!r}; it must be a table of settings")
            changes[key] = overlay(getattr(config, key), value, where, f"{name}.")
        else:
            changes[key] = _typed(value, fields[key], where, name)
    try:
        return dataclasses.replace(config, **changes)  # ty: ignore[invalid-argument-type]
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _typed(value: Any, expected: Any, where: str, name: str) -> Any:
    """`value` if it has the annotated type; an integer passes for a float and a string for a path."""
    union = typing.get_origin(expected) in (typing.Union, types.UnionType)
    options = typing.get_args(expected) if union else (expected,)
    for option in options:
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if option is types.NoneType and value is None:
            return value
        if option is Path and isinstance(value, str):
            return Path(value)
        if option is float and type(value) is int:
            return float(value)
        if isinstance(option, type) and type(value) is option:
            return value
    wanted = " or ".join(
        " or ".join(map(repr, typing.get_args(option))) if typing.get_origin(option) is Literal else option.__name__
        for option in options
    )
    raise InputError(f"{where}: {name!r} is {value!r}; it must be {wanted}")
