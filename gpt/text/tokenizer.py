"""Text to token ids and back: one class over tiktoken.Encoding for every kind of vocabulary.

A tokenizer is its ranks (the bytes of each token, in id order), the pattern that cuts text into pieces, and
its special tokens: end-of-text, and those added behind it. `tokenizer.json` holds that: loading needs no network.
"""

import codecs
import contextlib
import hashlib
import heapq
import itertools
import json
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import regex
import tiktoken

from gpt.errors import InputError
from gpt.files import read_json, write_whole
from gpt.text.downloaded import tiktoken_encoding
from gpt.text.spelling import to_bytes

END_OF_TEXT = "<|endoftext|>"

# GPT-2's, as tiktoken spells it: contractions, words, numbers, punctuation, each with the space before it.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
CHARACTER_PATTERN = r"(?s:.)"

# Merging a piece takes longer than in proportion to its length: runs of one kind of character are cut at this many.
LONGEST_RUN = 16_384
RUN = regex.compile(r"\p{L}++|\p{N}++|[^\s\p{L}\p{N}]++|\s++")
RUN_BACKWARDS = regex.compile("(?r)" + RUN.pattern)
LONE_SURROGATES = regex.compile(r"[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")

FORMAT = "gpt-tokenizer"
VERSION = 1
KINDS = ("gpt2", "bytes", "char", "bpe")
MIN_BPE_VOCAB = 257  # 256 bytes and end-of-text
MAX_BPE_VOCAB = 1 << 20  # tokenizers takes memory for all of it before it reads, and ends the process if there is none


