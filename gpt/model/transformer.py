"""GPT-2 (Radford et al. 2019) and its modern variants: token ids to logits, or to a loss.

It knows nothing of text, files, devices or optimizers.

Letters in shapes: B sequences, T positions, C width, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from gpt.choices import Recompute
from gpt.errors import InputError
from gpt.model.attention import MIXERS, Cache
from gpt.model.config import ModelConfig
from gpt.model.documents import DocumentMask, require_documents
from gpt.model.layers import MLP, NORMS
from gpt.model.loss import arithmetic_dtype, next_token_loss, next_token_losses, softcap
from gpt.model.ngrams import NO_TOKEN, NGramEmbedding
from gpt.model.positions import POSITIONS, PositionHooks
from gpt.model.values import ValueEmbedding


class Block(nn.Module):
    """One layer: a mixer of positions, then the MLP, each on the normalized stream and added to it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        norm = NORMS[config.normalization]
        self.attention_norm = norm(config.n_embd, config.layer_norm_epsilon, config.bias)
        self.attention = MIXERS[config.mixer](
            layer,
            config.n_embd,
            config.n_head,
            config.n_kv_head or config.n_head,
            bias=config.bias,
            dropout=config.dropout,
            qk_norm=config.qk_norm,
            eps=config.layer_norm_epsilon,
            sliding_window=config.window_of(layer),
            scale=1 / (layer + 1) if config.scale_by_inverse_layer else 1.0,
        )
        self.mlp_norm = norm(config.n_embd, config.layer_norm_epsilon, config.bias)
        self.mlp = MLP(config.n_embd, config.inner_dim, config.activation, config.bias, config.dropout)
        self.recompute = False  # in the backward pass, instead of keeping what lies between input and output

    def forward(
        self,
        x: Tensor,
        scheme: PositionHooks,
        where: Any,
        cache: Cache | None = None,
        *values: Tensor,
        checkpointed: bool = False,
    ) -> Tensor:
        """Map (B, T, C) → (B, T, C), at positions that `scheme` prepared as `where`.

        A mixer gets `values`, (B, T, K·D) to be added to its own, only where there are embeddings for it.
        """
        if self.recompute and not checkpointed and torch.is_grad_enabled():
            return checkpoint(self.forward, x, scheme, where, cache, *values, checkpointed=True, use_reentrant=False)
        x = x + self.attention(self.attention_norm(x), scheme, where, cache, *values)
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """The decoder-only transformer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = POSITIONS[config.positions](config.n_embd, config.n_head, config.context_length)
        self.ngram_embedding = NGramEmbedding(config) if config.ngram > 1 else None
        self.value_embedding = ValueEmbedding(config) if config.value_embeddings else None
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm = NORMS[config.normalization](config.n_embd, config.layer_norm_epsilon, config.bias)
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw GPT-2's first weights: normal with deviation 0.02; biases are zero, norms one.

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
        for embedding in filter(None, (self.ngram_embedding, self.value_embedding)):
            embedding.table.weight.zero_()

    def hidden_states(self, ids: Tensor, cache: Cache | None = None, documents: Tensor | None = None) -> Tensor:
        """Compute the final hidden states of token ids, (B, T) → (B, T, C).

        With a cache, `ids` come after the positions it holds, and are added to it. With `documents`, (B, T) int64, each
        run of equal numbers is a document, computed as if it were alone; there is no cache then.
        Raises InputError if the positions go beyond the context, or `documents` are not those of the ids.
        """
        B, T = ids.shape
        if cache is None and self.config.context_length < T:
            raise InputError(f"{T} positions do not fit into the model's context of {self.config.context_length}")
        at = None
        if documents is not None:
            assert cache is None, "what a cache holds is of one document"
            cache = self._document_mask(documents, ids)
            at = cache.at
        scheme: PositionHooks = self.position_embedding
        # Of positions (B, T), or (T,) if they are the same in all rows
        where = scheme.prepare(torch.arange(T, device=ids.device) if cache is None else cache.positions(T))
        x = scheme.on_embeddings(self.token_embedding(ids), where)  # (B, T, C)
        if self.ngram_embedding is not None:
            reach = self.config.ngram - 1
            before = ids.new_full((B, reach), NO_TOKEN) if cache is None else cache.ids_before(reach)
            x = x + self.ngram_embedding(ids, before, at)
        x = self.embedding_dropout(x)
        embedded = [()] * len(self.blocks) if self.value_embedding is None else self.value_embedding(ids)
        for block, values in zip(self.blocks, embedded, strict=True):
            x = block(x, scheme, where, cache, *values)
        if cache is not None:
            cache.advance(ids)
        return self.final_norm(x)

    def _document_mask(self, documents: Tensor, ids: Tensor) -> DocumentMask:
        require_documents(documents, ids)
        windows = map(self.config.window_of, range(self.config.n_layer))
        return DocumentMask(documents, windows, arithmetic_dtype(self.token_embedding.weight))

    @property
    def head_weight(self) -> Tensor:
        """The weights that score tokens, (V, C): in GPT-2, those that embed them."""
        return self.token_embedding.weight if self.lm_head is None else self.lm_head.weight

    def head(self, hidden: Tensor) -> Tensor:
        """Compute logits of the next token, (..., C) → (..., V)."""
        lm_head = self.lm_head
        logits = F.linear(hidden, self.token_embedding.weight) if lm_head is None else lm_head(hidden)
        return softcap(logits, self.config.logit_softcap)

    def forward(
        self,
        ids: Tensor,
        cache: Cache | None = None,
        targets: Tensor | None = None,
        reduction: Literal["sum", "rows", "none"] = "sum",
        last: bool = False,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Compute logits of the next token at every position, (B, T) → (B, T, V), or at the last alone, → (B, V).

        With targets (B, T), compute their cross-entropy in nats instead, without ever holding the logits of all
        positions: the sum, (); with reduction rows also, without a gradient, that of each sequence after it, (1 + B,);
        or with reduction none and without a gradient each one's, (B, T), zero where a target is IGNORE_INDEX.
        `documents`, as `hidden_states` takes them, are kept apart.
        """
        hidden = self.hidden_states(ids, cache, documents)
        if targets is None:
            return self.head(hidden[:, -1] if last else hidden)
        if reduction == "none":
            return next_token_losses(hidden, self.head, targets, self.config.vocab_size)
        return next_token_loss(hidden, self.head_weight, targets, self.config.logit_softcap, reduction == "rows")

    @property
    def device(self) -> torch.device:
        """The device it computes on."""
        return self.token_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        return self.token_embedding.weight.dtype

    def set_recompute(self, what: Recompute) -> None:
        """Have the backward pass compute this again instead of finding it in memory (Chen et al. 2016)."""
        for module in self.modules():
            if isinstance(module, Block):
                module.recompute = what == "blocks"
                module.mlp.recompute = what == "activations"

    def muon_parameters(self) -> Iterator[tuple[Tensor, list[int]]]:
        """Yield the weights of the blocks' linear layers, each with the rows of the matrices that it stacks."""
        for module in self.modules():
            if isinstance(module, Block):
                yield from module.attention.muon_parameters()
                yield from module.mlp.muon_parameters()

    def parameter_count(self) -> int:
        """Count all weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    def extra_repr(self) -> str:
        c = self.config
        shape = f"{c.n_layer} layers of {c.n_embd}, context {c.context_length:,}, vocabulary {c.vocab_size:,}"
        return f"{self.parameter_count():,} parameters, {shape}"


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
