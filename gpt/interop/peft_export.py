"""Write an adapter as PEFT reads it, on the model that `huggingface_export.export` writes."""

import shutil
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gpt.interop import modern_weights
from gpt.interop.classes import GPT2, ModelClass
from gpt.interop.huggingface import linear_layers
from gpt.interop.huggingface_export import chosen_class
from gpt.interop.huggingface_tokenizer import write_json
from gpt.interop.peft import CONFIG, WEIGHTS, Base
from gpt.model.config import ModelConfig
from gpt.model.lora import Adapter


def write_adapter(adapter: Adapter, config: ModelConfig, base: Base, to: Path, dropout: float = 0.0) -> None:
    """Write the adapter of a model of ours into a new directory. `dropout` is what it was trained with.

    Where several layers of theirs are one of ours, as queries, keys and values, each gets its rows of B and a copy of
    A. Raises InputError if no class of theirs computes the model.
    """
    kind = chosen_class(config, to)
    theirs = _layers(kind, config)
    to.mkdir(parents=True)
    tensors, layers = {}, {}
    for name, layer in adapter.layers.items():
        names, form = theirs[name]
        for their_name, rows in zip(names, form.split(layer.B), strict=True):
            for part, tensor in (("A", layer.A), ("B", rows)):
                whole = tensor.detach().float().cpu().clone(memory_format=torch.contiguous_format)
                tensors[f"base_model.model.{their_name}.lora_{part}.weight"] = whole
            layers[their_name] = (layer.A.size(0), layer.scale)
    known = [name for names, _ in theirs.values() for name in names]
    write_json(to / CONFIG, _their_config(layers, known, base, dropout) | {"fan_in_fan_out": kind is GPT2})  # Conv1D
    save_file(tensors, to / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(to / CONFIG, to / WEIGHTS)  # safetensors lets nobody else read its files


def _layers(kind: ModelClass, config: ModelConfig) -> dict[str, tuple[tuple[str, ...], modern_weights.Form]]:
    """Give by our names of linear layers what they are in a class, and how rows of ours become theirs."""
    if kind is GPT2:
        same = modern_weights.whole(1)
        return {ours: ((f"transformer.{name}",), same) for name, ours in linear_layers(config.n_layer)}
    return {ours: (names, form) for ours, names, form in modern_weights.linear_layers(kind, config)}


def _their_config(layers: dict[str, tuple[int, float]], known: list[str], base: Base, dropout: float) -> dict[str, Any]:
    """Say by PEFT's config of which rank and scale each layer's adapter is: what most have, then what others have."""
    alphas = {name: _alpha(rank, scale) for name, (rank, scale) in layers.items()}
    rank = Counter(rank for rank, _ in layers.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": _targets(layers.keys(), known),
        "rank_pattern": {name: r for name, (r, _) in layers.items() if r != rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _alpha(rank: int, scale: float) -> int | float:
    """Give alpha, of which scale is alpha / rank; the digits that rounding of that added are none of it."""
    alpha = float(f"{scale * rank:.14g}")
    return int(alpha) if alpha.is_integer() else alpha


def _targets(names: Collection[str], known: list[str]) -> list[str]:
    """Name layers by what all blocks have in common, as attn.c_attn, where all have them; others by their names."""
    kinds: dict[str, list[str]] = {}
    for name in known:
        kinds.setdefault(name.split(".", 3)[3], []).append(name)
    whole = {kind for kind, members in kinds.items() if set(members) <= set(names)}
    return sorted(whole) + [name for name in known if name in names and name.split(".", 3)[3] not in whole]
