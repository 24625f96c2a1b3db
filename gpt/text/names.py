"""Tokenizers by name, as options give them."""

import contextlib
from pathlib import Path

from gpt.errors import InputError

AUTO = "auto"  # in place of a tokenizer's name: one that suits the size of the text


LONGEST_NUMBER = 9  # digits of bpe:VOCAB


def parse_tokenizer(name: str) -> tuple[str, int | None]:
    """(kind, vocabulary) of 'gpt2', 'bytes', 'char', 'auto', 'bpe:VOCAB', or 'file' for a path.

    Raises InputError for anything else.
    """
    kind, colon, number = name.partition(":")
    if kind == "bpe" and number.isdecimal() and len(number) <= LONGEST_NUMBER:
        return "bpe", int(number)
    if kind in ("gpt2", "bytes", "char", AUTO) and not colon:
        return kind, None
    with contextlib.suppress(OSError):  # what is too long to be a path
        if name and Path(name).exists():
            return "file", None
    raise InputError(
        f"`tokenizer` {name}: choose gpt2, bytes, char, bpe:VOCAB with a number, such as bpe:4096, auto, "
        "or a run or dataset directory whose tokenizer to use"
    )
