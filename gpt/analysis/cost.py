"""What a model costs: parameters, floating-point operations, memory. Pure functions of the config."""

from dataclasses import dataclass

from gpt.config import Config, ModelConfig

FLOAT32 = 4  # bytes
LOST_ON_CPU = 0.12  # measured: glibc's allocator leaves 7 to 20 % between tensors that come and go


def parameters(model: ModelConfig) -> dict[str, int]:
    """Number of parameters by component; the head shares the token embedding."""
    C, L = model.width, model.n_layer
    return {
        "token embedding (and head)": model.vocab_size * C,
        "position embedding": model.context * C,
        "attention": L * (C * 3 * C + 3 * C + C * C + C),
        "mlp": L * (C * 4 * C + 4 * C + 4 * C * C + C),
        "layer norms": L * 4 * C + 2 * C,
    }


def parameter_count(model: ModelConfig) -> int:
    return sum(parameters(model).values())


def flops_per_token(model: ModelConfig) -> int:
    """Floating-point operations to train on one token: 6·N + 12·L·H·Q·T.

    The PaLM paper's count (Chowdhery et al. 2022, appendix B): forward and backward passes, N without the
    position embedding, attention over the whole context and not only its causal half.
    """
    matrices = parameter_count(model) - parameters(model)["position embedding"]
    return 6 * matrices + 12 * model.n_layer * model.n_head * model.head_width * model.context


@dataclass(frozen=True)
class Memory:
    """Bytes that one process needs for training, by what holds them."""

    program: int
    """The interpreter and its libraries, where they share the memory with the tensors."""
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    lost: float
    """Fraction of the tensors' bytes that lies unused between them."""
    keeps_gradients: bool
    """Whether gradients are there before the backward pass: those of earlier micro-batches, or DDP's buckets."""

    @property
    def peak(self) -> int:
        """When the backward pass begins, or when the optimizer steps."""
        backward = (self.gradients if self.keeps_gradients else 0) + self.activations + self.logits
        tensors = self.weights + self.optimizer + max(backward, self.gradients)
        return self.program + round((1 + self.lost) * tensors)


def training_memory(
    config: Config,
    micro_batch: int,
    device: str = "cpu",
    value_bytes: int = FLOAT32,
    processes: int = 1,
    nodes: int = 1,
    program: int = 0,
) -> Memory:
    """Memory of a training step with `micro_batch` sequences at a time, computed in values of `value_bytes`.

    Weights, gradients and AdamW's two moments are float32. Per token, a block keeps for the backward pass the inputs
    of its two layer norms (float32, C each) and, as computed, the normalised inputs (C each), query, key and value
    (3·C), attention's result (C) and the two sides of GELU (4·C each): counted after Korthikanti et al. 2022,
    section 4.1, for a kernel that never stores the attention matrix. Dropout adds its masks, and on a CPU the
    attention matrix three times, for which no other kernel exists there. The logits are held three times in float32:
    as log-probabilities and as two gradients. Below float32, a copy of the weights is kept as well.
    """
    model = config.model
    C, L, T = model.width, model.n_layer, model.context
    share = config.batch_sequences // processes
    tokens = min(micro_batch, share) * T
    count = parameter_count(model) * FLOAT32
    block = 2 * C * FLOAT32 + 14 * C * value_bytes + (model.n_head + 4) * FLOAT32
    outside = C * FLOAT32 + C * value_bytes
    if model.dropout:
        mask = 1 if device == "cuda" else FLOAT32
        block += 2 * C * mask + (0 if device == "cuda" else 3 * model.n_head * T * FLOAT32)
        outside += C * mask
    weights = count + (parameter_count(model) * value_bytes if value_bytes < FLOAT32 else 0)
    sharded = {"ddp": 1, "fsdp": processes, "hsdp": processes // nodes}[config.parallel]
    accumulates = micro_batch < share
    return Memory(
        program=program,
        weights=weights if sharded == 1 else count // sharded + weights // L + FLOAT32 * model.vocab_size * C,
        gradients=count // sharded if not accumulates else count,
        optimizer=2 * count // sharded,
        activations=tokens * (L * block + outside),
        logits=3 * tokens * model.vocab_size * FLOAT32,
        lost=LOST_ON_CPU if device == "cpu" else 0.0,
        keeps_gradients=accumulates or (processes > 1 and sharded == 1),
    )


def fitting_micro_batch(
    config: Config,
    budget: int,
    device: str = "cpu",
    value_bytes: int = FLOAT32,
    processes: int = 1,
    nodes: int = 1,
) -> int:
    """The most sequences at a time that `budget` bytes hold: a process's share of the batch, halved until it fits."""
    micro_batch = config.batch_sequences // processes
    while micro_batch > 1 and training_memory(config, micro_batch, device, value_bytes, processes, nodes).peak > budget:
        micro_batch = -(-micro_batch // 2)
    return micro_batch


def cost_lines(config: Config) -> list[str]:
    """Parameters, floating-point operations and tokens of a config in words, a line each."""
    model = config.model
    lines = [f"{name:28} {count:>15,}" for name, count in parameters(model).items()]
    lines.append(f"{'parameters':28} {parameter_count(model):>15,}")
    lines.append(f"{'training FLOPs per token':28} {flops_per_token(model):>15,}")
    lines.append(f"{'steps':28} {config.steps:>15,}")
    lines.append(f"{'training tokens':28} {config.steps * config.batch_tokens:>15,}")
    return lines


def memory_lines(memory: Memory) -> list[str]:
    """The parts of a memory forecast in words, a line each."""
    parts = ("program", "weights", "gradients", "optimizer", "activations", "logits")
    lines = [f"{'memory, ' + name:28} {getattr(memory, name) / 1e6:>12,.0f} MB" for name in parts]
    return [*lines, f"{'memory, peak':28} {memory.peak / 1e6:>12,.0f} MB"]
