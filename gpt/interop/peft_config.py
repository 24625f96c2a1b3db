"""Which layers PEFT adapts, and how, by what its adapter_config.json says.

What goes beyond LoRA of linear layers is refused by its name, and so is what is not known.
"""

import functools
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import regex

from gpt.errors import InputError

ALL_LINEAR = "all-linear"
DEFAULT_TARGETS = ["c_attn"]  # PEFT's for GPT-2, where a config names none
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")  # those that leave the base as it is
OTHER_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")  # beginnings of those that do not
MOST_SECONDS, LONGEST_PATTERN, MOST_TIMES = 3.0, 10_000, 1_000  # of regular expressions
TASKS = (None, "CAUSAL_LM", "FEATURE_EXTRACTION")

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


def require_plain(file: Path, config: dict[str, Any]) -> None:
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
    start = start.lower() if isinstance(start, str) else start
    if start not in PLAIN_STARTS:
        changed = isinstance(start, str) and start.startswith(OTHER_STARTS)
        raise InputError(
            f"{file}: init_lora_weights is {_shown(start)}, "
            + (
                "by which the base itself was changed: convert the adapter with PEFT (save_pretrained's "
                "path_initial_model_for_weight_conversion), and read what that writes"
                if changed
                else "which is not known here: it may have changed the base itself"
            )
        )


class Rules(NamedTuple):
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
    until: float
    """Processor time of this process, by which all expressions must have been matched."""

    @classmethod
    def read(cls, file: Path, config: dict[str, Any]) -> "Rules":
        """Take them from a config. Raises InputError for what PEFT would not take."""
        targets = _names(file, config, "target_modules", DEFAULT_TARGETS)
        ranks, alphas = (entry(file, config, key, dict, {}) for key in ("rank_pattern", "alpha_pattern"))
        layers = entry(file, config, "layers_to_transform", int | list, None)
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
            {name: _rank(file, f"rank_pattern {name}", rank) for name, rank in ranks.items()},
            {name: _alpha(file, f"alpha_pattern {name}", alpha) for name, alpha in alphas.items()},
            entry(file, config, "use_rslora", bool, False),
            time.process_time() + MOST_SECONDS,
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
            return self._match(names, name) is not None
        return any(name == end or name.endswith(f".{end}") for end in names)

    def _ends(self, pattern: str, name: str) -> bool:
        return self._match(rf"(.*\.)?({pattern})$", name) is not None

    def _in_layers(self, name: str) -> bool:
        if self.layers is None:
            return True
        patterns = [rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\..*" for pattern in self.layer_lists]
        matches = (self._match(p, name) for p in patterns or [r".*?\.[^.]*\.(?P<layer>\d+)\..*"])
        found = next((match for match in matches if match), None)
        return found is not None and int(found["layer"]) in self.layers

    def _match(self, pattern: str, name: str) -> Any:
        """Match a whole name. Raises InputError for what is no expression, or takes too long."""
        try:
            return _expression(pattern).fullmatch(name, timeout=max(1e-3, self.until - time.process_time()))
        except TimeoutError:
            fault = f"takes more than {MOST_SECONDS:g} seconds to match; name the layers by a simpler one, or by a list"
        except ValueError as error:
            fault = str(error)
        except (re.error, regex.error, OverflowError, RecursionError) as error:
            fault = f"is no regular expression ({error})"
        raise InputError(f"{self.file}: {_shown(pattern)} {fault}")


@functools.cache
def _expression(pattern: str) -> Any:
    """Compile an expression of `re`, as PEFT has them, by `regex`, which can give up.

    Raises ValueError, which says why, for what could not be bounded; and as these two for what is none.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"has {len(pattern):,} letters, and an expression at most {LONGEST_PATTERN:,}")
    re.compile(pattern)
    if re.search(r"\[\[:|\{(?!\d+,?\d*\}|,\d+\})", pattern):
        raise ValueError("has [[: or { otherwise than as a number of times, which is not read here")
    times = math.prod(max(1, *map(int, re.findall(r"\d+", counts))) for counts in re.findall(r"\{[\d,]+\}", pattern))
    if times > MOST_TIMES:  # which `regex` would write out
        raise ValueError(f"repeats something {times:,} times, and {MOST_TIMES:,} is the most; write * or +")
    return regex.compile(pattern)


def entry(file: Path, config: Mapping[str, Any], key: str, kind: Any, default: Any) -> Any:
    """Give an entry of a config, or the default where it is null or not there. Raises InputError for another kind."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise InputError(f"{file}: {key} is {_shown(value)}, which PEFT does not write there")
    return value


def _names(file: Path, config: Mapping[str, Any], key: str, default: list[str]) -> str | list[str]:
    names = entry(file, config, key, str | list, default)
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{file}: {key} is {_shown(names)}; it must be names of layers, or a regular expression")
    return names


LARGEST_RANK, LARGEST_ALPHA = 1 << 20, 1e30


def _rank(file: Path, name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= LARGEST_RANK:
        raise InputError(f"{file}: {name} is {_shown(value)}; a rank is a whole number from 1 to {LARGEST_RANK:,}")
    return value


def _alpha(file: Path, name: str, value: Any) -> float:
    if type(value) not in (int, float) or not -LARGEST_ALPHA < value < LARGEST_ALPHA:
        raise InputError(f"{file}: {name} is {_shown(value)}; it must be a number")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
