"""Embeddings of tokens that are added to values, so that what others see of a position tells its token in any layer.

They are modded-nanogpt's (2024); in the last layer and every second one before it they stand as in nanochat, but
without its gates. They cost lookups and hardly any arithmetic, but memory: each of those layers has a table of
`vocab_size` × `kv_dim` numbers, in all 232 million beside GPT-2 small's 124.

Letters in shapes: B sequences, T positions, K heads of keys and values, D head width.
"""

from torch import Tensor, nn

from gpt.model.config import ModelConfig


class ValueEmbedding(nn.Module):
    """The tables of all layers, side by side; zero at initialization."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_layer, self.width, self.layers = config.n_layer, config.kv_dim, config.value_layers
        self.table = nn.Embedding(config.vocab_size, config.value_embedding_dim)

    def forward(self, ids: Tensor) -> list[tuple[Tensor, ...]]:
        """Embed (B, T) ids: for each layer what is added to its values, (B, T, K·D), if anything is."""
        parts = iter(self.table(ids).split(self.width, dim=-1))
        return [(next(parts),) if layer in self.layers else () for layer in range(self.n_layer)]
