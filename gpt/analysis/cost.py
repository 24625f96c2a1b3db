"""What a model costs: parameters, floating-point operations, memory. Pure functions of the config."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache

from gpt.config import TrainConfig
from gpt.model.config import ModelConfig
from gpt.model.loss import chunk_rows
from gpt.model.transformer import GPT, empty_model

FLOAT32 = 4  # bytes
COMPONENTS = {
    "token_embedding": "token embedding",
    "position_embedding": "position embedding",
    "ngram_embedding": "n-gram embedding",
    "value_embedding": "value embedding",
    "lm_head": "head",
}
TABLES = {"n-gram embedding": "n-grams", "value embedding": "values"}  # whose rows are only looked up
SIDES = {"relu": 1}  # of an activation, that its backward pass keeps; others keep what goes in and what comes out
MOST_TOKENS = 65_536  # at a time on CUDA: more do not fill a GPU better, and the compiler unrolls the loss's chunks
LOST_ON_CPU = 0.12  # measured: glibc's allocator leaves 7 to 20 % between tensors that come and go


def parameters(model: ModelConfig) -> dict[str, int]:
    """Count parameters by component; GPT-2's head shares the token embedding."""
    counts: Counter[str] = Counter()
    for name, parameter in _built(model).named_parameters():
        path = name.split(".")
        component = path[2] if path[0] == "blocks" else path[0]  # of "blocks.3.mlp.fc_in.weight"
        counts["norms" if component.endswith("norm") else COMPONENTS.get(component, component)] += parameter.numel()
    if model.tie_embeddings:
        counts["token embedding (and head)"] = counts.pop("token embedding")
    return counts


@lru_cache(maxsize=4)
def _built(model: ModelConfig) -> GPT:
    return empty_model(model)


def parameter_count(model: ModelConfig) -> int:
    """Count all parameters."""
    return _built(model).parameter_count()


def weight_count(model: ModelConfig) -> int:
    """Count the parameters without tables of n-grams and values."""
    return sum(count for name, count in parameters(model).items() if name not in TABLES)


def adapter_layers(config: TrainConfig) -> list[tuple[int, int]]:
    """List the inputs and outputs of every layer that gets an adapter; none where all weights are trained.

    Raises InputError for targets that no block has.
    """
    if not config.lora.rank:
        return []
    from gpt.model.lora import target_layers

    found = target_layers(_built(config.model), config.lora.targets).values()
    return [(layer.in_features, layer.out_features) for layer in found]


def adapter_count(config: TrainConfig) -> int:
    """Count the parameters of adapters."""
    return sum(config.lora.rank * sum(sizes) for sizes in adapter_layers(config))


def flops_per_token(model: ModelConfig, adapters: int = 0) -> int:
    """Count the floating-point operations to train on one token: 6·N + 12·L·H·Q·T.

    Where only so many parameters of `adapters` are trained, the gradients of the N others are left out: 4·N.

    The PaLM paper's count (Chowdhery et al. 2022, appendix B): forward and backward passes, N without embeddings that
    are only looked up, attention over the whole context and not only its causal half, or over the window of layers
    that have one.
    """
    looked_up = ("position embedding", *TABLES, "token embedding")  # not the one that is the head as well
    multiplied = sum(count for name, count in parameters(model).items() if name not in looked_up)
    T = model.context_length
    seen = sum(min(T, model.window_of(layer) or T) for layer in range(model.n_layer))
    return (4 if adapters else 6) * multiplied + 6 * adapters + 12 * model.n_head * model.head_dim * seen


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
    """Logits, or a chunk of them, and what the head makes of them: their gradient, its own and the hidden states'."""
    update: int
    """What the optimizer needs while it steps."""
    lost: float
    """Fraction of the tensors' bytes that lies unused between them."""
    keeps_gradients: bool
    """Whether gradients are there before the backward pass: those of earlier micro-batches, or DDP's buckets."""

    @property
    def peak(self) -> int:
        """Find the most that is held: when the backward pass begins, or when the optimizer steps."""
        backward = (self.gradients if self.keeps_gradients else 0) + self.activations + self.logits
        tensors = self.weights + self.optimizer + max(backward, self.gradients + self.update)
        return self.program + round((1 + self.lost) * tensors)


