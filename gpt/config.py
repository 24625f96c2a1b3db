"""Every setting of training: frozen dataclasses whose fields say their unit and have their limits.

A config cannot exist in an invalid state: it is checked on construction.
Nothing in this module touches a file, a device or a model.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from gpt.choices import ComputeDtype, Device, Exact, MatmulPrecision, Parallel, Recompute
from gpt.errors import InputError, Limited, bounded, check_limits
from gpt.model.config import ModelConfig
from gpt.model.lora import LoRAConfig

DEFAULT_DATA = Path("data/python")


@dataclass(frozen=True)
class OptimizerConfig(Limited):
    """What moves the weights, how fast at which step, and the gradient clip."""

    name: Literal["adamw", "muon"] = "adamw"
    """AdamW (Loshchilov and Hutter 2019) for all weights, or Muon (Jordan et al. 2024) for the matrices of blocks."""
    learning_rate: float = bounded(6e-4, gt=0)
    """AdamW's peak learning rate; that of some kinds of weights can be scaled."""
    muon_learning_rate: float = bounded(0.02, gt=0)
    """Muon's peak learning rate: the size of a step's singular values."""
    muon_momentum: float = bounded(0.95, ge=0, lt=1)
    """Decay of Muon's momentum, per step."""
    newton_schulz_iterations: int = bounded(5, ge=1)
    """Iterations in which Muon makes its momentum orthogonal. With fewer, a step is sooner done, and directions that
    the momentum has little of move by less."""
    muon_cautious_decay: bool = False
    """Let Muon's weights decay only where the step brings them nearer to 0 as well (Chen et al. 2025)."""
    embedding_lr_scale: float = bounded(1.0, gt=0)
    """Learning rate of the embeddings of tokens, with a tied head, of their values and of positions: times
    `learning_rate`."""
    ngram_lr_scale: float = bounded(1.0, gt=0)
    """Learning rate of the embeddings of n-grams: times `learning_rate`."""
    head_lr_scale: float = bounded(1.0, gt=0)
    """Learning rate of a head that is not tied: times `learning_rate`."""
    vector_lr_scale: float = bounded(1.0, gt=0)
    """Learning rate of norms and biases: times `learning_rate`."""
    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    """After the warm-up: a cosine or a straight line down to the final rate, or stable at the peak and then the line
    (wsd)."""
    decay_ratio: float = bounded(0.4, ge=0, le=1)
    """Fraction of all steps in which wsd comes down; at least one step does. With 0 it never comes down."""
    min_lr_ratio: float = bounded(0.1, ge=0, le=1)
    """Learning rate at the last step, as a fraction of the peak. 0 is reached one step after the last."""
    warmup_steps: int = bounded(100, ge=0)
    """Steps over which the learning rate rises linearly to its peak; at most half of all steps."""
    weight_decay: float = bounded(0.1, ge=0)
    """Decoupled weight decay, on matrices only (embeddings are matrices; norms and biases are not)."""
    beta1: float = bounded(0.9, ge=0, lt=1)
    """Decay of AdamW's first moment, per step."""
    beta2: float = bounded(0.95, ge=0, lt=1)
    """Decay of AdamW's second moment, per step."""
    gradient_clip: float = bounded(1.0, ge=0)
    """Largest global norm of the gradient; 0 leaves it as it is."""
    skip_spikes: bool = False
    """Skip a batch whose gradient norm is over 6 standard deviations above the mean of the last 128 accepted ones."""

    prefix = "optimizer."


@dataclass(frozen=True)
class EvaluationConfig(Limited):
    """When the validation split is read. It always is after the last step, and then also completely,
    unless that would take longer than all training."""

    every: int = bounded(250, ge=0)
    """Steps between evaluations; 0 evaluates after the last step only."""
    per_epoch: int | None = bounded(None, ge=1)
    """Evaluations in an epoch, from which `evaluation.every` follows once the data is known."""
    at_start: bool = False
    """Evaluate before the first step as well, and save the weights that training begins with: the first best."""
    min_gain: float = bounded(0.0, ge=0)
    """Standard errors by which a new best loss must be below the best before: those of the paired difference, piece by
    piece. With 0, or where there is too little text for an error, any lower loss is a new best."""
    tokens: int = bounded(10_000_000, ge=1)
    """Tokens that each evaluation predicts: of a validation split that has more, always the same, spread evenly. Each
    of several datasets gets the same part of them."""
    train_split: bool = False
    """Measure the loss on the training split as well, as it is measured on the validation split: on as many windows,
    always the same, spread evenly, without dropout. At the first evaluation after each epoch, before the first step,
    where that is evaluated, and at the last evaluation."""
    sample_tokens: int = bounded(48, ge=0)
    """New tokens of the sample that each evaluation shows, from the dataset's prompt; 0 shows none."""

    prefix = "evaluation."


