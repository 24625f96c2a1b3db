"""Which classes of Hugging Face's compute a model of ours exactly: an allow-list for each.

A class lists the settings that it has a place for, and which of their values it computes. All other settings must be
as in GPT-2: what somebody adds later is refused until somebody has thought about it and entered it here.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from gpt.model.config import ModelConfig

Allowed = tuple[Any, ...] | Callable[[ModelConfig], bool]


def _any(config: ModelConfig) -> bool:
    return True


def _own_keys(config: ModelConfig) -> bool:
    return config.kv_dim == config.n_embd


def _other_inner_dim(config: ModelConfig) -> bool:
    return config.inner_dim != 4 * config.n_embd


def _sees_all(config: ModelConfig) -> bool:
    """Tell whether no layer has a window that matters."""
    return all(size is None for size in windows(config))


def _window_is_kept(config: ModelConfig) -> bool:
    """Tell whether no layer sees one token alone: of such, the cache of transformers keeps all, where it means none."""
    return 1 not in windows(config)


def windows(config: ModelConfig) -> list[int | None]:
    """Give each layer's window; None where it sees the whole context anyway."""
    sizes = (config.window_of(layer) for layer in range(config.n_layer))
    return [None if size is None or size >= config.context_length else size for size in sizes]


# Dropout is training's, and a beginning is over. What is a pattern without windows, and what are buckets without
# n-grams? The settings beside them decide.
_FREE = (
    "n_layer",
    "n_head",
    "n_embd",
    "context_length",
    "vocab_size",
    "layer_norm_epsilon",
    "tie_embeddings",
    "n_inner",
)
_FREE += ("dropout", "zero_init_residual", "window_pattern", "ngram_buckets")
_ALL: dict[str, Allowed] = dict.fromkeys(_FREE, _any) | {"n_kv_head": _own_keys, "sliding_window": _sees_all}
_ROTARY: dict[str, Allowed] = _ALL | {"positions": ("rope",), "n_kv_head": _any}


@dataclasses.dataclass(frozen=True, eq=False)
class ModelClass:
    """A class of transformers, and what it computes exactly."""

    name: str
    model_type: str
    computes: Mapping[str, Allowed]
    """By the names of settings: their values, or whether the class computes what a config says of them."""
    activations: Mapping[str, str]
    """Our names to theirs."""
    doubtful: Mapping[str, Allowed] = dataclasses.field(default_factory=dict)
    """Likewise, those for which some programs that run the class compute something else, or refuse it."""

    def departures(self, config: ModelConfig) -> list[str]:
        """List the settings of a model that the class has no place for."""
        gpt2, found = type(config)(), []
        for field in dataclasses.fields(config):
            if not _is_among(self._allowed(field.name, (getattr(gpt2, field.name),)), config, field.name):
                found.append(field.name)
        return _shown(config, found)

    def doubts(self, config: ModelConfig) -> list[str]:
        """List the settings of a model that transformers computes, and that other programs may ignore."""
        return _shown(config, [name for name, values in self.doubtful.items() if _is_among(values, config, name)])

    def _allowed(self, name: str, default: Allowed) -> Allowed:
        return tuple(self.activations) if name == "activation" else self.computes.get(name, default)


def _is_among(values: Allowed, config: ModelConfig, name: str) -> bool:
    return getattr(config, name) in values if isinstance(values, tuple) else values(config)


def _shown(config: ModelConfig, names: list[str]) -> list[str]:
    return [f"model.{name} {getattr(config, name)}" for name in names]


_ACTIVATIONS = {"gelu": "gelu_pytorch_tanh", "gelu-erf": "gelu", "relu": "relu", "relu-squared": "relu2"}
_EARLY = _ACTIVATIONS | {"gelu": "gelu_new"}  # the name by which all know it
_SCALED: dict[str, Allowed] = {"scale_by_inverse_layer": _any}
_RMS: dict[str, Allowed] = _ROTARY | {"normalization": ("rms",), "bias": (False,)}
_QK_NORM: dict[str, Allowed] = {"qk_norm": (True,)}
_WINDOWS: dict[str, Allowed] = {"sliding_window": _window_is_kept}

GPT2 = ModelClass(
    "GPT2LMHeadModel",
    "gpt2",
    _ALL | _SCALED | {"bias": _any},
    _EARLY,
    {
        "activation": ("gelu-erf", "relu", "relu-squared"),
        "scale_by_inverse_layer": (True,),
        "n_inner": _other_inner_dim,  # llama.cpp's converter writes 4 × n_embd
    },
)
GPT_NEOX = ModelClass(
    "GPTNeoXForCausalLM",
    "gpt_neox",
    _ROTARY | {"n_kv_head": _own_keys, "bias": _any},
    _EARLY,
    {"activation": ("relu", "relu-squared")},
)
ARCEE = ModelClass(
    "ArceeForCausalLM",
    "arcee",
    _RMS | {"bias": _any},
    _ACTIVATIONS,
    {"activation": ("gelu", "gelu-erf", "relu"), "bias": (True,)},  # llama.cpp has no biases there
)
APERTUS = ModelClass("ApertusForCausalLM", "apertus", _RMS | _QK_NORM, _ACTIVATIONS)
# Their MLP has a gate: act(gate·x) * (up·x). With relu, and one matrix for both, that is relu-squared, bit for bit.
_GATED, _NOT_SILU = {"relu-squared": "relu"}, {"activation": ("relu-squared",)}
QWEN2 = ModelClass("Qwen2ForCausalLM", "qwen2", _RMS | _WINDOWS, _GATED, _NOT_SILU)
QWEN3 = ModelClass("Qwen3ForCausalLM", "qwen3", _RMS | _WINDOWS | _QK_NORM, _GATED, _NOT_SILU)
CLASSES = (GPT2, GPT_NEOX, ARCEE, APERTUS, QWEN2, QWEN3)
"""By preference: Apertus before Qwen3, as a program that ignores its activation then fails, and talks no nonsense."""

CODE = ModelClass(  # modeling_gpt.py, beside the weights
    "GPTForCausalLM",
    "gpt",
    _ALL
    | _SCALED
    | {"positions": ("learned", "rope"), "normalization": ("layer", "rms")}
    | dict.fromkeys(
        ("qk_norm", "bias", "logit_softcap", "n_kv_head", "sliding_window", "ngram", "value_embeddings"), _any
    ),
    {name: name for name in _ACTIVATIONS},
)


def class_of(config: ModelConfig) -> ModelClass | None:
    """Choose the class that computes a model exactly; None where there is none."""
    return next((one for one in CLASSES if not one.departures(config)), None)


def nearest(config: ModelConfig) -> ModelClass:
    """Choose the class that lacks least of a model."""
    return min(CLASSES, key=lambda one: len(one.departures(config)))
