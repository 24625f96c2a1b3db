"""Weights of models with rotary positions under Hugging Face's names: GPT-NeoX, Arcee, Apertus, Qwen2 and Qwen3.

One list of rules says, for both ways, which tensors of theirs are one of ours, or hold a constant for which ours have
no weight. Reading refuses by name what a rule cannot turn back.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gpt.errors import InputError
from gpt.interop.classes import APERTUS, ARCEE, GPT_NEOX, QWEN2, QWEN3, ModelClass
from gpt.model.config import ModelConfig

_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LLAMA = {
    "token_embedding": ("model.embed_tokens",),
    "attention_norm": ("input_layernorm",),
    "attention.qkv": _QKV,
    "attention.out_proj": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "mlp.fc_in": ("mlp.up_proj",),
    "mlp.fc_out": ("mlp.down_proj",),
    "final_norm": ("model.norm",),
    "lm_head": ("lm_head",),
}
_GATED = _LLAMA | {"mlp.fc_in": ("mlp.gate_proj", "mlp.up_proj")}
_NAMES = {
    ARCEE: _LLAMA,
    APERTUS: _LLAMA | {"attention_norm": ("attention_layernorm",), "mlp_norm": ("feedforward_layernorm",)},
    QWEN2: _GATED,
    QWEN3: _GATED,
    GPT_NEOX: {
        "token_embedding": ("gpt_neox.embed_in",),
        "attention_norm": ("input_layernorm",),
        "attention.qkv": ("attention.query_key_value",),
        "attention.out_proj": ("attention.dense",),
        "mlp_norm": ("post_attention_layernorm",),
        "mlp.fc_in": ("mlp.dense_h_to_4h",),
        "mlp.fc_out": ("mlp.dense_4h_to_h",),
        "final_norm": ("gpt_neox.final_layer_norm",),
        "lm_head": ("embed_out",),  # transformers 5 calls it lm_head, and reads this name as well
    },
}
_PREFIX = {GPT_NEOX: "gpt_neox"}
_OUTSIDE = ("token_embedding", "final_norm", "lm_head")
LINEAR = ("attention.qkv", "attention.out_proj", "mlp.fc_in", "mlp.fc_out")
_BIASED = ("attention_norm", "mlp_norm", "final_norm", *LINEAR)
_ALWAYS_BIASED = {GPT_NEOX: _BIASED, QWEN2: ("attention.qkv",)}  # zeros where ours have none
_UNWEIGHTED = dict.fromkeys((APERTUS, QWEN3), ("self_attn.q_norm", "self_attn.k_norm"))  # ours norms without weights


class Form(NamedTuple):
    """How one tensor of ours becomes theirs, and theirs ours again."""

    split: Callable[[Tensor], Sequence[Tensor]]
    join: Callable[[Sequence[Tensor]], Tensor]


class Rule(NamedTuple):
    """Which tensors of theirs are one of ours; or each a constant, where ours has no weight."""

    ours: str
    theirs: tuple[str, ...]
    form: Form
    constant: float | None = None
    size: int = 0
    """Of a constant, in numbers, before it is split."""


def _copied(parts: Sequence[Tensor]) -> Tensor:
    if any(not torch.equal(part, parts[0]) for part in parts):
        raise ValueError("differ from each other; they must be alike")
    return parts[0]


def _by_head(n_head: int) -> Form:
    """All heads' queries, then keys, then values; theirs has a head's three, and then the next head's."""
    return Form(
        lambda whole: (whole.unflatten(0, (3, n_head, -1)).transpose(0, 1).flatten(0, 2),),
        lambda parts: parts[0].unflatten(0, (n_head, 3, -1)).transpose(0, 1).flatten(0, 2),
    )


def whole(copies: int) -> Form:
    """One tensor, or several copies of it."""
    return Form(lambda whole: (whole,) * copies, _copied)


def _form(kind: ModelClass, module: str, config: ModelConfig) -> Form:
    parts = len(_NAMES[kind][module])
    if module == "attention.qkv" and parts == 1:
        return _by_head(config.n_head)
    if module == "attention.qkv":
        return Form(
            lambda whole: whole.split([config.n_embd, config.kv_dim, config.kv_dim]), lambda parts: torch.cat([*parts])
        )
    return whole(parts)


