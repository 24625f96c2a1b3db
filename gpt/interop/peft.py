"""Adapters in PEFT's files, adapter_config.json and adapter_model.safetensors, read for our GPT-2.

PEFT names layers as GPT2LMHeadModel does. Which of them it adapts, by which rank and scale, its config says in several
ways; weights must be there for just these. What it can do beyond LoRA of linear layers is refused by its name.
"""

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from gpt.errors import InputError
from gpt.files import inside, read_json
from gpt.interop.huggingface import departures, linear_layers
from gpt.model.config import ModelConfig
from gpt.model.lora import Adapter, LayerAdapter

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
ALL_LINEAR = "all-linear"
DEFAULT_TARGETS = ["c_attn"]  # PEFT's for GPT-2, where a config names none
EMBEDDINGS, HEAD = ("wte", "wpe"), "lm_head"
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # those that leave the base as it is
TASKS = (None, "CAUSAL_LM", "FEATURE_EXTRACTION")

CONVERT = (  # of weights that are pickled; PyTorch itself refuses code in them
    "python -c 'import sys, torch; from safetensors.torch import save_file; "
    'w = torch.load(sys.argv[1] + "/adapter_model.bin", map_location="cpu", weights_only=True); '
    "save_file({k: v.clone().contiguous() for k, v in w.items()}, "
    'sys.argv[1] + "/adapter_model.safetensors", {"format": "pt"})\''
)

