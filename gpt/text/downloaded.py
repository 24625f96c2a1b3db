"""tiktoken's encodings, GPT-2's vocabulary among them, which it downloads once."""

import tiktoken

from gpt.errors import InputError


def tiktoken_encoding(name: str) -> tiktoken.Encoding:
    """Load one of tiktoken's encodings. Raise InputError if tiktoken can neither find nor download it."""
    try:
        return tiktoken.get_encoding(name)
    except Exception as error:  # tiktoken lets through whatever its download raises
        whose = "GPT-2's vocabulary" if name == "gpt2" else f"the vocabulary {name}"
        raise InputError(
            f"tiktoken could not get {whose} ({type(error).__name__}): it is downloaded once. Without a "
            "network, set TIKTOKEN_CACHE_DIR to a directory that holds tiktoken's cached files, copied from a "
            "machine that has them, or choose another tokenizer: bytes, char or bpe:4096"
        ) from error
