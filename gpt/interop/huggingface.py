"""GPT-2 in Hugging Face's files: what its weights are called there, and reading config.json and model.safetensors.

Their model is GPT2LMHeadModel. Its four kinds of linear layer are `Conv1D`, whose weights are transposed.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt.config_io import overlay
from gpt.errors import InputError, did_you_mean
from gpt.files import read_json
from gpt.interop import code_export, modern_config, modern_weights
from gpt.interop.hub_names import hub_id
from gpt.interop.huggingface_tokenizer import TOKENIZER_FILES
from gpt.interop.huggingface_weights import EMBEDDING, HEAD, own_head, read_tensors
from gpt.model.config import ModelConfig
from gpt.model.transformer import empty_model

_BLOCK_NAMES = {
    "ln_1": "attention_norm",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out_proj",
    "ln_2": "mlp_norm",
    "mlp.c_fc": "mlp.fc_in",
    "mlp.c_proj": "mlp.fc_out",
}
SIZES = {"n_positions": "context_length"}
SIZES |= {name: name for name in ("n_layer", "n_head", "n_embd", "vocab_size", "layer_norm_epsilon")}
_OTHER_NAMES = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
_OTHER_NAMES |= {"n_positions": "max_position_embeddings"}
ACTIVATIONS = {"gelu_new": "gelu", "gelu": "gelu-erf", "relu": "relu", "relu2": "relu-squared"}
# The same, computed another way; gelu_fast has √(2/π) to ten digits.
ACTIVATIONS |= dict.fromkeys(("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate", "gelu_fast"), "gelu")
ACTIVATIONS |= {"gelu_python": "gelu-erf"}
_REQUIRED: dict[str, tuple[Any, ...]] = {  # and what else `read_config` does not name changes no result
    "model_type": ("gpt2",),
    "scale_attn_weights": (True,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}
INSTEAD = "such a model cannot be read exactly: run it with transformers, or choose another"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def weight_names(n_layer: int) -> Iterator[tuple[str, str, bool]]:
    """Yield (their name, our name, transposed) of every weight; theirs without the prefix `transformer.`."""
    yield "wte.weight", "token_embedding.weight", False
    yield "wpe.weight", "position_embedding.weight", False
    for layer in range(n_layer):
        for theirs, ours in _BLOCK_NAMES.items():
            for kind in ("weight", "bias"):
                name = f"{theirs}.{kind}"
                yield f"h.{layer}.{name}", f"blocks.{layer}.{ours}.{kind}", name in _TRANSPOSED
    yield "ln_f.weight", "final_norm.weight", False
    yield "ln_f.bias", "final_norm.bias", False


def linear_layers(n_layer: int) -> Iterator[tuple[str, str]]:
    """Yield (their name, our name) of every linear layer of the blocks; theirs without the prefix `transformer.`."""
    for theirs, ours, transposed in weight_names(n_layer):
        if transposed:
            yield theirs.removesuffix(".weight"), ours.removesuffix(".weight")


def find(source: str) -> Path:
    """Return the directory of a Hugging Face model: a local one, or a hub id's, downloaded; else raise InputError.

    A hub id may be a name of GPT-2's family, and may name a revision (a branch, tag or commit) after an @; without one
    it is what the hub has now.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.parent != Path() and path.parent.is_dir():
        there = sorted(str(entry) for entry in path.parent.iterdir() if entry.is_dir())
        raise InputError(f"{source}: there is no such directory; {did_you_mean(str(path), there)}")
    repository, _, revision = hub_id(source).partition("@")
    if repository.count("/") > 1 or source.startswith((".", "/", "~")) or path.exists():
        raise InputError(
            f"{source}: is neither a run directory, a Hugging Face model directory, "
            "nor a hub id such as gpt2, which is openai-community/gpt2"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=["config.json", "*.safetensors*", *TOKENIZER_FILES],
                ignore_patterns=["*/*"],  # the same weights for other programs
            )
        )
    except Exception as error:  # the hub's own exceptions, and whatever its network library raises
        raise InputError(
            f"{source}: is no directory here, and the Hugging Face hub did not give "
            f"{'it' if source.startswith(repository) else repository} ({type(error).__name__}); "
            "name a local directory, or try again with a network"
        ) from error


def pinned(source: str, path: Path) -> str:
    """Name what `find` found at `path` so that it stays the same: a hub id gets the commit it had then."""
    return source if Path(source).is_dir() else f"{hub_id(source).partition('@')[0]}@{path.name}"


