"""The last stage by gigatoken, as long as it agrees with tiktoken (see gpt/text/fast.py)."""

import functools
from pathlib import Path
from typing import Any

from gpt.corpus.stages import Work
from gpt.corpus.writer import DISAGREEMENT, loaded_tokenizer, write_slice
from gpt.text.fast import Disagreement, FastEncoder, is_installed, knows
from gpt.text.tokenizer import Tokenizer


def fastest(tokenizer: Tokenizer) -> Work:
    """Choose the function that writes slices: by gigatoken, where it is installed and has such a vocabulary."""
    return write_slice_fast if is_installed() and knows(tokenizer) else write_slice


def write_slice_fast(place: Path, *arguments: Any) -> dict[str, Any]:
    """Write a slice as `write_slice` does, of the same arguments.

    Where gigatoken and tiktoken differ, the result has nothing but `DISAGREEMENT`, which says for which text.
    """
    *_, tokenizer, _ = arguments
    try:
        return write_slice(place, *arguments, encode=_encoder(tokenizer).encode_batch)
    except Disagreement as difference:
        return {DISAGREEMENT: str(difference)}


@functools.lru_cache(maxsize=1)
def _encoder(tokenizer: Path) -> FastEncoder:
    return FastEncoder(loaded_tokenizer(tokenizer))
