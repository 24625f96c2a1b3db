"""Encoding by gigatoken, of the extra `fast`: some ten times as fast as tiktoken, and used only while both agree.

1. First each token of the vocabulary is encoded by both, as a text of its own.
2. Of each batch of texts, so does its beginning; and of all other text, the ids stand for as many bytes as it has.
3. A part of over a kilobyte without a space, such as Chinese or a run of one letter, is left to tiktoken: such are the
   texts on which fast encoders went wrong, and those on which they gain little.

One difference raises `Disagreement`: what was encoded until then is not to be used.
"""

import base64
import contextlib
import importlib.util
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from gpt.errors import InputError
from gpt.text.tokenizer import GPT2_PATTERN, Tokenizer, parts_of

INSTALL = "pip install 'gpt[fast]'"
PROVEN = 1 << 17  # characters of each batch that both encode
MOST_WITHOUT_SPACE = 1 << 10  # bytes
RENEWED = 1 << 26  # bytes of text, after which it begins anew: it forgets no word, and some texts have new ones only


class Disagreement(Exception):
    """Gigatoken gives other ids than tiktoken, or none; the message says for which text."""


def is_installed() -> bool:
    """Tell whether the extra `fast` is there."""
    return importlib.util.find_spec("gigatoken") is not None


def require_fast(tokenizer: Tokenizer | str) -> None:
    """Raise InputError where gigatoken is not installed, or has no such vocabulary; `tokenizer` may be its name."""
    if not is_installed():
        raise InputError(f"`encoder` gigatoken: is not installed: {INSTALL}, or give auto or tiktoken")
    if not knows(tokenizer):
        raise InputError("`encoder` gigatoken: encodes no vocabulary of characters; give auto or tiktoken")


def knows(tokenizer: Tokenizer | str) -> bool:
    """Tell whether gigatoken can encode with a vocabulary like this: with GPT-2's pattern."""
    return tokenizer != "char" if isinstance(tokenizer, str) else tokenizer.pattern == GPT2_PATTERN


class FastEncoder:
    """Encodes texts as `Tokenizer.encode_batch` does, on one thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Load the vocabulary. Raise Disagreement if a token is encoded otherwise, or gigatoken cannot be loaded."""
        self._tokenizer, self._lengths = tokenizer, tokenizer.byte_lengths()
        self._backend, self._used = _loaded(tokenizer), 0
        self._prove("\n".join(token.decode(errors="replace") for token in tokenizer.ranks))

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Encode texts, one array each. Raise Disagreement where tiktoken would give other ids, as far as is proven."""
        left = PROVEN
        for text in texts:
            self._prove(text[:left])
            left -= len(text)
            if left <= 0:
                break
        return [self._encoded(text) for text in texts]

    def _encoded(self, text: str) -> np.ndarray:
        ids = [self._part(part) for part in parts_of(text)]
        return ids[0] if len(ids) == 1 else np.concatenate(ids)

    def _part(self, part: str) -> np.ndarray:
        content = part.encode()
        if len(content) > MOST_WITHOUT_SPACE and b" " not in content:
            return self._tokenizer.encode_batch([part], threads=1)[0]
        self._used += len(content)
        if self._used > RENEWED:
            self._backend, self._used = _loaded(self._tokenizer), len(content)
        with _failures_are_disagreements(part):
            ids = self._backend.encode(content)
            size = self._lengths[ids].sum()
        if size != len(content):
            raise Disagreement(f"gigatoken gives ids for {size:,} bytes of the {len(content):,} of {shown(part)}")
        return ids

    def _prove(self, text: str) -> None:
        """Raise Disagreement if tiktoken gives other ids."""
        ours, [theirs] = self._encoded(text), self._tokenizer.encode_batch([text], threads=1)
        if not np.array_equal(ours, theirs):
            same = min(len(ours), len(theirs))
            place = int(np.argmax(np.append(ours[:same] != theirs[:same], True)))
            before = len(self._tokenizer.decode(theirs[:place].tolist()))
            raise Disagreement(f"gigatoken gives other ids than tiktoken for {shown(text[before:])}")


def shown(text: str) -> str:
    """Show the beginning of a text."""
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _loaded(tokenizer: Tokenizer) -> Any:
    """Load a vocabulary, which gigatoken reads from a file only, without any special token."""
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokenizer.ranks))
    with _failures_are_disagreements(), tempfile.TemporaryDirectory() as directory:
        from gigatoken.gigatoken_rs import BPETokenizer

        file = Path(directory) / "ranks.tiktoken"
        file.write_text("".join(lines))
        return BPETokenizer.from_tiktoken(file, "gpt2", {})


@contextlib.contextmanager
def _failures_are_disagreements(text: str | None = None) -> Generator[None]:
    """Turn whatever gigatoken raises, panics included, which in Rust pass every `except Exception`, to Disagreement."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            what = "its vocabulary" if text is None else shown(text)
            raise Disagreement(f"gigatoken fails ({type(error).__name__}: {error}) for {what}") from None
        raise