def is_model(path: Path) -> bool:
    """Tell whether a directory holds a Hugging Face model (a run's config.json has no `model_type`)."""
    try:
        return "model_type" in read_json(path / "config.json")
    except InputError:
        return False


# ---- config.json ----


def read_config(path: Path) -> ModelConfig:
    """Read their config.json as ours. Raises InputError for what is not computed here.

    A head of its own is one that the config says, or that differs from the embedding in the weights.
    `reorder_and_upcast_attn` says how transformers computes below float32, and changes no result.
    """
    if kind := modern_config.kind_at(path):
        return modern_config.read_config(path, kind)
    if code_export.is_ours(path):
        return code_export.read_config(path)
    file = path / "config.json"
    theirs = read_json(file)
    for key, allowed in _REQUIRED.items():
        value = theirs.get(key, allowed[0])
        if value not in allowed:
            raise InputError(f"{file}: {key} is {value!r} where GPT-2 has {allowed[0]!r}; {INSTEAD}")
    activation = theirs.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise InputError(f"{file}: activation_function is {activation!r}, and only {known} are computed; {INSTEAD}")
    gpt2 = ModelConfig()
    values = {ours: _size(file, theirs, name, getattr(gpt2, ours)) for name, ours in SIZES.items()}
    values |= {
        "activation": ACTIVATIONS[activation],
        "n_inner": theirs.get("n_inner"),
        "scale_by_inverse_layer": theirs.get("scale_attn_by_inverse_layer_idx", False),
        "tie_embeddings": theirs.get("tie_word_embeddings", True),
    }
    config = overlay(gpt2, values, str(file))
    return replace(
        config,
        n_inner=None if config.n_inner == 4 * config.n_embd else config.n_inner,
        tie_embeddings=config.tie_embeddings and not own_head(path),
    )


def _size(file: Path, theirs: dict[str, Any], name: str, default: Any) -> Any:
    """Find a number by its name, or by another that transformers takes as well; n_ctx alone is of old files."""
    other = _OTHER_NAMES.get(name)
    if name in theirs and other in theirs and theirs[name] != theirs[other]:
        raise InputError(
            f"{file}: says {name} {theirs[name]!r} and {other} {theirs[other]!r}, which are two names of one number; "
            "leave the wrong one out"
        )
    default = theirs.get("n_ctx", default) if name == "n_positions" else default
    return theirs.get(name, theirs.get(other, default))


# ---- model.safetensors ----


def read_weights(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Read their safetensors (one file, or several with an index) as our state dict, in float32.

    Raises InputError for missing files, missing or superfluous weights, and wrong shapes.
    """
    if (kind := modern_config.kind_at(path)) or code_export.is_ours(path):
        numbers = {name: _number(path, name, tensor) for name, tensor in read_tensors(path).items()}
        return modern_weights.our_weights(path, config, numbers, kind) if kind else numbers
    theirs, ours = read_tensors(path), {}
    head = theirs.pop(HEAD, None)
    if config.tie_embeddings and head is not None:
        theirs.setdefault(EMBEDDING, head)  # some programs save what is shared once, by its last name
    for name, our_name, transposed in weight_names(config.n_layer):
        tensor = _number(path, name, theirs.pop(name, None))
        ours[our_name] = tensor.t().contiguous() if transposed else tensor
    if not config.tie_embeddings:
        ours["lm_head.weight"] = _number(path, HEAD, head)
    masks = [name for name in theirs if name.endswith((".attn.bias", ".attn.masked_bias"))]  # constants of old files
    if superfluous := sorted(theirs.keys() - masks):
        raise InputError(f"{path}: has weights that GPT-2 does not: {', '.join(superfluous[:5])}; {INSTEAD}")
    expected = empty_model(config).state_dict()
    for name, tensor in ours.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(tensor.shape)}; its config.json means {tuple(expected[name].shape)}"
            )
    return ours


def _number(path: Path, name: str, tensor: Tensor | None) -> Tensor:
    """Give a weight in float32. Raises InputError if there is none, or if it is of integers."""
    if tensor is None:
        untied = ", and its config.json says tie_word_embeddings false" if name == HEAD else ""
        raise InputError(f"{path}: the weight {name!r} is missing from its safetensors{untied}; get the model again")
    if tensor.dtype not in _FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise InputError(f"{path}: the weight {name!r} is {kind}, so it is quantized; {INSTEAD}")
    return tensor.float()
