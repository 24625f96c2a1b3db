"""The weights of a Hugging Face model: model.safetensors, or several such files with an index. No pickled one is read.

Names of weights are those of GPT2LMHeadModel, without the prefix that they have beside a head.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from gpt.errors import InputError
from gpt.files import inside, read_json
from gpt.interop.pickled import conversion
from gpt.log import log

PREFIX, HEAD, EMBEDDING = "transformer.", "lm_head.weight", "wte.weight"
PICKLED, WEIGHTS = "pytorch_model*.bin", "model.safetensors"


def own_head(path: Path) -> bool:
    """Tell whether the weights have a head that differs from the embedding, and warn of it.

    Such is left by merging an adapter of PEFT's on one of the two alone. transformers 5 unties them as well.
    """
    if not any(path.glob("*.safetensors")):
        return False
    found = {}
    for file in _weight_files(path):
        with _opened(file) as stored:
            names = {name.removeprefix(PREFIX): name for name in stored.keys()}  # noqa: SIM118
            found |= {name: (file, names[name]) for name in (HEAD, EMBEDDING) if name in names}
    if len(found) < 2:
        return False
    head, embedding = (_tensor(*found[name]).float() for name in (HEAD, EMBEDDING))
    if torch.equal(head, embedding):
        return False
    log.warning_once(
        f"{path}: {HEAD} differs from {EMBEDDING}, although its config.json does not say tie_word_embeddings false; "
        "read as a head of its own, as transformers 5 does"
    )
    return True


def _tensor(file: Path, name: str) -> Tensor:
    with _opened(file) as stored:
        return stored.get_tensor(name)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all weights, by their names without the prefix. Raises InputError for what is missing or damaged."""
    tensors = {}
    for file in _weight_files(path):
        with _opened(file) as stored:
            tensors |= {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    plain = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    if len(plain) < len(tensors):
        twice = next(name for name in tensors if f"{PREFIX}{name}" in tensors)
        raise InputError(f"{path}: has {twice} twice, with the prefix {PREFIX} and without; get the model again")
    return plain


@contextlib.contextmanager
def _opened(file: Path) -> Generator[Any]:
    """Open a file of weights. Raises InputError if it is none."""
    try:
        with safetensors.safe_open(file, framework="pt") as stored:
            yield stored
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{file}: cannot be read as safetensors ({error})") from None


def _weight_files(path: Path) -> list[Path]:
    """List the files of the weights. Raises InputError, which says what to do, if one is missing, or holds less."""
    whole, index = path / WEIGHTS, path / f"{WEIGHTS}.index.json"
    if whole.exists() or not index.exists():  # transformers prefers the whole one as well
        if not whole.exists():
            raise InputError(f"{whole}: is missing; {_without_weights(path)}")
        return [inside(path, WEIGHTS)]
    files = {}
    for name, shard in _weight_map(index).items():
        files.setdefault(inside(path, shard), set()).add(name)
    for file, names in files.items():
        if not file.exists():
            raise InputError(f"{file}: is missing, with {len(names)} weights that {index.name} names; get it again")
        with _opened(file) as stored:
            if lost := sorted(names - set(stored.keys())):
                raise InputError(f"{file}: has no {lost[0]}, which {index.name} says is there; get both again")
    return [*files]


def _weight_map(index: Path) -> dict[str, str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index}: has no weight_map from names of weights to names of files")
    return names


def _without_weights(path: Path) -> str:
    """Say what to do where there are no safetensors; of a model on the hub, the pickled ones are not downloaded."""
    if others := sorted(file.name for file in path.glob("*.safetensors")):
        return f"there is {others[0]}, and no {WEIGHTS}.index.json, which would name it; get the model again"
    only = "only safetensors are read, as what is pickled (.bin) can run code"
    if any(path.glob(PICKLED)):
        return f"{only}: convert it by: {conversion(path, PICKLED, WEIGHTS)}"
    if path.parent.name != "snapshots":
        return f"{only}: name a directory that has some"
    repository = path.parent.parent.name.removeprefix("models--").replace("--", "/")
    to = repository.rpartition("/")[2]
    return (
        f"{only}: if {repository} has such, get and convert it by: hf download {repository} --revision {path.name} "
        f"--local-dir {to} && {conversion(to, PICKLED, WEIGHTS)}; then name {to}"
    )
