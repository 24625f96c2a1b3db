"""Train a GPT-2 on your own text, sample from it, fine-tune it.

Here is what a program may import; README.md has the order in which to read. Each name is loaded when it is first asked
for, so that a program can hear of Ctrl-C before the seconds that this takes.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt.apps.notebook import Run, load_run
    from gpt.config import TrainConfig
    from gpt.dataset.dataset import Dataset, open_dataset
    from gpt.dataset.loader import Batch, Loader
    from gpt.errors import InputError
    from gpt.generation.completion import Completion, TextEngine
    from gpt.generation.engine import Engine, Token, generate
    from gpt.generation.sampling import SamplingConfig
    from gpt.generation.scheduler import Request
    from gpt.model.config import ModelConfig
    from gpt.model.transformer import GPT
    from gpt.presets import preset
    from gpt.text.tokenizer import Tokenizer
    from gpt.training.start import fit_to_dataset
    from gpt.training.state import TrainState
    from gpt.training.trainer import Trainer

_HOMES = {
    "gpt.config": ("TrainConfig",),
    "gpt.presets": ("preset",),
    "gpt.dataset.dataset": ("Dataset", "open_dataset"),
    "gpt.dataset.loader": ("Batch", "Loader"),
    "gpt.training.start": ("fit_to_dataset",),
    "gpt.training.state": ("TrainState",),
    "gpt.training.trainer": ("Trainer",),
    "gpt.model.config": ("ModelConfig",),
    "gpt.generation.sampling": ("SamplingConfig",),
    "gpt.errors": ("InputError",),
    "gpt.model.transformer": ("GPT",),
    "gpt.text.tokenizer": ("Tokenizer",),
    "gpt.generation.scheduler": ("Request",),
    "gpt.generation.engine": ("Engine", "Token", "generate"),
    "gpt.apps.notebook": ("Run", "load_run"),
    "gpt.generation.completion": ("Completion", "TextEngine"),
}

__version__ = "0.1.0"
__all__ = [
    "GPT",
    "Batch",
    "Completion",
    "Dataset",
    "Engine",
    "InputError",
    "Loader",
    "ModelConfig",
    "Request",
    "Run",
    "SamplingConfig",
    "TextEngine",
    "Token",
    "Tokenizer",
    "TrainConfig",
    "TrainState",
    "Trainer",
    "fit_to_dataset",
    "generate",
    "load_run",
    "open_dataset",
    "preset",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'gpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
