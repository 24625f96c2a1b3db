"""Write an adapter as PEFT reads it, on the model that `huggingface_export.export` writes."""

import shutil
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from gpt.interop.huggingface import linear_layers
from gpt.interop.huggingface_tokenizer import write_json
from gpt.interop.peft import CONFIG, WEIGHTS, Base
from gpt.model.lora import Adapter


def write_adapter(adapter: Adapter, n_layer: int, base: Base, to: Path, dropout: float = 0.0) -> None:
    """Write the adapter of a GPT-2 of ours into a new directory. `dropout` is what it was trained with."""
    theirs = {ours: f"transformer.{name}" for name, ours in linear_layers(n_layer)}
    to.mkdir(parents=True)
    tensors = {}
    for name, layer in adapter.layers.items():
        for part, tensor in (("A", layer.A), ("B", layer.B)):
            whole = tensor.detach().float().cpu().contiguous()
            tensors[f"base_model.model.{theirs[name]}.lora_{part}.weight"] = whole
    layers = {theirs[name]: (layer.A.size(0), layer.scale) for name, layer in adapter.layers.items()}
    write_json(to / CONFIG, _their_config(layers, list(theirs.values()), base, dropout))
    save_file(tensors, to / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(to / CONFIG, to / WEIGHTS)  # safetensors lets nobody else read its files


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
        "fan_in_fan_out": True,  # their linear layers are Conv1D
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
