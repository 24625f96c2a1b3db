"""A model in Hugging Face's files with its own code beside the weights: what none of their classes computes, both ways.

The code is modeling_gpt.py, a file of ours that is copied as it is and that nothing here imports. Its weights have our
names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt.config_io import overlay
from gpt.errors import InputError
from gpt.files import read_json
from gpt.interop.classes import CODE, windows
from gpt.model.config import ModelConfig

CODE_FILE = "modeling_gpt.py"
_SAME = ("vocab_size", "context_length", "n_layer", "n_head", "n_kv_head", "n_embd", "positions", "normalization")
_SAME += ("layer_norm_epsilon", "activation", "bias", "dropout", "qk_norm", "logit_softcap", "ngram", "ngram_buckets")
_SAME += ("n_inner", "scale_by_inverse_layer")


def write_code(to: Path) -> None:
    """Write the code beside the weights."""
    source = Path(__file__).with_name(CODE_FILE).read_text(encoding="utf-8")
    (to / CODE_FILE).write_text(source, encoding="utf-8")


def their_config(config: ModelConfig) -> dict[str, Any]:
    """Say a model's shape as the code's config.json, and where transformers finds the code."""
    module = CODE_FILE.removesuffix(".py")
    classes = {"AutoConfig": f"{module}.GPTConfig", "AutoModelForCausalLM": f"{module}.{CODE.name}"}
    return {name: getattr(config, name) for name in _SAME} | {
        "value_embeddings": config.value_embeddings,  # not in _SAME: earlier exports have none
        "tie_word_embeddings": config.tie_embeddings,
        "windows": windows(config),
        "auto_map": classes,
    }


def their_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a model's weights: they have our names."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def is_ours(path: Path) -> bool:
    """Tell whether a directory holds a model that was written with its code."""
    return read_json(path / "config.json").get("model_type") == CODE.model_type


def read_config(path: Path) -> ModelConfig:
    """Read a config.json of the code's as ours. Raises InputError if it is not one that was written here."""
    file = path / "config.json"
    content = read_json(file)
    names = (*_SAME, "windows")
    if missing := [name for name in names if name not in content]:
        raise InputError(f"{file}: has no {missing[0]}; only what `with_code` wrote can be read")
    sizes = content["windows"]
    if not isinstance(sizes, list) or len({size for size in sizes if size is not None}) > 1:
        raise InputError(f"{file}: windows is {sizes!r}; it must list one size, or null, for each layer")
    ours = {name: content[name] for name in _SAME} | {"tie_embeddings": content.get("tie_word_embeddings", True)}
    ours["value_embeddings"] = content.get("value_embeddings", False)
    if any(sizes):
        ours["sliding_window"] = next(size for size in sizes if size is not None)
        ours["window_pattern"] = "".join("L" if size is None else "S" for size in sizes)
    return overlay(ModelConfig(), ours, str(file))
