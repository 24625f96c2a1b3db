"""Adapters in PEFT's files, adapter_config.json and adapter_model.safetensors, read for our GPT-2.

PEFT names layers as GPT2LMHeadModel does. Which of them it adapts, its config says, and for just these there must be
weights.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from gpt.errors import InputError
from gpt.files import inside, read_json
from gpt.interop.classes import GPT2
from gpt.interop.huggingface import linear_layers
from gpt.interop.peft_config import Rules, entry, require_plain
from gpt.interop.pickled import conversion
from gpt.model.config import ModelConfig
from gpt.model.lora import Adapter, LayerAdapter

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
EMBEDDINGS, HEAD = ("wte", "wpe"), "lm_head"

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
    return Base(*(entry(path / CONFIG, config, key, str, None) for key in ("base_model_name_or_path", "revision")))


def read_adapter(path: Path, model: ModelConfig) -> Adapter:
    """Read the adapter in a directory of PEFT's, in float32, for a model of ours.

    Raises InputError, with the name of what is wrong: the model is no GPT-2, or of another depth; the adapter does what
    ours cannot; its weights are missing, pickled or not finite, or are not those that its config says.
    """
    if found := GPT2.departures(model):
        raise InputError(f"{path}: is an adapter of PEFT's, which are for the exact GPT-2; this has {', '.join(found)}")
    file = path / CONFIG
    config = read_json(file, "PEFT's config of an adapter")
    require_plain(file, config)
    tensors = _read_tensors(path)
    prefix = "" if tensors and all(layer.startswith("h.") for layer in tensors) else "transformer."  # GPT2Model's
    ours = {f"{prefix}{theirs}": our_name for theirs, our_name in linear_layers(model.n_layer)}
    rules = Rules.read(file, config)
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


def _read_tensors(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read A and B of each layer, in float32, by their names in PEFT's model."""
    file = inside(path, WEIGHTS)
    if not file.exists():
        pickled = (path / PICKLED).exists()
        advice = (
            f": only {PICKLED} is, which is pickled; convert it by: {conversion(path, PICKLED, WEIGHTS)}"
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
