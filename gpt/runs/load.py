"""A trained model, ready to use: from a run, or from Hugging Face's files."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gpt.choices import WeightDtype
from gpt.device import choose_weight_dtype
from gpt.errors import InputError
from gpt.interop import huggingface, huggingface_tokenizer
from gpt.log import log
from gpt.model.config import ModelConfig
from gpt.model.prepack import can_prepack, keeps_bits, prepack
from gpt.model.transformer import GPT, empty_model
from gpt.runs import checkpoint
from gpt.runs.directory import TOKENIZER, is_run, nearest_run, read_config
from gpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, ready to use, and where it came from."""

    model: GPT
    source: str
    """In words: the run and step, or the Hugging Face directory."""
    path: Path
    """The run or Hugging Face directory."""
    state: dict[str, Any]
    """The checkpoint's state.json; empty for a Hugging Face model."""

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Loaded when first asked for. Raises InputError if there is none."""
        return load_tokenizer(self.path)


def load_run(
    source: str | Path,
    device: str = "cpu",
    dtype: WeightDtype = "float32",
    prepacked: bool = False,
) -> LoadedRun:
    """A run directory's best checkpoint, or a Hugging Face GPT-2 (directory or hub id), in evaluation mode.

    Raises InputError if there is no such run or model, or nothing of it can be used, or not in that dtype there.
    Damaged checkpoints are passed over with a warning. `prepacked` makes it fast on a CPU, where a model in float32 can
    then only be evaluated and generate; int8 always is; a warning says where a sample then depends on those beside it.
    """
    if dtype == "int8" and device != "cpu":
        raise InputError(f"`dtype` int8: is for the CPU, and this is {device}; choose bfloat16, or `device` cpu")
    path = Path(source)
    if is_run(path):
        best = checkpoint.load_best(path)
        config, weights, state = read_config(path).model, best.model, best.state
        name = f"{path}, step {best.state['step']:,}"
    else:
        path = _find(source)
        config = huggingface.read_config(path)
        weights, state = huggingface.read_weights(path, config), {}
        name = huggingface.pinned(str(source), path)
    try:
        if config.n_layer > len(weights):  # a file can ask for more modules than memory holds
            raise RuntimeError(f"{config.n_layer} layers, and {len(weights)} weights")
        model = empty_model(config)
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise InputError(f"{name}: its weights do not fit its config.json: {error}") from None
    kind = choose_weight_dtype(dtype, device)
    if kind != torch.int8:
        model.to(device, kind)
    if kind == torch.int8 or (prepacked and can_prepack(model)):
        prepack(model, kind)
    if prepacked and device == "cpu" and kind != torch.bfloat16 and not keeps_bits(model):
        log.warning(f"{name}: on this processor, the last bits of a sample can depend on what is sampled beside it")
    model.requires_grad_(not prepacked)
    return LoadedRun(model.eval(), name, path, state)


def model_config(source: str | Path) -> ModelConfig:
    """The shape of the model that `load_run` would load, without its weights."""
    path = Path(source)
    return read_config(path).model if is_run(path) else huggingface.read_config(_find(source))


def pinned(source: str) -> str:
    """The name of a run, or of a Hugging Face model, that stays the same: with its commit if it is on the hub."""
    return source if Path(source).is_dir() else huggingface.pinned(source, _find(source))


def _find(source: str | Path) -> Path:
    """The directory of a Hugging Face model, as `huggingface.find`; a run's bare name is not looked for on the hub.

    Raises InputError, with the run that may have been meant.
    """
    name = Path(str(source).partition("@")[0])
    bare = name.parent == Path() and not name.exists()
    if bare and is_run(Path("runs") / name):
        raise InputError(f"{source}: there is no such directory; did you mean {Path('runs') / name}?")
    try:
        return huggingface.find(str(source))
    except InputError as error:
        if bare and (near := nearest_run(name)):
            raise InputError(f"{error}; did you mean {near}?") from error
        raise


def load_tokenizer(source: str | Path) -> Tokenizer:
    """The tokenizer of a run or of a Hugging Face model. Raises InputError if there is none."""
    path = Path(source)
    if is_run(path):
        return Tokenizer.load(path / TOKENIZER)
    path = _find(source)
    return huggingface_tokenizer.read_tokenizer(path, huggingface.read_config(path).vocab_size)
