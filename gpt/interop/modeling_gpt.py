"""A model trained with the package `gpt`, for transformers: its code, which lies beside its weights.

    AutoModelForCausalLM.from_pretrained(PATH, trust_remote_code=True)

It computes what config.json says, and needs only torch and transformers. Batches may be padded on the left. A cache,
as `generate` makes it, is a DynamicCache: keys and values of all positions.

Letters in shapes: B sequences, T new positions, S positions in all, C width, H heads, K heads of keys and values,
D head width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

BASE = 10_000.0  # of rotary positions
MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64  # 2^64 divided by the golden ratio, as a signed integer
ACTIVATIONS = {
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "gelu-erf": F.gelu,
    "relu": F.relu,
    "relu-squared": lambda x: F.relu(x).square(),
}
# What transformers calls a cache: past_key_values, and since one of its versions 5 cache.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class GPTConfig(PretrainedConfig):
    """The shape of a model. The default is GPT-2 small."""

    model_type = "gpt"
    attribute_map = {  # noqa: RUF012
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "context_length",
    }

    def __init__(
        self,
        vocab_size: int = 50257,
        context_length: int = 1024,
        n_layer: int = 12,
        n_head: int = 12,
        n_kv_head: int | None = None,
        n_embd: int = 768,
        n_inner: int | None = None,
        positions: str = "learned",
        normalization: str = "layer",
        layer_norm_epsilon: float = 1e-5,
        activation: str = "gelu",
        bias: bool = True,
        dropout: float = 0.0,
        qk_norm: bool = False,
        scale_by_inverse_layer: bool = False,
        windows: list[int | None] | None = None,
        logit_softcap: float = 0.0,
        ngram: int = 1,
        ngram_buckets: int = 4096,
        value_embeddings: bool = False,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.context_length = vocab_size, context_length
        self.n_layer, self.n_head, self.n_kv_head, self.n_embd = n_layer, n_head, n_kv_head or n_head, n_embd
        self.n_inner, self.scale_by_inverse_layer = n_inner or 4 * n_embd, scale_by_inverse_layer
        self.positions, self.normalization, self.layer_norm_epsilon = positions, normalization, layer_norm_epsilon
        self.activation, self.bias, self.dropout, self.qk_norm = activation, bias, dropout, qk_norm
        self.windows = windows or [None] * n_layer  # positions that each layer's see, their own included; None: all
        self.logit_softcap, self.ngram, self.ngram_buckets = logit_softcap, ngram, ngram_buckets
        self.value_embeddings = value_embeddings  # in the last layer and every second one before it
        kwargs["tie_word_embeddings"] = tie_word_embeddings
        super().__init__(**kwargs)


def norm(config: GPTConfig) -> nn.Module:
    """Build LayerNorm, or RMSNorm, which never has a bias."""
    if config.normalization == "rms":
        return nn.RMSNorm(config.n_embd, eps=config.layer_norm_epsilon)
    return nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon, bias=config.bias)


class Attention(nn.Module):
    """Causal self-attention, of which several query heads may share a head of keys and values."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer, self.head_dim = config, layer, config.n_embd // config.n_head
        self.heads = [config.n_head, config.n_kv_head, config.n_kv_head]
        self.scale = self.head_dim**-0.5 / (layer + 1 if config.scale_by_inverse_layer else 1)
        self.qkv = nn.Linear(config.n_embd, sum(self.heads) * self.head_dim, bias=config.bias)
        self.out_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor, at: Tensor, seen: Tensor, cache: Any, more: Tensor | None) -> Tensor:
        """Map (B, T, C) → (B, T, C), at positions (B, T) that see (B, 1, T, S); `more`, (B, T, K·D), goes to values."""
        B, T, C = x.shape
        heads = self.qkv(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, H + 2·K, T, D)
        query, key, value = heads.split(self.heads, dim=1)  # (B, H, T, D), and (B, K, T, D) twice
        if more is not None:
            value = value + more.view(B, T, -1, self.head_dim).transpose(1, 2)
        if self.config.qk_norm:
            query, key = (
                F.rms_norm(part, (self.head_dim,), eps=self.config.layer_norm_epsilon) for part in (query, key)
            )
        if self.config.positions == "rope":
            query, key = rotated(query, at), rotated(key, at)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)  # (B, K, S, D)
        group = self.config.n_head // self.config.n_kv_head
        key, value = (part.repeat_interleave(group, dim=1) for part in (key, value))  # (B, H, S, D)
        dropout = self.config.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, seen, dropout, scale=self.scale)  # (B, H, T, D)
        return self.out_proj(y.transpose(1, 2).reshape(B, T, C))


