"""Encoding by gigatoken, of the extra `fast`: some ten times as fast as tiktoken, and used only while both agree.

1. First each token of the vocabulary is encoded by both, as a text of its own.
2. Of each batch of texts, so is the beginning; and the ids of all of it must stand for as many bytes as it has.
3. A part of over a kilobyte without a space, such as Chinese or a run of one letter, is left to tiktoken: such are the
   texts on which fast encoders went wrong, and those on which they gain little.

One difference raises `Disagreement`: what was encoded until then is not to be used.
"""

import importlib.util
import tempfile
from binascii import b2a_base64
from pathlib import Path
from typing import Any

import numpy as np

from gpt.errors import InputError
from gpt.text.tokenizer import GPT2_PATTERN, Tokenizer, parts_of

INSTALL = "pip install 'gpt[fast]'"
PROVEN, PROVEN_PART = 1 << 14, 64  # of each batch both encode the beginning: so many characters, and one in so many
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
        self._backend, self._given, self._renewal = _loaded(tokenizer), 0, RENEWED  # bytes until now, and until when
        self._prove("\n".join(token.decode(errors="replace") for token in tokenizer.ranks))

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Encode texts, one array each. Raise Disagreement where tiktoken would give other ids, as far as is proven."""
        left = max(PROVEN, sum(map(len, texts)) // PROVEN_PART)
        for text in texts:
            self._prove(text[:left])
            left -= len(text)
            if left <= 0:
                break
        given = self._given
        found = [self._encoded(text) for text in texts]
        try:
            size = self._lengths[np.concatenate([np.empty(0, np.uint32), *found])].sum()
        except IndexError as error:
            raise _disagreement(error, shown("".join(texts[:1]))) from None
        if size != self._given - given:
            of = f"{self._given - given:,} of texts from {shown(texts[0])} to {shown(texts[-1])}"
            raise Disagreement(f"gigatoken gives ids for {size:,} bytes of the {of}")
        return found

    def _encoded(self, text: str) -> np.ndarray:
        ids = [self._part(part) for part in parts_of(text)]
        return ids[0] if len(ids) == 1 else np.concatenate(ids)

    def _part(self, part: str) -> np.ndarray:
        content = part.encode()
        self._given += len(content)
        if len(content) > MOST_WITHOUT_SPACE and b" " not in content:
            return self._tokenizer.encode_batch([part], threads=1)[0]
        if self._given > self._renewal:
            self._backend, self._renewal = _loaded(self._tokenizer), self._given + RENEWED
        try:
            return self._backend.encode(content)
        except BaseException as error:
            raise _disagreement(error, shown(part)) from None

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
    lines = [b"%b %d\n" % (b2a_base64(token, newline=False), rank) for rank, token in enumerate(tokenizer.ranks)]
    try:
        from gigatoken.gigatoken_rs import BPETokenizer

        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "ranks.tiktoken"
            file.write_bytes(b"".join(lines))
            return BPETokenizer.from_tiktoken(file, "gpt2", {})
    except BaseException as error:
        raise _disagreement(error, "its vocabulary") from None


def _disagreement(error: BaseException, what: str) -> BaseException:
    """Turn whatever gigatoken raises to Disagreement, panics included, which in Rust pass every `except Exception`."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return Disagreement(f"gigatoken fails ({type(error).__name__}: {error}) for {what}")
    return error
