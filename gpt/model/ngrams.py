"""Embeddings of the last few tokens together, so that not even the first layer must work out what precedes a token.

Each run of 2 … n tokens is hashed to a row of a table of its own, as Huang et al. 2025 ("Over-Tokenized Transformer")
and Pagnoni et al. 2024 ("Byte Latent Transformer", section 3.2.1) do. It costs lookups, and hardly any arithmetic.

Letters in shapes: B sequences, T positions, C width, n the longest run.
"""

import torch
from torch import Tensor, nn

from gpt.model.config import ModelConfig

MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64  # 2^64 divided by the golden ratio, as a signed integer (Knuth 1998, 6.4)
NO_TOKEN = -1  # stands before a sequence's first token


class NGramEmbedding(nn.Module):
    """The sum of the embeddings of the 2 … n tokens that end at each position; zero at initialization."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.longest, self.rows = config.ngram, config.ngram_buckets
        self.table = nn.Embedding((self.longest - 1) * self.rows, config.n_embd)

    def forward(self, ids: Tensor, before: Tensor, at: Tensor | None = None) -> Tensor:
        """Embed (B, T) ids after the n − 1 ids before them, (B, n − 1), NO_TOKEN where there are none → (B, T, C).

        `at`, (B, T), tells where ids stand in their document; by default no other document is among them.
        """
        return self.table(self.indices(ids, before, at)).sum(dim=2)

    def indices(self, ids: Tensor, before: Tensor, at: Tensor | None = None) -> Tensor:
        """Find the rows of the table, (B, T, n − 1): the run of k + 2 tokens has its row in the k-th part."""
        T, longest = ids.size(1), self.longest
        stream = torch.cat([before, ids], dim=1) + 1  # (B, n − 1 + T)
        hashed, indices = stream[:, longest - 1 :], []
        for k in range(longest - 1):
            earlier = stream[:, longest - 2 - k :][:, :T]  # the token before the run so far
            if at is not None:
                earlier = earlier.where(at > k, NO_TOKEN + 1)  # not another document's
            hashed = hashed * MULTIPLIER + earlier
            indices.append((hashed ^ (hashed >> 31)).remainder(self.rows) + k * self.rows)
        return torch.stack(indices, dim=2)