class Tokenizer:
    """Encodes text to ids and decodes ids to text.

    `kind` is 'gpt2', 'bytes', 'char' or 'bpe'; `vocab_size` counts all ids; `end_of_text` is the id that
    stands between documents, or None for a vocabulary without one (characters of a single document).
    `special_tokens` has the ids that no text is encoded as: of end-of-text, and of those that were added.
    """

    def __init__(
        self, kind: str, ranks: Sequence[bytes], pattern: str, end_of_text: bool = True, added: Sequence[str] = ()
    ) -> None:
        """Raise InputError for what tiktoken would fail on: see `_require_sound`. `added` come after end-of-text."""
        _require_sound(kind, ranks, pattern)
        self.kind, self.pattern, self.ranks, self.added = kind, pattern, list(ranks), tuple(added)
        self.special_tokens = {n: i for i, n in enumerate([END_OF_TEXT, *added] if end_of_text else [], len(ranks))}
        self.end_of_text, self.vocab_size = self.special_tokens.get(END_OF_TEXT), len(ranks) + len(self.special_tokens)
        ids = {token: rank for rank, token in enumerate(ranks)}
        self._encoding = tiktoken.Encoding(
            kind, pat_str=pattern, mergeable_ranks=ids, special_tokens=self.special_tokens
        )
        self._characters = frozenset(token.decode() for token in self.ranks) if kind == "char" else None

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind}, {self.vocab_size:,} ids)"

    # ---- the four kinds ----

    @classmethod
    def gpt2(cls) -> "Tokenizer":
        """Load GPT-2's own 50,257 tokens. Raise InputError if tiktoken can neither find nor download them."""
        ranks = tiktoken_encoding("gpt2")._mergeable_ranks
        return cls("gpt2", sorted(ranks, key=ranks.__getitem__), GPT2_PATTERN)

    @classmethod
    def utf8_bytes(cls) -> "Tokenizer":
        """Make a tokenizer of the 256 bytes and end-of-text."""
        return cls("bytes", [bytes([byte]) for byte in range(256)], GPT2_PATTERN)

    @classmethod
    def char(cls, characters: Iterable[str], end_of_text: bool) -> "Tokenizer":
        """Make a tokenizer of one token per character, in code-point order."""
        ranks = [character.encode() for character in sorted(set(characters))]
        return cls("char", ranks, CHARACTER_PATTERN, end_of_text)

    @classmethod
    def train_bpe(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Train a byte-level BPE on the texts (Sennrich et al. 2016; Radford et al. 2019).

        The vocabulary can come out smaller than asked if the texts have no more pairs to merge.
        Raises InputError for a vocabulary below 257 or above 2^20.
        """
        import tokenizers
        from tokenizers import models, pre_tokenizers, trainers

        require_bpe_size(vocab_size)
        trained = tokenizers.Tokenizer(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # GPT-2's pattern
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[],
            show_progress=False,
        )
        trained.train_from_iterator(texts, trainer)
        vocabulary = trained.get_vocab()
        return cls("bpe", [to_bytes(token) for token in sorted(vocabulary, key=vocabulary.__getitem__)], GPT2_PATTERN)

    # ---- text and ids ----

    def encode(self, text: str) -> list[int]:
        """Encode a text as ids. Never end-of-text: the text of a special token is text like any other.

        A run of over 16,384 letters, digits, other marks or spaces is encoded in parts of that many.
        Raises InputError for a character that a 'char' vocabulary lacks.
        """
        self.require_known(text)
        with _panics_are_errors():
            return [token for part in parts_of(text) for token in self._encoding.encode_ordinary(part)]

    def encode_batch(self, texts: list[str], threads: int) -> list[np.ndarray]:
        """Encode many texts on several threads, into arrays, which take less memory than lists."""
        for text in texts:
            self.require_known(text)
        if threads == 1:
            return [encode_to_array(self._encoding, text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda text: encode_to_array(self._encoding, text), texts))

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids to text; bytes that are not UTF-8 become U+FFFD. Raise InputError for an id out of range."""
        with contextlib.suppress(KeyError, OverflowError):  # for an id out of range: `token_bytes` says which
            return self._encoding.decode_bytes(ids := list(ids)).decode(errors="replace")
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def stream_decode(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text that each id completes, whole characters only ('' while one is unfinished); then the rest."""
        decoder = StreamDecoder(self.token_bytes)
        yield from map(decoder.push, ids)
        yield decoder.finish()

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token. Raise InputError for an id out of range."""
        if not 0 <= token < self.vocab_size:
            raise InputError(f"token id {token} is outside this vocabulary of {self.vocab_size}")
        words = len(self.ranks)
        return self.ranks[token] if token < words else [*self.special_tokens][token - words].encode()

    def token_text(self, token: int) -> str:
        """Decode one token by itself; bytes that are not UTF-8 become U+FFFD. Raise InputError as above."""
        return self.token_bytes(token).decode(errors="replace")

    def byte_lengths(self) -> np.ndarray:
        """Count the bytes of text that each id stands for, (V,) int64; special tokens stand for none."""
        lengths = [len(token) for token in self.ranks]
        return np.array(lengths + [0] * len(self.special_tokens), dtype=np.int64)

    def require_known(self, text: str) -> None:
        """Raise InputError for a character that a 'char' vocabulary lacks."""
        if self._characters is not None and (unknown := set(text) - self._characters):
            some = ", ".join(repr(character) for character in heapq.nsmallest(5, unknown))
            raise InputError(
                f"the text has {len(unknown)} character(s) that this vocabulary of {len(self.ranks)} characters lacks: "
                f"{some}; leave them out, or prepare the data with `tokenizer` bytes or bpe:4096"
            )

    # ---- on disk ----

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ranks, pattern and special tokens: equal for tokenizers that encode alike."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        ranks = [b2a_base64(token, newline=False).decode() for token in self.ranks]
        return {"pattern": self.pattern, "ranks": ranks, "special_tokens": self.special_tokens}

    def save(self, path: Path) -> None:
        head = {"format": FORMAT, "version": VERSION, "kind": self.kind, "fingerprint": self.fingerprint}
        write_whole(path, json.dumps(head | self._content(), separators=(",\n", ": ")))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read what `save` wrote. Raises InputError if the file is missing, of another format, or changed."""
        content = read_json(path, "a tokenizer", "prepare the dataset again with its recipe", (FORMAT, VERSION))
        try:
            ranks = [a2b_base64(token, strict_mode=True) for token in content["ranks"]]
            special = content["special_tokens"]
            first, in_order = [*special][:1], {name: id for id, name in enumerate(special, len(ranks))}
            if special != in_order or first not in ([], [END_OF_TEXT]):
                raise InputError(f"its special tokens are {special!r}; the first is {END_OF_TEXT}, after all other ids")
            tokenizer = cls(content["kind"], ranks, content["pattern"], bool(special), [*special][1:])
            unchanged = tokenizer.fingerprint == content["fingerprint"]
        except (KeyError, TypeError, ValueError) as error:
            reason = error if isinstance(error, InputError) else repr(error)
            raise InputError(f"{path}: is damaged ({reason}); prepare the dataset again, or restore the file") from None
        if not unchanged:
            raise InputError(
                f"{path}: its fingerprint does not match its content; prepare the dataset again, or restore the file"
            )
        return tokenizer


class StreamDecoder:
    """Decodes ids one by one. A character whose bytes span tokens comes out whole, with its last byte."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        """Begin a text; `token_bytes` is a tokenizer's."""
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Return the text that the id completes."""
        return self._decoder.decode(self._token_bytes(token))

    def finish(self) -> str:
        """Return U+FFFD if the last character was left unfinished, else ''."""
        return self._decoder.decode(b"", final=True)


def require_bpe_size(vocab_size: int, setting: str = "bpe:") -> None:
    """Raise InputError, with the setting and the number, for a vocabulary that no BPE can have, or none needs."""
    if not MIN_BPE_VOCAB <= vocab_size <= MAX_BPE_VOCAB:
        raise InputError(
            f"{setting}{vocab_size}: the vocabulary must be at least {MIN_BPE_VOCAB} (every byte, and end-of-text) and "
            f"at most {MAX_BPE_VOCAB:,}"
        )


def _require_sound(kind: str, ranks: Sequence[bytes], pattern: str) -> None:
    """Raise InputError for a vocabulary that tiktoken cannot encode every text with, or would not end with.

    It panics, which in Rust is no error of Python's, where tokens repeat or a byte is missing. It also panics on a
    pattern that tries too many ways to match; so a file can only have the two patterns that are known.
    """
    if kind not in KINDS:
        raise InputError(f"the kind of tokenizer is {kind!r}; it must be {', '.join(KINDS)}")
    if pattern != (CHARACTER_PATTERN if kind == "char" else GPT2_PATTERN):
        raise InputError(f"its pattern is not the one of the kind {kind}; no other is used")
    if not ranks or b"" in ranks:
        raise InputError("it has a token of no bytes, or no token at all")
    if len(set(ranks)) < len(ranks):
        raise InputError("it has the same token twice")
    if kind == "char":
        if not all(len(token.decode()) == 1 for token in ranks):
            raise InputError("it has a token that is not one character")
    elif missing := {bytes([byte]) for byte in range(256)} - set(ranks):
        raise InputError(f"it lacks {len(missing)} of the 256 bytes, such as {min(missing)!r}; some texts need them")


def encode_to_array(encoding: tiktoken.Encoding, text: str) -> np.ndarray:
    """Encode a text as `Tokenizer.encode` does, into an array. Raise InputError where tiktoken panics."""
    with _panics_are_errors():
        parts = [encoding.encode_to_numpy(part, disallowed_special=()) for part in parts_of(text)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@contextlib.contextmanager
def _panics_are_errors() -> Generator[None]:
    """Turn a panic of tiktoken, which is written in Rust and passes every `except Exception`, into InputError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of pyo3, which gives no other way to name it
            raise InputError(f"tiktoken cannot encode the text ({error})") from None
        raise


def parts_of(text: str) -> list[str]:
    """Cut a text within runs that are too long; what cannot be UTF-8 becomes U+FFFD, as tiktoken has it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = LONE_SURROGATES.sub("\ufffd", text).encode("utf-16", "surrogatepass").decode("utf-16")  # joins pairs
    cuts, end = [0], 0
    for place in range(LONGEST_RUN, len(text), LONGEST_RUN):  # at least one of these is in every run that is too long
        if place >= end:
            start, end = RUN_BACKWARDS.match(text, 0, place + 1).start(), RUN.match(text, place).end()
            cuts += range(start + LONGEST_RUN, end, LONGEST_RUN)
    return [text[start:end] for start, end in itertools.pairwise([*cuts, len(text)])]
