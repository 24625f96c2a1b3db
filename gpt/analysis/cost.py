"""What a model costs: parameters, floating-point operations, memory. Pure functions of the config."""

from dataclasses import dataclass

from gpt.config import Config, ModelConfig

FLOAT32 = 4  # bytes


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
    """Bytes that training needs at its peak, by what holds them; an estimate."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def training_memory(config: Config, activation_bytes: int = FLOAT32) -> Memory:
    """Peak memory of a training step: float32 weights, gradients and AdamW's two moments, and the activations
    that one micro-batch keeps for the backward pass.

    A block keeps, per token, 34·C bytes at two bytes a value (Korthikanti et al. 2022, equation 1, without the
    attention matrix, which the fused kernel never stores): 17·C values. The logits are held three times: as
    computed, as log-probabilities and as their gradient.
    """
    model = config.model
    count = parameter_count(model) * FLOAT32
    tokens = min(config.micro_batch, config.batch_sequences) * model.context
    activations = tokens * model.width * (17 * model.n_layer + 4) * activation_bytes
    logits = 3 * tokens * model.vocab_size * FLOAT32
    return Memory(weights=count, gradients=count, optimizer=2 * count, activations=activations, logits=logits)


def cost_lines(config: Config) -> list[str]:
    """The costs of a config in words, a line each."""
    model, memory = config.model, training_memory(config)
    lines = [f"{name:28} {count:>15,}" for name, count in parameters(model).items()]
    lines.append(f"{'parameters':28} {parameter_count(model):>15,}")
    lines.append(f"{'training FLOPs per token':28} {flops_per_token(model):>15,}")
    for name in ("weights", "gradients", "optimizer", "activations", "logits", "total"):
        lines.append(f"{'memory, ' + name:28} {getattr(memory, name) / 1e6:>12,.0f} MB")
    sequences, micro = config.batch_sequences, min(config.micro_batch, config.batch_sequences)
    lines.append(f"{'batch':28} {sequences} sequences of {model.context} tokens, {micro} at a time")
    lines.append(f"{'steps':28} {config.steps:>15,}")
    lines.append(f"{'training tokens':28} {config.steps * config.batch_tokens:>15,}")
    return lines
