"""The config.json of models with rotary positions: GPT-NeoX, Arcee, Apertus, Qwen2 and Qwen3, both ways.

One function writes it, and what is read must be as that would write it. So what was exported is read back, also where
transformers has saved it again; what the classes can do beyond that is refused by name.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt.config_io import overlay
from gpt.errors import InputError
from gpt.files import read_json
from gpt.interop.classes import APERTUS, ARCEE, GPT_NEOX, QWEN2, QWEN3, ModelClass, windows
from gpt.model.config import ModelConfig
from gpt.model.positions import BASE

_KINDS = {kind.model_type: kind for kind in (GPT_NEOX, ARCEE, APERTUS, QWEN2, QWEN3)}
_WINDOWED = (QWEN2, QWEN3)
_SIZES = {
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
}


def their_config(kind: ModelClass, config: ModelConfig) -> dict[str, Any]:
    """Say a model's shape as the config.json of a class that computes it, for transformers 4 and 5."""
    theirs: dict[str, Any] = {name: getattr(config, ours) for name, ours in _SIZES.items()}
    theirs |= {
        "intermediate_size": config.inner_dim,
        "hidden_act": kind.activations[config.activation],
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": config.dropout,
        "rope_theta": BASE,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": BASE},
    }
    if kind is GPT_NEOX:
        theirs |= {"layer_norm_eps": config.layer_norm_epsilon, "hidden_dropout": config.dropout}
        theirs |= {"use_parallel_residual": False, "attention_bias": True, "rotary_pct": 1.0, "rotary_emb_base": BASE}
        theirs["rope_parameters"] |= {"partial_rotary_factor": 1.0}
        return theirs
    theirs |= {"rms_norm_eps": config.layer_norm_epsilon, "head_dim": config.head_dim}
    theirs |= {"num_key_value_heads": config.n_kv_head or config.n_head}
    if kind is not QWEN2:  # whose queries, keys and values always have them
        theirs["attention_bias"] = config.bias
    if kind is ARCEE:
        theirs["mlp_bias"] = config.bias
    if kind in _WINDOWED:
        marks = [size is not None for size in windows(config)]
        theirs |= {
            "use_sliding_window": any(marks),
            "sliding_window": config.sliding_window if any(marks) else None,
            "max_window_layers": marks.index(True) if any(marks) else config.n_layer,
            "layer_types": ["sliding_attention" if mark else "full_attention" for mark in marks],
        }
    return theirs


_TRAINING = ("attention_dropout", "hidden_dropout", "max_window_layers")  # layer_types say what this one does
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "rotary_pct", "rotary_emb_base")


def kind_at(path: Path) -> ModelClass | None:
    """Find the class of a model's directory among those of this file; None where it is another."""
    model_type = read_json(path / "config.json").get("model_type")
    return _KINDS.get(model_type) if isinstance(model_type, str) else None


def read_config(path: Path, kind: ModelClass) -> ModelConfig:
    """Read their config.json as ours. Raises InputError for what ours does not compute."""
    file = path / "config.json"
    content = read_json(file)
    fixed = {"positions": "rope", "normalization": "layer" if kind is GPT_NEOX else "rms", "bias": kind is GPT_NEOX}
    ours = overlay(
        ModelConfig(),
        fixed
        | {name: content[theirs] for theirs, name in _SIZES.items() if theirs in content}
        | {name: content[theirs] for theirs, name in _others(kind).items() if theirs in content}
        | {"qk_norm": kind in (APERTUS, QWEN3), "activation": _activation(kind, content)}
        | (_windows(content) if kind in _WINDOWED else {}),
        str(file),
    )
    expected = their_config(kind, ours)
    found = {name: content.get(name) for name in expected if name not in (*_ROPE, *_TRAINING)}
    if found.get("head_dim") is None and kind is not QWEN3:  # which has heads of 128 by default
        expected["head_dim"] = None
    found |= {"tie_word_embeddings": content.get("tie_word_embeddings", False)}
    for name, value in (found | _rope(content, kind)).items():
        if value != expected[name]:
            raise InputError(
                f"{file}: {name} is {value!r} where a {kind.name} of ours has {expected[name]!r}; such a model cannot "
                "be read exactly"
            )
    return replace(
        ours,
        n_kv_head=None if ours.n_kv_head == ours.n_head else ours.n_kv_head,
        n_inner=None if ours.n_inner == 4 * ours.n_embd else ours.n_inner,
    )


def _others(kind: ModelClass) -> dict[str, str]:
    names = {"layer_norm_eps" if kind is GPT_NEOX else "rms_norm_eps": "layer_norm_epsilon"}
    names |= {"tie_word_embeddings": "tie_embeddings", "intermediate_size": "n_inner"}
    if kind is not GPT_NEOX:
        names["num_key_value_heads"] = "n_kv_head"
    return names | ({"attention_bias": "bias"} if kind is ARCEE else {})


def _activation(kind: ModelClass, content: Mapping[str, Any]) -> str:
    """Name theirs as ours; one that is not ours is compared, and refused, with all else."""
    ours = {theirs: ours for ours, theirs in kind.activations.items()}
    return ours.get(str(content.get("hidden_act")), next(iter(kind.activations)))


def _windows(content: Mapping[str, Any]) -> dict[str, Any]:
    types = content.get("layer_types")
    if not content.get("use_sliding_window") or not isinstance(types, list):
        return {}
    marks = "".join("S" if kind == "sliding_attention" else "L" for kind in types)
    return {"sliding_window": content.get("sliding_window"), "window_pattern": marks}


def _rope(content: Mapping[str, Any], kind: ModelClass) -> dict[str, Any]:
    """Collect what a config says of rotary positions: that of transformers 4 in several keys, of 5 in one."""
    found = {name: content[name] for name in _ROPE if name in content and (kind is GPT_NEOX or name in _ROPE[:3])}
    if not isinstance(found.get("rope_parameters"), dict):
        theta = content.get("rotary_emb_base" if kind is GPT_NEOX else "rope_theta")
        share = {"partial_rotary_factor": content.get("rotary_pct")} if kind is GPT_NEOX else {}
        found["rope_parameters"] = {"rope_type": "default", "rope_theta": theta} | share
    return found
