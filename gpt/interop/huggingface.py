"""GPT-2 in Hugging Face's files: what its weights are called there, and reading config.json and model.safetensors.

Their model is GPT2LMHeadModel. Its four kinds of linear layer are `Conv1D`, whose weights are transposed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from gpt.config_io import overlay
from gpt.errors import InputError, did_you_mean
from gpt.files import inside, read_json
from gpt.interop import code_export, modern_config, modern_weights
from gpt.interop.huggingface_tokenizer import TOKENIZER_FILES
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

    A hub id may name a revision (a branch, tag or commit) after an @; without one it is what the hub has now.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.parent != Path() and path.parent.is_dir():
        there = sorted(str(entry) for entry in path.parent.iterdir() if entry.is_dir())
        raise InputError(f"{source}: there is no such directory; {did_you_mean(str(path), there)}")
    repository, _, revision = source.partition("@")
    if repository.count("/") > 1 or source.startswith((".", "/", "~")) or path.exists():
        raise InputError(
            f"{source}: is neither a run directory, a Hugging Face model directory, "
            "nor a hub id such as openai-community/gpt2"
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
            f"{source}: is no directory here, and the Hugging Face hub did not give it ({type(error).__name__}); "
            "name a local directory, or try again with a network"
        ) from error


def pinned(source: str, path: Path) -> str:
    """Name what `find` found at `path` so that it stays the same: a hub id gets the commit it had then."""
    return source if Path(source).is_dir() else f"{source.partition('@')[0]}@{path.name}"


def is_model(path: Path) -> bool:
    """Tell whether a directory holds a Hugging Face model (a run's config.json has no `model_type`)."""
    try:
        return "model_type" in read_json(path / "config.json")
    except InputError:
        return False


def read_config(path: Path) -> ModelConfig:
    """Read their config.json as ours. Raises InputError for what this GPT-2 does not compute."""
    if kind := modern_config.kind_at(path):
        return modern_config.read_config(path, kind)
    if code_export.is_ours(path):
        return code_export.read_config(path)
    file = path / "config.json"
    config, gpt2 = read_json(file), ModelConfig()
    ours = overlay(gpt2, {name: config.get(theirs, getattr(gpt2, name)) for theirs, name in SIZES.items()}, str(file))
    required: dict[str, tuple[Any, ...]] = {
        "model_type": ("gpt2",),
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "n_inner": (None, 4 * ours.n_embd),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "tie_word_embeddings": (True,),
        "add_cross_attention": (False,),
    }
    for key, allowed in required.items():
        value = config.get(key, allowed[0])
        if value not in allowed:
            raise InputError(
                f"{file}: {key} is {value!r} where GPT-2 has {allowed[-1]!r}; such a model cannot be read exactly"
            )
    return ours


def read_weights(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Read their safetensors (one file, or several with an index) as our state dict, in float32.

    Raises InputError for missing files, missing or superfluous weights, and wrong shapes.
    """
    if kind := modern_config.kind_at(path):
        return modern_weights.our_weights(path, config, _read_safetensors(path), kind)
    if code_export.is_ours(path):
        return code_export.our_weights(_read_safetensors(path))
    theirs = {name.removeprefix("transformer."): tensor for name, tensor in _read_safetensors(path).items()}
    head = theirs.pop("lm_head.weight", None)
    ours = {}
    for name, our_name, transposed in weight_names(config.n_layer):
        if name not in theirs:
            raise InputError(f"{path}: the weight {name!r} is missing from its safetensors")
        tensor = theirs.pop(name).float()
        ours[our_name] = tensor.t().contiguous() if transposed else tensor
    masks = [name for name in theirs if name.endswith((".attn.bias", ".attn.masked_bias"))]  # constants of old files
    if superfluous := sorted(theirs.keys() - masks):
        raise InputError(f"{path}: has weights that GPT-2 does not: {', '.join(superfluous[:5])}")
    if head is not None and not torch.equal(head.float(), ours["token_embedding.weight"]):
        raise InputError(f"{path}: lm_head.weight differs from wte.weight; GPT-2's head is tied to its embedding")
    expected = empty_model(config).state_dict()
    for name, tensor in ours.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(tensor.shape)}; its config.json means {tuple(expected[name].shape)}"
            )
    return ours


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    index = path / "model.safetensors.index.json"
    names = _shard_names(index) if index.exists() else ["model.safetensors"]
    tensors = {}
    for name in names:
        file = inside(path, name)
        if not file.exists():
            raise InputError(
                f"{file}: is missing; only safetensors are read "
                "(transformers' save_pretrained writes them from pickled .bin weights)"
            )
        try:
            tensors |= load_file(file)
        except safetensors.SafetensorError as error:
            raise InputError(f"{file}: cannot be read as safetensors ({error})") from None
    return tensors


def _shard_names(index: Path) -> list[str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index}: has no weight_map from names of weights to names of files")
    return sorted(set(names.values()))
