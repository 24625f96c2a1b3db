"""GPT-2, exactly: train it on your own text, sample from it, fine-tune it.

In reading order: what a model is, how text becomes ids, how a run is loaded, how text is made.
"""

from gpt.config import Config, ModelConfig, SamplingConfig
from gpt.errors import InputError
from gpt.generation.engine import Engine, generate
from gpt.generation.request import Request, Token
from gpt.model.transformer import GPT
from gpt.run import LoadedRun, load_run
from gpt.tokens.tokenizer import Tokenizer

__all__ = [
    "GPT",
    "Config",
    "Engine",
    "InputError",
    "LoadedRun",
    "ModelConfig",
    "Request",
    "SamplingConfig",
    "Token",
    "Tokenizer",
    "generate",
    "load_run",
]