def rules(kind: ModelClass, config: ModelConfig) -> Iterator[Rule]:
    """Yield how each weight of a model is called in a class, and what the class holds beyond them."""
    modules = [name for name in _NAMES[kind] if name != "lm_head" or not config.tie_embeddings]
    for layer in range(config.n_layer):
        ours, theirs = f"blocks.{layer}.", f"{_PREFIX.get(kind, 'model')}.layers.{layer}."
        for module in modules:
            if module not in _OUTSIDE:
                yield from _module_rules(kind, config, module, ours, theirs)
        for name in _UNWEIGHTED.get(kind, ()):
            yield Rule("", (f"{theirs}{name}.weight",), whole(1), 1, config.head_dim)
    for module in modules:
        if module in _OUTSIDE:
            yield from _module_rules(kind, config, module)


def _module_rules(
    kind: ModelClass, config: ModelConfig, module: str, ours: str = "", theirs: str = ""
) -> Iterator[Rule]:
    names, form = [theirs + name for name in _NAMES[kind][module]], _form(kind, module, config)
    yield Rule(f"{ours}{module}.weight", tuple(f"{name}.weight" for name in names), form)
    biases = tuple(f"{name}.bias" for name in names)
    if config.bias and module in (_BIASED if config.normalization == "layer" else LINEAR):
        yield Rule(f"{ours}{module}.bias", biases, form)
    elif module in _ALWAYS_BIASED.get(kind, ()):
        sizes = {"attention.qkv": config.n_embd + 2 * config.kv_dim, "mlp.fc_in": config.inner_dim}
        yield Rule("", biases, form, 0, sizes.get(module, config.n_embd))


def their_weights(kind: ModelClass, config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a model's weights by their names in a class that computes it."""
    tensors, dtype = {}, state["token_embedding.weight"].dtype
    for rule in rules(kind, config):
        constant = rule.constant
        whole = state[rule.ours] if constant is None else torch.full((rule.size,), constant, dtype=dtype)
        for name, part in zip(rule.theirs, rule.form.split(whole), strict=True):
            tensors[name] = part.detach().cpu().clone(memory_format=torch.contiguous_format)
    return tensors


def our_weights(path: Path, config: ModelConfig, theirs: dict[str, Tensor], kind: ModelClass) -> dict[str, Tensor]:
    """Give our state dict of their weights.

    Raises InputError for missing and superfluous weights, and those that hold what ours cannot.
    """
    theirs, ours = {_renamed(kind, name): tensor for name, tensor in theirs.items()}, {}
    head = _NAMES[kind]["lm_head"][0] + ".weight"
    if config.tie_embeddings and head in theirs:
        _require_tied(path, theirs.pop(head), theirs.get(_NAMES[kind]["token_embedding"][0] + ".weight"))
    for rule in rules(kind, config):
        if missing := [name for name in rule.theirs if name not in theirs]:
            raise InputError(f"{path}: the weight {missing[0]!r} is missing from its safetensors")
        parts = [theirs.pop(name) for name in rule.theirs]
        names = " and ".join(rule.theirs)
        try:
            whole = rule.form.join(parts)
        except ValueError as error:
            raise InputError(f"{path}: {names} {error}, for ours has one matrix in their place") from None
        except RuntimeError:
            raise InputError(f"{path}: {names} have other shapes than its config.json means") from None
        if rule.constant is None:
            ours[rule.ours] = whole.contiguous()
        elif not (whole == rule.constant).all():
            raise InputError(f"{path}: {names} must be {rule.constant} throughout, for ours has no such weights")
    if theirs:
        raise InputError(f"{path}: has weights that {kind.name} does not: {', '.join(sorted(theirs)[:5])}")
    return ours


def _renamed(kind: ModelClass, name: str) -> str:
    return "embed_out.weight" if kind is GPT_NEOX and name == "lm_head.weight" else name


def _require_tied(path: Path, head: Tensor, embedding: Tensor | None) -> None:
    if embedding is None or not torch.equal(head, embedding):
        raise InputError(f"{path}: its head differs from its embedding, and config.json says that they are tied")


def linear_layers(kind: ModelClass, config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...], Form]]:
    """Yield of every linear layer of the blocks (our name, theirs, how rows of ours become theirs)."""
    for rule in rules(kind, config):
        module = rule.ours.removesuffix(".weight")
        if module != rule.ours and module.split(".", 2)[-1] in LINEAR:
            yield module, tuple(name.removesuffix(".weight") for name in rule.theirs), rule.form
