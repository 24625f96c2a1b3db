"""GPT-2 (Radford et al. 2019) and its modern variants: token ids to logits, or to a loss.

It knows nothing of text, files, devices or optimizers.

Letters in shapes: B sequences, T positions, C width, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from gpt.choices import Activation, Recompute
from gpt.errors import InputError
from gpt.model.attention import CausalSelfAttention
from gpt.model.cache import Cache
from gpt.model.config import ModelConfig
from gpt.model.loss import next_token_loss, next_token_losses, softcap
from gpt.model.ngrams import NO_TOKEN, NGramEmbedding
from gpt.model.positions import CosSin, rotary_cos_sin
from gpt.model.recompute import ActivatedLinear, activate


class MLP(nn.Module):
    """Two linear layers, four times as wide between them, and an activation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc_in = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.activation: Activation = config.activation
        self.activate: Callable[[Tensor], Tensor] = partial(activate, kind=config.activation)
        self.fc_out = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.residual_dropout = nn.Dropout(config.dropout)
        self.recompute = False  # the activation, in the backward pass

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        x, contract = self.fc_in(x), self.fc_out
        if self.recompute and torch.is_grad_enabled():
            y = ActivatedLinear.apply(x, contract.weight, contract.bias, self.activation)
        else:
            y = contract(self.activate(x))
        return self.residual_dropout(y)


def norm(config: ModelConfig) -> nn.Module:
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019) over the width."""
    if config.normalization == "rms":
        return nn.RMSNorm(config.n_embd, eps=config.layer_norm_epsilon)
    return nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon, bias=config.bias)


class Block(nn.Module):
    """One layer: attention, then the MLP, each on the normalised stream and added to it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = norm(config)
        self.attention = CausalSelfAttention(config, layer)
        self.mlp_norm = norm(config)
        self.mlp = MLP(config)
        self.recompute = False  # in the backward pass, instead of keeping what lies between input and output

    def forward(self, x: Tensor, cos_sin: CosSin | None = None, cache: Cache | None = None) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self.add_branches, x, cos_sin, cache, use_reentrant=False)
        return self.add_branches(x, cos_sin, cache)

    def add_branches(self, x: Tensor, cos_sin: CosSin | None, cache: Cache | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos_sin, cache)
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """The decoder-only transformer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = (
            nn.Embedding(config.context_length, config.n_embd) if config.positions == "learned" else None
        )
        self.ngram_embedding = NGramEmbedding(config) if config.ngram > 1 else None
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm = norm(config)
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """GPT-2's initialisation: weights normal with deviation 0.02, biases zero, norms one.

        The two projections of each block that write to the residual stream are scaled by 1/√(2·n_layer), or zero.
        """
        zero = self.config.zero_init_residual
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        for module in self.modules():
            if isinstance(module, Block):
                for projection in (module.attention.out_proj, module.mlp.fc_out):
                    projection.weight.normal_(std=0.0 if zero else 0.02 / math.sqrt(2 * self.config.n_layer))
        if zero and self.lm_head is not None:
            self.lm_head.weight.zero_()
        if self.ngram_embedding is not None:
            self.ngram_embedding.table.weight.zero_()

    def hidden_states(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """The final hidden states of token ids (B, T) → (B, T, C).

        With a cache, `ids` come after the positions it holds, and are added to it.
        Raises InputError if the positions go beyond the context.
        """
        B, T = ids.shape
        if cache is not None:
            positions = cache.positions(T)  # (B, T)
        elif self.config.context_length >= T:
            positions = torch.arange(T, device=ids.device)  # (T,), alike for all
        else:
            raise InputError(f"{T} positions do not fit into the model's context of {self.config.context_length}")
        x, cos_sin = self.token_embedding(ids), None  # (B, T, C)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        else:
            cos_sin = rotary_cos_sin(positions, self.config.head_dim)
        if self.ngram_embedding is not None:
            reach = self.config.ngram - 1
            before = ids.new_full((B, reach), NO_TOKEN) if cache is None else cache.ids_before(reach)
            x = x + self.ngram_embedding(ids, before)
        x = self.embedding_dropout(x)
        for block in self.blocks:
            x = block(x, cos_sin, cache)
        if cache is not None:
            cache.advance(ids)
        return self.final_norm(x)

    @property
    def head_weight(self) -> Tensor:
        """(V, C): GPT-2 scores tokens with the matrix that embeds them."""
        return self.token_embedding.weight if self.lm_head is None else self.lm_head.weight

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of the next token: (..., C) → (..., V)."""
        lm_head = self.lm_head
        logits = F.linear(hidden, self.token_embedding.weight) if lm_head is None else lm_head(hidden)
        return softcap(logits, self.config.logit_softcap)

    def forward(
        self,
        ids: Tensor,
        cache: Cache | None = None,
        targets: Tensor | None = None,
        reduction: Literal["sum", "none"] = "sum",
        last: bool = False,
    ) -> Tensor:
        """Logits of the next token at every position, (B, T) → (B, T, V), or at the last alone, (B, T) → (B, V).

        With targets (B, T), their cross-entropy in nats instead, for which the logits of all positions are never held:
        the sum, (), or without a gradient each one's, (B, T), zero where a target is IGNORE_INDEX.
        """
        hidden = self.hidden_states(ids, cache)
        if targets is None:
            return self.head(hidden[:, -1] if last else hidden)
        if reduction == "none":
            return next_token_losses(hidden, self.head, targets, self.config.vocab_size)
        return next_token_loss(hidden, self.head_weight, targets, self.config.logit_softcap)

    @property
    def device(self) -> torch.device:
        return next(self.final_norm.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return next(self.final_norm.parameters()).dtype

    def set_recompute(self, what: Recompute) -> None:
        """Compute this again in the backward pass instead of keeping it (Chen et al. 2016)."""
        for module in self.modules():
            if isinstance(module, Block):
                module.recompute = what == "blocks"
                module.mlp.recompute = what == "activations"

    def muon_parameters(self) -> Iterator[tuple[Tensor, list[int]]]:
        """The weights of the blocks' linear layers, each with the rows of the matrices in it, one below the other."""
        for module in self.modules():
            if isinstance(module, CausalSelfAttention):
                yield module.qkv.weight, module.widths
                yield module.out_proj.weight, [module.out_proj.out_features]
            elif isinstance(module, MLP):
                yield module.fc_in.weight, [module.fc_in.out_features]
                yield module.fc_out.weight, [module.fc_out.out_features]

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def empty_model(config: ModelConfig) -> GPT:
    """Build a model without memory for its weights (device meta): to count them, or to be given others at once."""
    with torch.device("meta"), _Unfilled():
        return GPT(config)


class _Unfilled(TorchFunctionMode):
    """Leave out the random numbers that modules begin with: for meta tensors, torch would load a second of imports."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, unless it fills a tensor at random: one of tensors, or of torch.nn.init."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
