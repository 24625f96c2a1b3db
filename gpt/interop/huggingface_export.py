"""Write a model as Hugging Face's files: config.json, model.safetensors, and the tokenizer beside them."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gpt.errors import InputError
from gpt.interop.huggingface import SIZES, weight_names
from gpt.interop.huggingface_tokenizer import write_json, write_template, write_tokenizer
from gpt.model.config import ModelConfig
from gpt.model.lora import merged_weights
from gpt.model.transformer import GPT
from gpt.text.chat_template import ChatTemplate
from gpt.text.tokenizer import Tokenizer

_HARMLESS = ("dropout", "bias", "zero_init_residual")  # theirs has dropout; a missing bias is 0; a beginning is over


def export(model: GPT, tokenizer: Tokenizer, to: Path, template: ChatTemplate | None = None) -> None:
    """Write a directory that AutoModelForCausalLM and AutoTokenizer load. Biases that the model lacks become zeros.

    An adapter is merged into the weights that are written. With a chat template, apply_chat_template writes as it does,
    and generating ends where it ends an answer.

    Raises InputError if `to` exists and is not empty, or if their GPT-2 cannot compute what the model does.
    """
    _require_gpt2(model.config, to)
    require_new(to)
    to.mkdir(parents=True, exist_ok=True)
    state = merged_weights(model)
    tensors = {}
    for name, our_name, transposed in weight_names(model.config.n_layer):
        tensor = state[our_name].cpu() if our_name in state else _zero_bias(state, our_name)
        tensors[f"transformer.{name}"] = (tensor.t() if transposed else tensor).contiguous()
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    write_json(to / "config.json", _their_config(model.config, tokenizer.end_of_text))
    shutil.copymode(to / "config.json", to / "model.safetensors")  # safetensors lets nobody else read its files
    special = (
        {} if tokenizer.end_of_text is None else dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.end_of_text)
    )
    write_json(to / "generation_config.json", special)
    write_tokenizer(tokenizer, to, model.config.context_length)
    if template is not None:
        write_template(template, tokenizer, to)


def require_new(to: Path) -> None:
    """Raise InputError if a directory to write exists and is not empty."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"`to` {to}: exists and is not empty; choose a new directory")


def _require_gpt2(config: ModelConfig, to: Path) -> None:
    """Raise InputError, naming what departs from GPT-2, where their class has no place for it."""
    found = departures(config)
    if found:
        raise InputError(
            f"`to` {to}: Hugging Face's GPT-2 cannot represent this model, which has {', '.join(found)}; "
            "export is for the exact GPT-2, as the presets gpt2 … gpt2-xl and shakespeare-char-cpu train it; a small "
            "one on any text: gpt train shakespeare-char-cpu --data DATASET"
        )


def departures(config: ModelConfig) -> list[str]:
    """List the settings of a model for which Hugging Face's GPT-2 has no place.

    Settings are allowed by name: one that is new departs until somebody has thought about it.
    """
    allowed, gpt2 = {*SIZES.values(), *_HARMLESS}, type(config)()
    windows = (config.window_of(layer) or config.context_length for layer in range(config.n_layer))
    if config.kv_dim == config.n_embd:
        allowed.add("n_kv_head")
    if min(windows) >= config.context_length:
        allowed |= {"sliding_window", "window_pattern"}
    if config.ngram == 1:
        allowed.add("ngram_buckets")
    names = [field.name for field in dataclasses.fields(config) if field.name not in allowed]
    return [f"model.{name} {getattr(config, name)}" for name in names if getattr(config, name) != getattr(gpt2, name)]


def _zero_bias(state: dict[str, Tensor], name: str) -> Tensor:
    weight = state[name.removesuffix("bias") + "weight"]
    return torch.zeros(weight.size(0), dtype=weight.dtype)


def _their_config(config: ModelConfig, end_of_text: int | None) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_positions": config.context_length,
        "vocab_size": config.vocab_size,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }
