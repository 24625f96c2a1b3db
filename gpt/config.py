"""Every setting of training and sampling: frozen dataclasses whose fields say their unit.

A config cannot exist in an invalid state: validation happens on construction, and here only.
Nothing in this module touches a file, a device or a model.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from gpt.errors import InputError

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Parallel = Literal["ddp", "fsdp", "hsdp"]
Activation = Literal["gelu", "relu-squared"]
Recompute = Literal["nothing", "activations", "blocks"]
Exact = Literal["auto", "on", "off"]
Overflow = Literal["error", "slide", "keep-prefix"]
Weights = Literal["auto", "float32", "bfloat16", "int8"]
IGNORED = -100  # a target that does not count, as cross_entropy has it


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the model. The default is GPT-2 small (Radford et al. 2019), 124,439,808 parameters.

    The settings after `layer_norm_epsilon` depart from GPT-2, each by itself.
    """

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
    """Added to the variance, or the mean square, in normalisation."""
    positions: Literal["learned", "rotary"] = "learned"
    """A learned vector per position, or queries and keys turned by angles that grow with it (Su et al. 2021)."""
    normalization: Literal["layer", "rms"] = "layer"
    """LayerNorm, or RMSNorm: no mean, no bias (Zhang and Sennrich 2019)."""
    query_key_norm: bool = False
    """Divide each head's queries and keys by their root mean square (Henry et al. 2020)."""
    activation: Activation = "gelu"
    """Between the MLP's two layers: GELU by tanh, or max(0, x)² (So et al. 2021)."""
    bias: bool = True
    """Biases in linear layers and in LayerNorm."""
    zero_projections: bool = False
    """Begin with zeros in the two projections of a block that write to the residual stream, and in an untied head."""
    tied_head: bool = True
    """Score the next token with the matrix that embeds tokens, or with one of its own."""
    logit_softcap: float = 0.0
    """Squeeze logits to ±cap by cap·tanh(logits / cap) (Gemma 2, 2024); 0 leaves them as they are."""
    key_value_heads: int | None = None
    """Heads of keys and values, each shared by as many query heads (Ainslie et al. 2023); by default n_head."""
    window: int | None = None
    """Tokens, its own included, that a position sees in the layers marked S; by default all before it."""
    window_pattern: str = "S"
    """Which layers have the window: S those with it, L those without, repeated over the layers, as SSSL."""
    ngram: int = 1
    """Add embeddings of the last 2 … n tokens together to a token's own (Huang et al. 2025); 1 adds none."""
    ngram_rows: int = 4096
    """Rows of the table of each length of n-grams, which are hashed to them."""

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "width", "context", "vocab_size", "ngram", "ngram_rows"):
            _require(1 <= getattr(self, name) < 2**31, f"model.{name}", getattr(self, name), "from 1 to 2^31 - 1")
        _require(
            self.width % self.n_head == 0, "model.width", self.width, f"a multiple of model.n_head ({self.n_head})"
        )
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "at least 0 and below 1")
        _require(self.layer_norm_epsilon > 0, "model.layer_norm_epsilon", self.layer_norm_epsilon, "above 0")
        if self.positions == "rotary":
            _require(self.head_width % 2 == 0, "model.width", self.width, f"{self.n_head} heads of an even width each")
        _require(0 <= self.logit_softcap < math.inf, "model.logit_softcap", self.logit_softcap, "at least 0")
        shared = self.key_value_heads
        _require(
            shared is None or (shared >= 1 and self.n_head % shared == 0),
            "model.key_value_heads",
            shared,
            f"a divisor of model.n_head ({self.n_head})",
        )
        _require(self.window is None or self.window >= 1, "model.window", self.window, "at least 1")
        marked = self.window_pattern != "" and set(self.window_pattern) <= {"S", "L"}
        _require(marked, "model.window_pattern", repr(self.window_pattern), "letters S and L, such as SSSL")

    @property
    def head_width(self) -> int:
        return self.width // self.n_head

    @property
    def key_value_width(self) -> int:
        """Numbers in all of a position's keys, or values."""
        return (self.key_value_heads or self.n_head) * self.head_width

    def window_of(self, layer: int) -> int | None:
        """Tokens that a position of this layer sees; None means all before it."""
        marks = self.window_pattern
        return self.window if marks[layer % len(marks)] == "S" else None


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
    decay: float = 0.4
    """Fraction of all steps in which wsd comes down, at least one of them; 0 to 1, and 0 never comes down."""
    final_learning_rate: float = 0.1
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
            _require(0 < getattr(self, name) < math.inf, f"optimizer.{name}", getattr(self, name), "above 0")
        _require(0 <= self.decay <= 1, "optimizer.decay", self.decay, "from 0 to 1")
        _require(
            0 <= self.final_learning_rate <= 1, "optimizer.final_learning_rate", self.final_learning_rate, "from 0 to 1"
        )
        _require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "at least 0")
        _require(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, "at least 0")
        for name in ("beta1", "beta2", "muon_momentum"):
            _require(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "at least 0 and below 1")
        _require(0 <= self.gradient_clip < math.inf, "optimizer.gradient_clip", self.gradient_clip, "at least 0")


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
            _require(getattr(self, name) >= 0, f"evaluation.{name}", getattr(self, name), "at least 0")
        _require(self.tokens >= 1, "evaluation.tokens", self.tokens, "at least 1")


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
    """How the next token is drawn: the settings apply in the order in which they stand here."""

    max_tokens: int = 200
    """New tokens per sample, at the most."""
    repetition_penalty: float = 1.0
    """Makes ids that the text already has less likely, above 1; divides their logits, or multiplies negative ones."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = 50
    """Draw among the k likeliest tokens; above the vocabulary means all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens whose probabilities add up to this."""
    min_p: float = 0.0
    """Draw among the tokens that have at least this share of the likeliest one's probability."""
    seed: int | None = None
    """Seed of the draws; without one every call draws afresh."""
    overflow: Overflow = "slide"
    """When the context is full: refuse beforehand (error), read the newest half again (slide), or the first quarter
    and the newer half of the rest (keep-prefix)."""

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(
            0.001 <= self.repetition_penalty <= 1000,
            "repetition_penalty",
            self.repetition_penalty,
            "from 0.001 to 1000 (1 changes nothing)",
        )
        _require(
            0 <= self.temperature < math.inf, "temperature", self.temperature, "0 (greedy) or a finite number above 0"
        )
        _require(self.top_k >= 1, "top_k", self.top_k, "at least 1 (a number above the vocabulary means all)")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1 (which means all)")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "from 0 (which means all) to 1")
        _require(self.seed is None or 0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")
        _require(self.overflow in get_args(Overflow), "overflow", self.overflow, " or ".join(get_args(Overflow)))


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
    """Where the weights begin: 'scratch', a run directory, or a Hugging Face GPT-2 (directory or hub id, such as
    openai-community/gpt2, or ID@REVISION; a run keeps the commit)."""
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
    early_stop: int | None = None
    """End after this many evaluations in a row without a new best validation loss; by default never."""
    recompute: Recompute = "nothing"
    """What the backward pass computes again instead of finding it in memory: the MLPs' activations (a quarter of all
    that is kept, for next to no arithmetic), or whole blocks (all but their inputs, for a third more arithmetic)."""
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
        _require(self.early_stop is None or self.early_stop >= 1, "early_stop", self.early_stop, "at least 1")
        if self.early_stop is not None and self.evaluation.every == 0:
            raise InputError("early_stop needs evaluations to count: give --evaluation.every")
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