_READ = {"peft_type", "task_type", "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "bias"}
_READ |= {"layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "init_lora_weights"}
_WITHOUT_EFFECT = {"auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
_WITHOUT_EFFECT |= {"lora_dropout", "fan_in_fan_out", "runtime_config", "ensure_weight_tying"}
_WITHOUT_EFFECT |= {"megatron_core", "qalora_group_size"}  # parts of what is refused
_WITHOUT_EFFECT |= {"loftq_config", "eva_config", "corda_config", "lora_ga_config"}  # of `init_lora_weights`
_CALLED = {
    "use_dora": "DoRA",
    "modules_to_save": "whole modules that were trained",
    "trainable_token_indices": "tokens that were trained",
    "target_parameters": "adapters of single parameters",
    "lora_bias": "adapters with a bias",
    "megatron_config": "Megatron",
    "layer_replication": "layers that stand twice",
    "alora_invocation_tokens": "aLoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
}
_KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")


class Base(NamedTuple):
    """What a PEFT adapter was trained on, by its own word."""

    name: str | None
    revision: str | None

    @property
    def source(self) -> str | None:
        """Name it as `load_run` takes it: a directory, or ID@REVISION."""
        return f"{self.name}@{self.revision}" if self.name and self.revision else self.name


def is_adapter(path: Path) -> bool:
    """Tell whether a directory holds an adapter of PEFT's."""
    return (path / CONFIG).is_file()


def base_of(path: Path) -> Base:
    """Read on what an adapter was trained. Raises InputError for a config that cannot be read."""
    config = read_json(path / CONFIG, "PEFT's config of an adapter")
    return Base(*(_entry(path / CONFIG, config, key, str, None) for key in ("base_model_name_or_path", "revision")))


def read_adapter(path: Path, model: ModelConfig) -> Adapter:
    """Read the adapter in a directory of PEFT's, in float32, for a model of ours.

    Raises InputError, with the name of what is wrong: the model is no GPT-2, or of another depth; the adapter does what
    ours cannot; its weights are missing, pickled or not finite, or are not those that its config says.
    """
    if found := departures(model):
        raise InputError(f"{path}: is an adapter of PEFT's, which are for the exact GPT-2; this has {', '.join(found)}")
    file = path / CONFIG
    config = read_json(file, "PEFT's config of an adapter")
    _require_plain(file, config)
    tensors = _read_tensors(path)
    prefix = "" if tensors and all(layer.startswith("h.") for layer in tensors) else "transformer."  # GPT2Model's
    ours = {f"{prefix}{theirs}": our_name for theirs, our_name in linear_layers(model.n_layer)}
    rules = _Rules.read(file, config)
    for name in (*(prefix + embedding for embedding in EMBEDDINGS), HEAD):
        if rules.adapts(name, linear=False):
            raise InputError(f"{file}: target_modules has {name}: adapters of embeddings or the head cannot be used")
    wanted = [name for name in ours if rules.adapts(name)]
    _require_same(path, wanted, tensors, ours)
    layers = {}
    for name in wanted:
        a, b = (tensors[name][part] for part in "AB")
        rank, scale = rules.rank_and_scale(name)
        if a.shape[0] != rank or b.shape[1] != rank:
            raise InputError(
                f"{path}: {name} has weights of rank {a.shape[0]} and {b.shape[1]}; its {CONFIG} means {rank}"
            )
        layers[ours[name]] = LayerAdapter(a, b, scale)
    return Adapter(layers)


def _require_same(path: Path, wanted: list[str], there: Iterable[str], known: Iterable[str]) -> None:
    """Raise InputError unless the layers that the config names are those that there are weights for."""
    for name in there:
        if name not in known:
            raise InputError(f"{path}: adapts {name}, and the base has no such linear layer: it is for another model")
    if not wanted:
        raise InputError(f"{path / CONFIG}: target_modules names no linear layer of GPT-2")
    if missing := sorted(set(wanted) - set(there)):
        raise InputError(f"{path}: its {CONFIG} adapts {missing[0]}, and {WEIGHTS} has no lora_A and lora_B for it")
    if more := sorted(set(there) - set(wanted)):
        raise InputError(f"{path}: {WEIGHTS} has weights for {more[0]}, which its {CONFIG} does not adapt")


# ---- the config ----


def _require_plain(file: Path, config: dict[str, Any]) -> None:
    """Raise InputError, which names it, for all that is not LoRA of linear layers."""
    for key, value in config.items():
        if key in _READ | _WITHOUT_EFFECT or value in (None, False, [], {}):
            continue
        what = f": {_CALLED[key]} cannot be used here" if key in _CALLED else ", which is not known here"
        raise InputError(f"{file}: has {key} {_shown(value)}{what}; only LoRA of linear layers is read")
    allowed: dict[str, tuple[Any, ...]] = {"peft_type": ("LORA",), "task_type": TASKS, "bias": ("none", None)}
    for key, values in allowed.items():
        value = config.get(key, "none" if key == "bias" else None)
        if value not in values:
            raise InputError(f"{file}: {key} is {_shown(value)}, and only {values[0] or values[1]} can be read")
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise InputError(
            f"{file}: init_lora_weights is {_shown(start)}, by which the base itself was changed: convert the adapter "
            "with PEFT (save_pretrained's path_initial_model_for_weight_conversion), and read what that writes"
        )


class _Rules(NamedTuple):
    """Which layers are adapted, and how, as PEFT decides it by their names."""

    file: Path
    targets: str | list[str]
    excluded: str | list[str]
    layers: list[int] | None
    layer_lists: list[str]
    rank: int
    alpha: float
    ranks: dict[str, int]
    alphas: dict[str, float]
    rank_stabilized: bool

    @classmethod
    def read(cls, file: Path, config: dict[str, Any]) -> "_Rules":
        targets = _names(file, config, "target_modules", DEFAULT_TARGETS)
        layers = _entry(file, config, "layers_to_transform", int | list, None)
        lists = _names(file, config, "layers_pattern", [])
        layers = [layers] if isinstance(layers, int) else layers or None
        if not all(type(layer) is int for layer in layers or []):
            raise InputError(f"{file}: layers_to_transform is {layers}; it must be numbers of layers")
        if isinstance(targets, str) and (layers or lists):
            raise InputError(f"{file}: layers_to_transform and layers_pattern cannot go with a regular expression")
        if lists and not layers:
            raise InputError(f"{file}: layers_pattern needs layers_to_transform")
        return cls(
            file,
            targets,
            _names(file, config, "exclude_modules", []),
            layers,
            [lists] if isinstance(lists, str) else lists,
            _rank(file, "r", config.get("r", 8)),
            _alpha(file, "lora_alpha", config.get("lora_alpha", 8)),
            {k: _rank(file, f"rank_pattern {k}", v) for k, v in _mapping(file, config, "rank_pattern").items()},
            {k: _alpha(file, f"alpha_pattern {k}", v) for k, v in _mapping(file, config, "alpha_pattern").items()},
            _entry(file, config, "use_rslora", bool, False),
        )

    def adapts(self, name: str, linear: bool = True) -> bool:
        """Tell whether a layer is adapted: lists name ends of names, strings are expressions for whole ones."""
        if self.excluded and self._named(self.excluded, name):
            return False
        if isinstance(self.targets, str):
            return linear if self.targets.lower() == ALL_LINEAR else self._named(self.targets, name)
        return name in self.targets or (self._named(self.targets, name) and self._in_layers(name))

    def rank_and_scale(self, name: str) -> tuple[int, float]:
        """Give the rank of a layer's adapter, and what it is multiplied by: the first pattern that fits decides."""
        rank = next((r for pattern, r in self.ranks.items() if self._ends(pattern, name)), self.rank)
        alpha = next((a for pattern, a in self.alphas.items() if self._ends(pattern, name)), self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def _named(self, names: str | list[str], name: str) -> bool:
        if isinstance(names, str):
            return self._match(re.fullmatch, names, name) is not None
        return any(name == end or name.endswith(f".{end}") for end in names)

    def _ends(self, pattern: str, name: str) -> bool:
        return self._match(re.match, rf"(.*\.)?({pattern})$", name) is not None

    def _in_layers(self, name: str) -> bool:
        if self.layers is None:
            return True
        patterns = [rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\." for pattern in self.layer_lists]
        matches = (self._match(re.match, p, name) for p in patterns or [r".*?\.[^.]*\.(?P<layer>\d+)\."])
        found = next((match for match in matches if match), None)
        return found is not None and int(found["layer"]) in self.layers

    def _match(self, how: Any, pattern: str, name: str) -> re.Match[str] | None:
        try:
            return how(pattern, name)
        except re.error as error:
            raise InputError(f"{self.file}: {pattern!r} is no regular expression ({error})") from None


def _entry(file: Path, config: Mapping[str, Any], key: str, kind: Any, default: Any) -> Any:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise InputError(f"{file}: {key} is {_shown(value)}, which PEFT does not write there")
    return value


def _names(file: Path, config: Mapping[str, Any], key: str, default: list[str]) -> str | list[str]:
    names = _entry(file, config, key, str | list, default)
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{file}: {key} is {_shown(names)}; it must be names of layers, or a regular expression")
    return names


def _mapping(file: Path, config: Mapping[str, Any], key: str) -> dict[str, Any]:
    return _entry(file, config, key, dict, {})


def _rank(file: Path, name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise InputError(f"{file}: {name} is {_shown(value)}; a rank is a whole number from 1 on")
    return value


def _alpha(file: Path, name: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InputError(f"{file}: {name} is {_shown(value)}; it must be a number")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


# ---- the weights ----


def _read_tensors(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read A and B of each layer, in float32, by their names in PEFT's model."""
    file = inside(path, WEIGHTS)
    if not file.exists():
        pickled = (path / PICKLED).exists()
        advice = (
            f": only {PICKLED} is, which is pickled; convert it by: {CONVERT} {shlex.quote(str(path))}"
            if pickled
            else ""
        )
        raise InputError(f"{file}: is missing{advice}")
    try:
        tensors = load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{file}: cannot be read as safetensors ({error})") from None
    layers: dict[str, dict[str, Tensor]] = {}
    adapters = set()
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise InputError(f"{file}: has {key}, which is no lora_A or lora_B of a linear layer; only these are read")
        if tensor.dim() != 2 or not tensor.is_floating_point() or not torch.isfinite(tensor.float()).all():
            raise InputError(f"{file}: {key} is no matrix of finite numbers")
        adapters.add(match["adapter"])
        layers.setdefault(match["layer"], {})[match["part"]] = tensor.float()
    if len(adapters) > 1:
        raise InputError(f"{file}: has several adapters, {', '.join(sorted(map(str, adapters)))}; write one to a file")
    for layer, parts in layers.items():
        if parts.keys() != {"A", "B"}:
            raise InputError(f"{file}: has only lora_{next(iter(parts))} for {layer}")
    return layers
