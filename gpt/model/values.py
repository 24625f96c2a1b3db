"""Embeddings of tokens that are added to values, so that what others see of a position tells its token in any layer.

In the last layer and every second one before it, each with a table of its own, as in modded-nanogpt (2024). It costs
lookups, and hardly any arithmetic.

Letters in shapes: B sequences, T positions, K heads of keys and values, D head width.
"""

from torch import Tensor, nn

from gpt.model.config import ModelConfig


class ValueEmbedding(nn.Module):
    """The tables of all layers, side by side; zero at initialization."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_layer, self.width, self.layers = config.n_layer, config.kv_dim, config.value_layers
        self.table = nn.Embedding(config.vocab_size, len(self.layers) * self.width)

    def forward(self, ids: Tensor) -> list[tuple[Tensor, ...]]:
        """Embed (B, T) ids: for each layer what is added to its values, (B, T, K·D), if anything is."""
        parts = iter(self.table(ids).split(self.width, dim=-1))
        return [(next(parts),) if layer in self.layers else () for layer in range(self.n_layer)]
