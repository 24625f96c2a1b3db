"""tiktoken's own encodings, such as GPT-4's: to look at and to compare with ours, not to train with."""

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from gpt.errors import InputError
from gpt.text.downloaded import tiktoken_encoding
from gpt.text.tokenizer import encode_to_array


class Encoder(Protocol):
    """What turns text into ids that can be looked at: a Tokenizer, or one of tiktoken's encodings."""

    @property
    def kind(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: list[str], threads: int) -> list[np.ndarray]: ...

    def token_bytes(self, token: int) -> bytes: ...

    def byte_lengths(self) -> np.ndarray: ...


class TiktokenEncoding:
    """One of tiktoken's encodings, such as cl100k_base: to look at and to compare.

    Its ids need not be without gaps, nor its pattern GPT-2's, so that no dataset is made with it. `vocab_size` is one
    more than its largest id, special tokens included: as many rows an embedding needs.
    """

    kind = "tiktoken"

    def __init__(self, name: str) -> None:
        """Load it. Raise InputError if tiktoken can neither find nor download it."""
        self._encoding = tiktoken_encoding(name)
        self.vocab_size = self._encoding.n_vocab

    def encode(self, text: str) -> list[int]:
        """Encode a text as ids, never a special one, as `Tokenizer.encode` does."""
        return encode_to_array(self._encoding, text).tolist()

    def encode_batch(self, texts: list[str], threads: int) -> list[np.ndarray]:
        """Encode many texts on several threads."""
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self._encode_to_array, texts))

    def _encode_to_array(self, text: str) -> np.ndarray:
        return encode_to_array(self._encoding, text)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token. Raise InputError for an id that it lacks."""
        try:
            return self._encoding.decode_single_token_bytes(token)
        except (KeyError, OverflowError):
            raise InputError(f"token id {token} is none of this vocabulary") from None

    def byte_lengths(self) -> np.ndarray:
        """Count the bytes of text that each id stands for, (V,) int64; special tokens and gaps stand for none."""
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token, rank in self._encoding._mergeable_ranks.items():
            lengths[rank] = len(token)
        return lengths
