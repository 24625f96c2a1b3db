"""Which of llama.cpp's architectures computes a model exactly, and the model's shape and tensors as that one has them.

Each has an allow-list, as the classes of transformers have (classes.py), and one of its own: a graph here need not
compute what a class does there. Read in llama.cpp's src/models/: gpt2.cpp, gptneox.cpp and arcee.cpp.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gpt.errors import InputError
from gpt.interop.classes import Allowed, ModelClass, windows
from gpt.model.config import ModelConfig
from gpt.model.lora import merged_weights
from gpt.model.positions import BASE
from gpt.model.transformer import GPT

POSITIONS = "position_embd.weight"


def _any(config: ModelConfig) -> bool:
    return True


_FREE = ("n_layer", "n_head", "n_embd", "context_length", "vocab_size", "layer_norm_epsilon", "tie_embeddings")
_FREE += ("n_kv_head", "n_inner", "dropout", "zero_init_residual", "window_pattern", "ngram_buckets")
_ALL: dict[str, Allowed] = dict.fromkeys(_FREE, _any) | {"sliding_window": lambda config: not any(windows(config))}
_ROTARY: dict[str, Allowed] = _ALL | {"positions": ("rope",)}
_GELU = {"gelu": "LLM_FFN_GELU"}

# A bias that a model lacks is zeros, where the architecture has one.
GPT2 = ModelClass("gpt2", "gpt2", _ALL | {"bias": _any}, _GELU)
GPT_NEOX = ModelClass("gptneox", "gptneox", _ROTARY | {"bias": _any}, _GELU)
ARCEE = ModelClass(
    "arcee", "arcee", _ROTARY | {"normalization": ("rms",), "bias": (False,)}, {"relu-squared": "LLM_FFN_RELU_SQR"}
)
ARCHITECTURES = (GPT2, GPT_NEOX, ARCEE)

_BLOCK_NAMES = {
    "attention_norm": "attn_norm",
    "attention.qkv": "attn_qkv",
    "attention.out_proj": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp.fc_in": "ffn_up",
    "mlp.fc_out": "ffn_down",
}


def architecture_of(config: ModelConfig) -> str:
    """Choose llama.cpp's architecture that computes what a model does.

    Raises InputError, naming what departs from the nearest one, where there is none.
    """
    nearest = min(ARCHITECTURES, key=lambda one: len(one.departures(config)))
    found = nearest.departures(config)
    if found:
        raise InputError(
            f"`format` gguf: llama.cpp's {nearest.name} cannot compute this model, which has {', '.join(found)}; it "
            "computes the exact GPT-2, as the presets gpt2 … gpt2-xl train it, and the modern recipe "
            "without `model.qk_norm` and `model.value_embeddings`, and with `model.ngram` 1"
        )
    return nearest.name


def shape_keys(config: ModelConfig, architecture: str) -> dict[str, Any]:
    """Return the keys that say how large a model is, and how its architecture is to compute it."""
    epsilon = "attention.layer_norm_rms_epsilon" if architecture == "arcee" else "attention.layer_norm_epsilon"
    keys = {
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.inner_dim,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.n_kv_head or config.n_head,
        epsilon: config.layer_norm_epsilon,
    }
    if architecture != "gpt2":
        keys |= {"rope.dimension_count": config.head_dim, "rope.freq_base": BASE}
    if architecture == "gptneox":
        keys["use_parallel_residual"] = False
    return {"general.architecture": architecture} | {f"{architecture}.{key}": value for key, value in keys.items()}


def named_tensors(model: GPT, architecture: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors by llama.cpp's names. Its rows of a matrix are ours."""
    config, state = model.config, merged_weights(model)

    def of_layer(ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
        yield f"{theirs}.weight", state[f"{ours}.weight"]
        if architecture != "arcee":
            bias = state.get(f"{ours}.bias")
            yield f"{theirs}.bias", torch.zeros(state[f"{ours}.weight"].size(0)) if bias is None else bias

    yield "token_embd.weight", state["token_embedding.weight"]
    if architecture == "gpt2":
        yield POSITIONS, state["position_embedding.weight"]
    for layer in range(config.n_layer):
        for ours, theirs in _BLOCK_NAMES.items():
            for name, tensor in of_layer(f"blocks.{layer}.{ours}", f"blk.{layer}.{theirs}"):
                separate = theirs == "attn_qkv" and architecture == "arcee"
                yield from _query_key_value(tensor, config, layer) if separate else [(name, tensor)]
    yield from of_layer("final_norm", "output_norm")
    if not config.tie_embeddings or architecture == "gptneox":  # which has no tied head
        yield "output.weight", state["token_embedding.weight" if config.tie_embeddings else "lm_head.weight"]


def _query_key_value(qkv: Tensor, config: ModelConfig, layer: int) -> Iterator[tuple[str, Tensor]]:
    """Yield a layer's three matrices, as architectures after Llama's have them: they turn neighbors as pairs.

    Ours are numbers i and i + D/2 of a head, so that the rows of queries and keys change places.
    """
    parts = qkv.split([config.n_embd, config.kv_dim, config.kv_dim])
    for kind, part in zip("qkv", parts, strict=True):
        rows = part
        if kind != "v":
            halves = part.view(-1, 2, config.head_dim // 2, config.n_embd)  # (heads, 2, D/2, C)
            rows = halves.transpose(1, 2).reshape(part.shape)
        yield f"blk.{layer}.attn_{kind}.weight", rows
