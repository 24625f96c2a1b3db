"""GPT-2 (Radford et al. 2019): token ids to logits. It knows nothing of text, files, devices or optimizers.

Letters in shapes: B sequences, T positions, C width, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt.config import ModelConfig
from gpt.errors import InputError
from gpt.model.attention import CausalSelfAttention, KVCache


class MLP(nn.Module):
    """Two linear layers, four times as wide between them, with the tanh form of GELU (Hendrycks and Gimpel 2016)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.width, 4 * config.width)
        self.contract = nn.Linear(4 * config.width, config.width)
        self.residual_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        return self.residual_dropout(self.contract(F.gelu(self.expand(x), approximate="tanh")))


class Block(nn.Module):
    """One layer: attention, then the MLP, each on the normalised stream and added to it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=config.layer_norm_epsilon)
        self.attention = CausalSelfAttention(config, layer)
        self.mlp_norm = nn.LayerNorm(config.width, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        x = x + self.attention(self.attention_norm(x), cache)
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """The decoder-only transformer; the matrix that embeds the tokens also scores them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm = nn.LayerNorm(config.width, eps=config.layer_norm_epsilon)
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """GPT-2's initialisation: weights normal with deviation 0.02, biases zero, norms one.

        The two projections of each block that write to the residual stream are scaled by 1/√(2·n_layer).
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(std=0.02)
            if isinstance(module, nn.Linear):
                module.bias.zero_()
        for module in self.modules():
            if isinstance(module, Block):
                for projection in (module.attention.projection, module.mlp.contract):
                    projection.weight.normal_(std=0.02 / math.sqrt(2 * self.config.n_layer))

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """The final hidden states of token ids (B, T) → (B, T, C).

        With a cache, `ids` come after the positions it holds, and are added to it.
        Raises InputError if the positions go beyond the context.
        """
        past = cache.length if cache is not None else 0
        T = ids.size(1)
        if past + T > self.config.context:
            raise InputError(f"{past + T} positions do not fit into the model's context of {self.config.context}")
        positions = torch.arange(past, past + T, device=ids.device)
        x = self.embedding_dropout(self.token_embedding(ids) + self.position_embedding(positions))  # (B, T, C)
        for block in self.blocks:
            x = block(x, cache)
        if cache is not None:
            cache.advance(T)
        return self.final_norm(x)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of the next token: (..., C) → (..., V)."""
        return F.linear(hidden, self.token_embedding.weight)

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits of the next token at every position: (B, T) → (B, T, V)."""
        return self.head(self.hidden(ids, cache))

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