@dataclass(frozen=True)
class CheckpointConfig(Limited):
    """When the run is saved. It always is at a new best validation loss and when training ends or is stopped."""

    every: int = bounded(250, ge=0)
    """Steps between checkpoints; 0 saves none in between."""
    keep: int = bounded(2, ge=1)
    """Newest checkpoints kept, beside the best."""

    prefix = "checkpoint."


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run."""

    preset: str = "custom"
    """The preset that the settings began with; to choose one, name it first, without a flag."""
    data: Path | tuple[str, ...] = DEFAULT_DATA
    """Dataset directory, as gpt prepare writes it; or several, each with a weight: data/code=0.7 data/prose=0.3. A
    weight is the share of the tokens that are read, and what the last = is followed by."""
    max_epochs: float | None = bounded(None, gt=0)
    """Most times that a dataset may be read: steps that read one more often are refused. By default 4 for each of
    several, and as often as is asked for where there is only one."""
    run_dir: Path | None = None
    """Run directory; by default a new one, runs/DATA-PRESET."""
    init_from: str = "scratch"
    """Where the weights begin: 'scratch', a run, by path or by name below runs/, or a Hugging Face GPT-2 (directory or
    hub id, such as openai-community/gpt2, for short gpt2, or ID@REVISION; a run keeps the commit)."""
    init_sha256: str | None = None
    """SHA-256 of the weights of `init_from`, which a run keeps; where it is given, other weights are refused."""
    steps: int = bounded(1000, ge=1)
    """Optimizer steps; the learning-rate schedule spans them."""
    stop_at: int | None = bounded(None, ge=1)
    """Stop after this step, saved; a resumed run then goes on with the same schedule."""
    batch_tokens: int = bounded(8192, ge=1)
    """Tokens that one step learns from; a multiple of `model.context_length`."""
    micro_batch_size: int | Literal["auto"] = bounded("auto", ge=1, note="or auto")
    """Sequences in one forward and backward pass of a process; gradients accumulate until `batch_tokens` are read.
    auto takes what fits into memory, on CUDA 65,536 tokens at most. Where memory runs out all the same, it is halved,
    and the step done again."""
    windows: Literal["stream", "packed"] = "stream"
    """Where sequences are cut. stream: wherever one is full; packed: at documents, of which only those longer than a
    sequence are cut, and what remains of them is put together so that it fits best (Ding et al. 2024)."""
    document_mask: bool = False
    """Keep attention, positions and n-grams inside documents: each is computed as if it were alone."""
    seed: int = bounded(1337, ge=0, le=2**63 - 1)
    """Seed of initialization, data order and dropout."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA if torch has kernels for that GPU, else MPS, else the CPU."""
    dtype: ComputeDtype = "auto"
    """Arithmetic of the forward and backward passes; weights are float32. auto: bfloat16 on CUDA devices that have
    it, float16 with loss scaling on others, float32 elsewhere."""
    float32_matmul_precision: MatmulPrecision = "highest"
    """What layers multiply in training in float32, forward and backward. highest: float32. medium: the same rounded to
    bfloat16, and added up in float32, faster on a CPU with AMX, refused on others. Attention and evaluations never
    round."""
    parallel: Parallel = "ddp"
    """How several processes (torchrun) share the model: each has all of it (ddp), a part (fsdp), or the processes of
    a node have it together (hsdp)."""
    exact: Exact = "auto"
    """Resume bit for bit, as if never stopped, on the same machine. auto: on for the CPU, where it costs nothing but
    that a resumed run keeps its number of threads, and off on CUDA, where it costs speed and off sets nothing."""
    timeout: int = bounded(300, ge=1)
    """Seconds that processes wait for each other within a step before they give up."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto compiles on CUDA only."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Weights & Biases logging. What is recorded offline is uploaded by the command that is printed at the end."""
    wandb_group: str | None = None
    """Group of the run there; by default its data and preset, so that seeds and variants of one stand together."""
    wandb_checkpoint: bool = False
    """Log the best checkpoint there as an artifact, once the training is finished."""
    log_every: int = bounded(10, ge=1)
    """Steps between lines of metrics.jsonl."""
    early_stopping_patience: int | None = bounded(None, ge=1)
    """End after this many evaluations in a row without a new best validation loss; by default never."""
    cooldown: float = bounded(0.0, ge=0, le=1)
    """Where `early_stopping_patience` ends it: go back to the best weights, let the rate fall to 0 in this share of
    their steps, and keep what is better. 0 ends it at once."""
    recompute: Recompute = "none"
    """What the backward pass computes again instead of finding it in memory: the MLPs' activations (a quarter of all
    that is kept, for next to no arithmetic), or whole blocks (all but their inputs, for a third more arithmetic). With
    adapters on mlp.fc_out, activations always are."""
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        check_limits(self)
        if isinstance(self.data, tuple):
            weighted_paths(self.data)  # which raises
        if self.wandb == "disabled" and (self.wandb_checkpoint or self.wandb_group):
            raise InputError(
                "`wandb_group` and `wandb_checkpoint` are of Weights & Biases: give `wandb` as well, or neither"
            )
        if self.lora != LoRAConfig():
            self._require_adaptable()
        if self.float32_matmul_precision != "highest":
            self._require_float32()
        if self.early_stopping_patience is not None and self.evaluation.every == 0:
            raise InputError(
                "`early_stopping_patience` needs evaluations to count: give `evaluation.every`, or leave it out (None)"
            )
        if self.batch_tokens % self.model.context_length:
            nearest = nearest_multiple(self.batch_tokens, self.model.context_length)
            raise InputError(
                f"`batch_tokens` is {self.batch_tokens:,}, which is not a multiple of `model.context_length` "
                f"({self.model.context_length:,}): use `batch_tokens` {nearest}"
            )

    def _require_float32(self) -> None:
        """Raise InputError where no float32 would be rounded, or too much of it."""
        asked = f"`float32_matmul_precision` {self.float32_matmul_precision}"
        if self.dtype not in ("auto", "float32"):
            raise InputError(f"{asked}: is for `dtype` float32, and that is {self.dtype}: give one of the two")
        if self.compile == "on":
            raise InputError(
                f"{asked}: would round attention, too, where it is compiled, which makes that several times slower: "
                "leave out `compile` on, or this"
            )

    def _require_adaptable(self) -> None:
        """Raise InputError where adapters have nothing to be put on, or an optimizer that is not for them."""
        if not self.lora.rank:
            raise InputError("`lora.rank` is 0, so that no other setting of lora has a meaning: give it, such as 16")
        if self.lora.rank > self.model.n_embd:
            raise InputError(
                f"`lora.rank` {self.lora.rank:,}: is above `model.n_embd` {self.model.n_embd:,}, the smaller side of "
                "every matrix, so that an adapter would be more than what it is beside; 16 is a usual rank"
            )
        if self.init_from == "scratch":
            raise InputError(
                f"`lora.rank` {self.lora.rank}: adapters are for trained weights: name a run or a model by `init_from`"
            )
        if self.optimizer.name == "muon":
            raise InputError(
                "`optimizer.name` muon: is not for adapters, as it makes each matrix orthogonal by itself, and of an "
                "adapter only the product of two is a weight: use `optimizer.name` adamw with `lora.rank`"
            )

    @property
    def datasets(self) -> dict[Path, Fraction]:
        """Directories of datasets and their weights, as given; that of one alone is 1."""
        return weighted_paths(self.data) if isinstance(self.data, tuple) else {self.data: Fraction(1)}

    @property
    def batch_sequences(self) -> int:
        """Sequences of model.context_length tokens in one optimizer step."""
        return self.batch_tokens // self.model.context_length


def nearest_multiple(number: int, of: int) -> int:
    """Return the positive multiple of `of` that is nearest to `number`."""
    return max(1, round(number / of)) * of


def weighted_paths(entries: tuple[str, ...]) -> dict[Path, Fraction]:
    """Read the entries PATH=WEIGHT of a mixture. Raises InputError, which quotes it, for one that is none."""
    if len(entries) < 2:
        raise InputError(f"`data` holds {list(entries)}: name one dataset as a path without a list, or several")
    found: dict[Path, Fraction] = {}
    for entry in entries:
        name, equals, weight = entry.rpartition("=")
        if not equals or not name:
            name = entry.strip("=")
            raise InputError(
                f"`data` {entry}: has no weight beside others; write {name}=0.5, or another (a preset is named first)"
            )
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise InputError(
                f"`data` {entry}: its weight is {weight!r}; it must be a number above 0 (or leave the dataset out)"
            )
        if Path(name) in found:
            raise InputError(f"`data`: {name} is named twice; name it once, with the sum of the weights")
        found[Path(name)] = Fraction(weight.strip())
    return found
