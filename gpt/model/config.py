"""The shape of a model.

What is chosen by name is what the tables have, each in the file that owns the thing: to add a variant, enter it there.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gpt.errors import bounded, check_limits, require
from gpt.model.attention import MIXERS
from gpt.model.layers import ACTIVATIONS, NORMS
from gpt.model.positions import POSITIONS

LARGEST = 2**31 - 1
TABLES = {"positions": POSITIONS, "normalization": NORMS, "mixer": MIXERS, "activation": ACTIVATIONS}

if TYPE_CHECKING:
    Positions = Normalization = Mixer = Activation = str
else:
    Positions, Normalization, Mixer, Activation = (Literal[tuple(table)] for table in TABLES.values())


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the model. The default is GPT-2 small (Radford et al. 2019), 124,439,808 parameters.

    The settings after `layer_norm_epsilon` depart from GPT-2, each by itself.
    """

    n_layer: int = bounded(12, ge=1, le=LARGEST)
    """Number of transformer blocks."""
    n_head: int = bounded(12, ge=1, le=LARGEST)
    """Number of attention heads in a block; divides the width."""
    n_embd: int = bounded(768, ge=1, le=LARGEST)
    """Numbers per token between the blocks (GPT-2's n_embd)."""
    context_length: int = bounded(1024, ge=1, le=LARGEST)
    """Tokens the model sees at once (GPT-2's n_positions)."""
    vocab_size: int = bounded(50257, ge=1, le=LARGEST)
    """Number of token ids; training takes it from the dataset's tokenizer."""
    dropout: float = bounded(0.0, ge=0, lt=1)
    """Probability of dropping a value, in GPT-2's three places."""
    layer_norm_epsilon: float = bounded(1e-5, gt=0)
    """Added to the variance, or the mean square, in normalization."""
    positions: Positions = "learned"
    """How a position is told: learned, by a vector of its own; rope, by turning queries and keys (Su et al. 2021)."""
    normalization: Normalization = "layer"
    """layer: LayerNorm; rms: RMSNorm, without mean and bias (Zhang and Sennrich 2019)."""
    qk_norm: bool = False
    """Divide each head's queries and keys by their root mean square (Henry et al. 2020)."""
    scale_by_inverse_layer: bool = False
    """Divide the scores of the n-th layer by n as well (Karamcheti et al. 2021, "Mistral")."""
    mixer: Mixer = "attention"
    """How positions exchange information; attention: causal self-attention (Vaswani et al. 2017)."""
    activation: Activation = "gelu"
    """Between the MLP's two layers; gelu: GELU by tanh, gelu-erf: GELU as it is defined, by the error function; relu:
    max(0, x), relu-squared: max(0, x)² (So et al. 2021)."""
    n_inner: int | None = bounded(None, ge=1, le=LARGEST)
    """Numbers per token between the MLP's two layers; by default 4 × n_embd."""
    bias: bool = True
    """Biases in linear layers and in LayerNorm."""
    zero_init_residual: bool = False
    """Zero-initialize the two output projections of each block, and an untied head."""
    tie_embeddings: bool = True
    """Score the next token with the matrix that embeds tokens, or with one of its own."""
    logit_softcap: float = bounded(0.0, ge=0)
    """Squeeze logits to ±cap by cap·tanh(logits / cap) (Gemma 2, 2024); 0 leaves them as they are."""
    n_kv_head: int | None = bounded(None, ge=1)
    """Heads of keys and values, each shared by as many query heads (Ainslie et al. 2023); by default `model.n_head`."""
    sliding_window: int | None = bounded(None, ge=1)
    """Tokens, its own included, that a position sees in the layers marked S; by default all before it."""
    window_pattern: str = "S"
    """Which layers have the window: S those with it, L those without, repeated over the layers, as SSSL."""
    ngram: int = bounded(1, ge=1, le=LARGEST)
    """Add embeddings of the last 2 … n tokens together to a token's own (Huang et al. 2025); 1 adds none."""
    ngram_buckets: int = bounded(4096, ge=1, le=LARGEST)
    """Rows of the table of each length of n-grams, which are hashed to them."""
    value_embeddings: bool = False
    """Add an embedding of each token to its values, in the last layer and every second one before it (modded-nanogpt,
    2024): `vocab_size` rows more for each of them."""

    def __post_init__(self) -> None:
        check_limits(self, "model.")
        heads = f"`model.n_head` ({self.n_head})"
        require(self.n_embd % self.n_head == 0, "`model.n_embd`", self.n_embd, f"a multiple of {heads}")
        for name, table in TABLES.items():
            require(getattr(self, name) in table, f"`model.{name}`", repr(getattr(self, name)), " or ".join(table))
        POSITIONS[self.positions].check(self.n_embd, self.n_head)
        shared = self.n_kv_head
        require(shared is None or self.n_head % shared == 0, "`model.n_kv_head`", shared, f"a divisor of {heads}")
        marked = self.window_pattern != "" and set(self.window_pattern) <= {"S", "L"}
        require(marked, "`model.window_pattern`", repr(self.window_pattern), "letters S and L, such as SSSL")

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def inner_dim(self) -> int:
        """Count the numbers per token between the MLP's two layers."""
        return self.n_inner or 4 * self.n_embd

    @property
    def kv_dim(self) -> int:
        """Count the numbers in all of a position's keys, or values."""
        return (self.n_kv_head or self.n_head) * self.head_dim

    @property
    def value_layers(self) -> range:
        """Name the layers whose values have embeddings of their own."""
        return range((self.n_layer - 1) % 2, self.n_layer, 2) if self.value_embeddings else range(0)

    @property
    def value_embedding_dim(self) -> int:
        """Count the numbers in all embeddings of a token that are added to values."""
        return len(self.value_layers) * self.kv_dim

    def window_of(self, layer: int) -> int | None:
        """Give how many tokens a position of this layer sees; None means all before it."""
        marks = self.window_pattern
        return self.sliding_window if marks[layer % len(marks)] == "S" else None
