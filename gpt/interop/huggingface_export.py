"""Write a model as Hugging Face's files: config.json, model.safetensors, and the tokenizer beside them."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gpt.errors import InputError
from gpt.files import write_directory
from gpt.interop import code_export, modern_config, modern_weights
from gpt.interop.classes import CODE, GPT2, ModelClass, class_of, nearest
from gpt.interop.huggingface import weight_names
from gpt.interop.huggingface_tokenizer import write_json, write_template, write_tokenizer
from gpt.log import log
from gpt.model.config import ModelConfig
from gpt.model.lora import merged_weights
from gpt.model.transformer import GPT
from gpt.text.chat_template import ChatTemplate
from gpt.text.tokenizer import Tokenizer


def export(
    model: GPT, tokenizer: Tokenizer, to: Path, template: ChatTemplate | None = None, with_code: bool = False
) -> ModelClass:
    """Write a directory that AutoModelForCausalLM and AutoTokenizer load; return the class that it is for.

    An adapter is merged into the weights that are written. With a chat template, apply_chat_template writes as it does,
    and generating ends where it ends an answer. `with_code` writes the model's own code beside the weights, which
    transformers runs where it is trusted (trust_remote_code=True).

    Raises InputError if `to` exists and is not empty, or if no class of theirs computes what the model does.
    """
    kind = chosen_class(model.config, to, with_code)
    require_new(to)
    if doubts := kind.doubts(model.config):
        log.warning(
            f"{to}: transformers computes a {kind.name} with {', '.join(doubts)}; other programs may compute something "
            "else, whatever config.json says: compare their text before you use one"
        )
    with nullcontext(to) if to.exists() else write_directory(to) as path:  # one that is there may be a volume
        _write(model, tokenizer, path, template, kind)
    return kind


def _write(model: GPT, tokenizer: Tokenizer, to: Path, template: ChatTemplate | None, kind: ModelClass) -> None:
    state = merged_weights(model)
    if kind is GPT2:
        tensors, config = _gpt2_weights(model.config, state), _gpt2_config(model.config)
    elif kind is CODE:
        tensors, config = code_export.their_weights(state), code_export.their_config(model.config)
        code_export.write_code(to)
    else:
        tensors = modern_weights.their_weights(kind, model.config, state)
        config = modern_config.their_config(kind, model.config)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.end_of_text)
    names = {"model_type": kind.model_type, "architectures": [kind.name]}
    write_json(to / "config.json", names | config | ends | {"pad_token_id": None})
    shutil.copymode(to / "config.json", to / "model.safetensors")  # safetensors lets nobody else read its files
    write_json(to / "generation_config.json", {} if tokenizer.end_of_text is None else ends)
    write_tokenizer(tokenizer, to, model.config.context_length)
    if template is not None:
        write_template(template, tokenizer, to)


def chosen_class(config: ModelConfig, to: Path, with_code: bool = False) -> ModelClass:
    """Choose the class to export for. Raises InputError, naming what departs, where none computes the model."""
    kind = CODE if with_code else class_of(config)
    if kind is None:
        near = nearest(config)
        raise InputError(
            f"`to` {to}: no class of Hugging Face's computes this model, which has "
            f"{', '.join(near.departures(config))}; {near.name} has the rest. `with_code` writes the model's own code "
            "beside its weights, for those who trust it; without code, train a model that has none of this"
        )
    if found := kind.departures(config):
        raise InputError(f"`with_code`: the code cannot compute this model, which has {', '.join(found)}")
    return kind


def require_new(to: Path) -> None:
    """Raise InputError if a directory to write exists and is not empty."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"`to` {to}: exists and is not empty; choose a new directory")


# ---- GPT-2 ----


def _gpt2_weights(config: ModelConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give a model's weights by GPT2LMHeadModel's names. Biases that the model lacks become zeros."""
    tensors = {}
    for name, our_name, transposed in weight_names(config.n_layer):
        tensor = state[our_name].cpu() if our_name in state else _zero_bias(state, our_name)
        tensors[f"transformer.{name}"] = (tensor.t() if transposed else tensor).contiguous()
    if not config.tie_embeddings:
        tensors["lm_head.weight"] = state["lm_head.weight"].cpu().contiguous()
    return tensors


def _zero_bias(state: dict[str, Tensor], name: str) -> Tensor:
    weight = state[name.removesuffix("bias") + "weight"]
    return torch.zeros(weight.size(0), dtype=weight.dtype)


def _gpt2_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,  # its old name, by which llama.cpp's converter knows it
        "vocab_size": config.vocab_size,
        "n_inner": config.n_inner,
        "scale_attn_by_inverse_layer_idx": config.scale_by_inverse_layer,
        "activation_function": GPT2.activations[config.activation],
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": config.tie_embeddings,
    }