def training_memory(
    config: TrainConfig,
    micro_batch_size: int,
    device: str = "cpu",
    value_bytes: int = FLOAT32,
    processes: int = 1,
    nodes: int = 1,
    program: int = 0,
) -> Memory:
    """Forecast the memory of a training step with `micro_batch_size` sequences at a time, in values of `value_bytes`.

    Weights, gradients, AdamW's two moments and Muon's one are float32; Muon's step holds its matrices four times more.
    Below float32, a copy of the weights is kept as well. With adapters, these alone have gradients and moments.
    """
    model = config.model
    C, L = model.n_embd, model.n_layer
    share = config.batch_sequences // processes
    tokens = min(micro_batch_size, share) * model.context_length
    count = parameter_count(model) * FLOAT32
    matrices = _matrix_count(model) * FLOAT32 if config.optimizer.name == "muon" else 0
    block = _block_activations(model, device, value_bytes)
    if config.recompute == "activations":
        block -= (SIDES.get(model.activation, 2) - 1) * model.inner_dim * value_bytes
    kept = block + FLOAT32 * (L * C + model.value_embedding_dim) if config.recompute == "blocks" else L * block
    weights = count + (weight_count(model) * value_bytes if value_bytes < FLOAT32 else 0)
    sharded = {"ddp": 1, "fsdp": processes, "hsdp": processes // nodes}[config.parallel]
    accumulates = micro_batch_size < share
    memory = Memory(
        program=program,
        weights=weights if sharded == 1 else count // sharded + weights // L + _tables(model),
        gradients=count // sharded if not accumulates else count,
        optimizer=(2 * count - matrices) // sharded,
        activations=tokens * (kept + _outside_activations(model, device, value_bytes) + _mask(config, value_bytes)),
        logits=_head_memory(model, tokens, device),
        update=4 * matrices,
        lost=LOST_ON_CPU if device == "cpu" else 0.0,
        keeps_gradients=accumulates or (processes > 1 and sharded == 1),
    )
    return _of_adapters(config, memory, tokens, value_bytes, sharded, device) if config.lora.rank else memory


def _matrix_count(model: ModelConfig) -> int:
    """Count the parameters in the matrices of the blocks."""
    return sum(weight.numel() for weight, _ in _built(model).muon_parameters())


def _block_activations(model: ModelConfig, device: str, value_bytes: int) -> int:
    """Count the bytes per token that a block keeps for the backward pass.

    The inputs of its two norms (float32, C each) and, as computed, the normalized inputs (C each), query, key and
    value (3·C), attention's result (C) and the two sides of the activation (F each): counted after Korthikanti et
    al. 2022, section 4.1, for a kernel that never stores the attention matrix. RMSNorm keeps its quotient as well (C,
    float32). Queries and keys that are normed or rotated are copies, in another order that has attention's result
    copied as well; their norm is computed in float32. Shared keys and values are repeated. Dropout adds its masks, and
    on a CPU the attention matrix three times, for which no other kernel exists there.
    """
    C, F, KV, T = model.n_embd, model.inner_dim, model.kv_dim, model.context_length
    values = 2 * C + (C + 2 * KV) + C + SIDES.get(model.activation, 2) * F
    if model.qk_norm or model.positions == "rope":
        values += C + KV + C
    if KV < C:
        values += 2 * C
    block = 2 * C * FLOAT32 + values * value_bytes + (model.n_head + 4) * FLOAT32
    if model.qk_norm and value_bytes < FLOAT32:
        block += (C + KV) * FLOAT32
    if model.normalization == "rms":
        block += 2 * C * FLOAT32
    if model.dropout:
        mask = 1 if device == "cuda" else FLOAT32
        block += 2 * C * mask + (0 if device == "cuda" else 3 * model.n_head * T * FLOAT32)
    return block


def _tables(model: ModelConfig) -> int:
    """Count the bytes of the tables of tokens and their values, which fsdp holds as a whole through a pass."""
    return FLOAT32 * model.vocab_size * (model.n_embd + model.value_embedding_dim)


def _sums(model: ModelConfig, value_bytes: int) -> int:
    """Count the bytes per token that layers keep more where something is added to values: the sum, unless repeats of it
    are kept; less the products, which nothing holds then where queries and keys are copies, and no norm keeps them."""
    C, KV, normed = model.n_embd, model.kv_dim, model.qk_norm and value_bytes == FLOAT32
    freed = C + 2 * KV if (model.positions == "rope" or model.qk_norm) and not normed else 0
    return len(model.value_layers) * (KV * (KV == C) - freed) * value_bytes


def _of_adapters(
    config: TrainConfig, memory: Memory, tokens: int, value_bytes: int, sharded: int, device: str
) -> Memory:
    """Change a forecast to that of a model which is frozen and has adapters: they alone have gradients and moments.

    Frozen layers keep nothing of what goes into them: not the normalized inputs, nor the activation's result. Adapters
    do, but for the activation's result, which is computed again; attention's result is kept a second time where some of
    it is dropped. The head has no gradient.
    """
    C, model, lora, layers = config.model.n_embd, config.model, config.lora, adapter_layers(config)
    own = adapter_count(config) * FLOAT32
    held = 0 if lora.base_dtype == "float32" else sum(i * o for i, o in layers)
    held *= 2 + (value_bytes if value_bytes < FLOAT32 else 0)  # no copy is made of what is short enough
    inputs = sum(i for i, _ in layers) - ("mlp.fc_out" in lora.targets) * model.n_layer * model.inner_dim
    if not lora.dropout and "attention.out_proj" in lora.targets:
        inputs -= model.n_layer * C
    kept = (inputs + len(layers) * lora.rank) * value_bytes
    results = 0 if config.recompute == "activations" else (SIDES.get(model.activation, 2) - 1) * model.inner_dim
    kept -= model.n_layer * (2 * C + results) * value_bytes
    if config.recompute == "blocks":
        kept //= model.n_layer
    chunked = tokens > chunk_rows(model.vocab_size, device)
    return replace(
        memory,
        weights=memory.weights + (own - held) // sharded,
        gradients=own,
        optimizer=2 * own // sharded,
        activations=memory.activations + tokens * kept,
        logits=memory.logits - chunked * 2 * FLOAT32 * model.vocab_size * C,
    )


def _outside_activations(model: ModelConfig, device: str, value_bytes: int) -> int:
    """Count the bytes per token kept outside the blocks: the last norm's input and output, the first dropout's mask,
    and values to which something is added."""
    C = model.n_embd
    mask = 0 if not model.dropout else C if device == "cuda" else C * FLOAT32
    quotient = C * FLOAT32 if model.normalization == "rms" else 0
    return C * (FLOAT32 + value_bytes) + mask + quotient + (_sums(model, value_bytes) if model.value_embeddings else 0)


def _mask(config: TrainConfig, value_bytes: int) -> int:
    """Count the bytes per token of the masks that keep attention inside documents: one for each width of window."""
    model = config.model
    windows = {model.window_of(layer) for layer in range(model.n_layer)}
    return config.document_mask * len(windows) * model.context_length * value_bytes


def _head_memory(model: ModelConfig, tokens: int, device: str) -> int:
    """Count the bytes of the head's pass.

    Where the logits are held as a whole: three times, in float32, as log-probabilities and as two gradients. Else: two
    chunks of them, and twice the gradients of the head and of the hidden states.
    """
    rows = chunk_rows(model.vocab_size, device)
    if tokens <= rows:
        return (4 if model.logit_softcap else 3) * tokens * model.vocab_size * FLOAT32
    return 2 * FLOAT32 * (rows * model.vocab_size + (tokens + model.vocab_size) * model.n_embd)


def fitting_micro_batch(
    config: TrainConfig,
    budget: int,
    device: str = "cpu",
    value_bytes: int = FLOAT32,
    processes: int = 1,
    nodes: int = 1,
) -> int:
    """Find how many sequences `budget` bytes hold at a time: a process's share of the batch, halved until it fits.

    On CUDA no more than MOST_TOKENS.
    """
    size = config.batch_sequences // processes
    most = max(1, MOST_TOKENS // config.model.context_length) if device == "cuda" else size
    while size > most or (
        size > 1 and training_memory(config, size, device, value_bytes, processes, nodes).peak > budget
    ):
        size = -(-size // 2)
    return size


def cost_lines(config: TrainConfig) -> list[str]:
    """Format parameters, floating-point operations and tokens of a config, a line each."""
    model = config.model
    lines = [f"{name:28} {count:>15,}" for name, count in parameters(model).items()]
    lines.append(f"{'parameters':28} {parameter_count(model):>15,}")
    adapters = adapter_count(config)
    if adapters:
        lines.append(f"{'adapters, which are trained':28} {adapters:>15,}")
    lines.append(f"{'training FLOPs per token':28} {flops_per_token(model, adapters):>15,}")
    lines.append(f"{'steps':28} {config.steps:>15,}")
    lines.append(f"{'training tokens':28} {config.steps * config.batch_tokens:>15,}")
    return lines


def memory_lines(memory: Memory) -> list[str]:
    """Format the parts of a memory forecast, a line each."""
    parts = ("program", "weights", "gradients", "optimizer", "activations", "logits", "update")
    lines = [f"{'memory, ' + name:28} {getattr(memory, name) / 1e6:>12,.0f} MB" for name in parts]
    return [*lines, f"{'memory, peak':28} {memory.peak / 1e6:>12,.0f} MB"]