def rotated(x: Tensor, at: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) of (B, H, T, D) by its position's angles, p·BASE^(−2i/D)."""
    D = x.size(-1)
    frequencies = BASE ** (-torch.arange(0, D, 2, device=x.device) / D)  # (D/2,)
    angles = (at.float().unsqueeze(-1) * frequencies).unsqueeze(1)  # (B, 1, T, D/2)
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


class MLP(nn.Module):
    """Two linear layers, and an activation between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.fc_in = nn.Linear(config.n_embd, config.n_inner, bias=config.bias)
        self.activate = ACTIVATIONS[config.activation]
        self.fc_out = nn.Linear(config.n_inner, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) → (B, T, C)."""
        return self.fc_out(self.activate(self.fc_in(x)))


class Block(nn.Module):
    """Attention, then the MLP, each on the normalized stream and added to it."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.window = config.windows[layer]
        self.attention_norm, self.attention = norm(config), Attention(config, layer)
        self.mlp_norm, self.mlp = norm(config), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, at: Tensor, seen: Tensor, distance: Tensor, cache: Any, more: Tensor | None) -> Tensor:
        """Map (B, T, C) → (B, T, C); a layer with a window sees only what is less than it away."""
        seen = seen if self.window is None else seen & (distance < self.window)
        x = x + self.dropout(self.attention(self.attention_norm(x), at, seen, cache, more))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class NGramEmbedding(nn.Module):
    """The sum of the embeddings of the 2 … n tokens that end at each position, which are hashed to rows of tables."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.longest, self.rows = config.ngram, config.ngram_buckets
        self.table = nn.Embedding((self.longest - 1) * self.rows, config.n_embd)

    def forward(self, numbers: Tensor, T: int) -> Tensor:
        """Embed the last T of (B, S) ids plus one, 0 where there is none → (B, T, C)."""
        padded = F.pad(numbers, (self.longest - 1 + T, 0))
        newest = padded.size(1) - T
        hashed, rows = padded[:, newest:], []
        for k in range(self.longest - 1):
            hashed = hashed * MULTIPLIER + padded[:, newest - 1 - k :][:, :T]
            rows.append((hashed ^ (hashed >> 31)).remainder(self.rows) + k * self.rows)
        return self.table(torch.stack(rows, dim=2)).sum(dim=2)


class ValueEmbedding(nn.Module):
    """Embeddings of tokens that are added to the values of the last layer and every second one before it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_layer, self.width = config.n_layer, config.n_embd // config.n_head * config.n_kv_head
        self.layers = range((config.n_layer - 1) % 2, config.n_layer, 2)
        self.table = nn.Embedding(config.vocab_size, len(self.layers) * self.width)

    def forward(self, ids: Tensor) -> list[Tensor | None]:
        """Embed (B, T) ids: for each layer what is added to its values, (B, T, K·D), or None."""
        parts = iter(self.table(ids).split(self.width, dim=-1))
        return [next(parts) if layer in self.layers else None for layer in range(self.n_layer)]


class GPTForCausalLM(PreTrainedModel, GenerationMixin):
    """The decoder-only transformer, with its head."""

    config_class = GPTConfig
    _supports_sdpa = True

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        learned = config.positions == "learned"
        self.position_embedding = nn.Embedding(config.context_length, config.n_embd) if learned else None
        self.ngram_embedding = NGramEmbedding(config) if config.ngram > 1 else None
        self.value_embedding = ValueEmbedding(config) if config.value_embeddings else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm = norm(config)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Give what embeds tokens, and scores them if the head is tied to it."""
        return self.token_embedding

    def set_input_embeddings(self, value: Any) -> None:
        """Put another embedding in its place, as one of more tokens."""
        self.token_embedding = value
        if self.value_embedding is not None and len(value.weight) != len(old := self.value_embedding.table.weight):
            new = old.detach().mean(0, keepdim=True).expand(max(0, len(value.weight) - len(old)), -1)
            rows = torch.cat([old.detach()[: len(value.weight)], new])
            self.value_embedding.table = nn.Embedding.from_pretrained(rows, freeze=not old.requires_grad)

    def get_output_embeddings(self) -> nn.Module | None:
        """Give the head, if it has weights of its own."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Put another head in its place."""
        self.lm_head = new_embeddings

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Hand on all ids as well, of which a cache leaves only the new ones: n-grams reach back."""
        return super().prepare_inputs_for_generation(input_ids, *args, **kwargs) | {"all_ids": input_ids}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        all_ids: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Compute logits of the next token, (B, T) → (B, T, V).

        With a cache, `input_ids` come after the positions it holds; `all_ids` (B, S) are those and the new ones.
        `attention_mask` (B, S) is 0 where a sequence is padded, on the left.
        """
        cache = past_key_values if cache is None else cache
        x, at, seen, distance = self.embed(input_ids, attention_mask, all_ids, cache)
        values = [None] * len(self.blocks) if self.value_embedding is None else self.value_embedding(input_ids)
        for block, more in zip(self.blocks, values, strict=True):
            x = block(x, at, seen, distance, cache, more)
        hidden = self.final_norm(x)[:, -logits_to_keep:]  # of 0, all
        head = self.token_embedding if self.lm_head is None else self.lm_head
        logits = F.linear(hidden, head.weight)
        if cap := self.config.logit_softcap:
            logits = cap * torch.tanh(logits / cap)
        loss = None
        if labels is not None:
            items = others.get("num_items_in_batch")  # of all micro-batches, as a Trainer counts them
            loss = self.loss_function(logits, labels, self.config.vocab_size, num_items_in_batch=items)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})

    def embed(
        self, input_ids: Tensor, attention_mask: Tensor | None, all_ids: Tensor | None, cache: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embed the new ids, (B, T, C); say where they stand, (B, T), and what they see and how far it is away."""
        past = 0 if cache is None else cache.get_seq_length()
        (B, T), S = input_ids.shape, past + input_ids.size(1)
        if self.config.context_length < S:
            raise ValueError(f"{S} positions do not fit into the model's context of {self.config.context_length}")
        all_ids = input_ids if all_ids is None else all_ids
        if self.ngram_embedding is not None and all_ids.size(1) < S:
            raise ValueError(
                "n-grams reach back: beside a cache, give the ids that it holds and the new ones as all_ids"
            )
        there = input_ids.new_ones(B, S) if attention_mask is None else attention_mask.long()  # (B, S)
        at = (there.cumsum(dim=1) - 1).clamp(min=0)[:, past:]  # (B, T)
        every = torch.arange(S, device=input_ids.device)
        distance = every[past:, None] - every  # (T, S)
        seen = (distance >= 0) & there.bool()[:, None, None]  # (B, 1, T, S)
        seen = seen | (distance == 0)  # what only pads must see something, or it is no number
        x = self.token_embedding(input_ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(at)
        if self.ngram_embedding is not None:
            x = x + self.ngram_embedding((all_ids + 1) * there, T)
        return self.dropout(x), at, seen, distance


GPTConfig.register_for_auto_class()  # so that save_pretrained writes this file beside the weights again
GPTForCausalLM.register_for_auto_class("AutoModelForCausalLM")
