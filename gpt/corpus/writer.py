"""The ids of documents, cut into shards."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt.dataset.manifest import ShardInfo
from gpt.dataset.shards import ids_dtype, write_shard
from gpt.errors import InputError
from gpt.text.tokenizer import Tokenizer


class ShardWriter:
    """Writes one split as a stream of ids cut into shards of `shard_tokens` tokens.

    An end-of-text stands between documents where the tokenizer has one. Use `add`, then `close`.
    """

    def __init__(self, directory: Path, split: str, tokenizer: Tokenizer, shard_tokens: int = 100_000_000) -> None:
        self.directory, self.split, self.tokenizer, self.shard_tokens = directory, split, tokenizer, shard_tokens
        self.dtype = ids_dtype(tokenizer.vocab_size)
        self.shards: list[ShardInfo] = []
        self.documents = 0
        self._lengths = tokenizer.byte_lengths()
        self._pending: list[np.ndarray] = []
        self._pending_tokens = self._pending_documents = self._pending_bytes = 0

    def add(self, ids: Sequence[int] | np.ndarray) -> None:
        """Add one document. Raises InputError for an id outside the vocabulary, which a cast would wrap silently."""
        separator = [] if self.documents == 0 or self.tokenizer.end_of_text is None else [self.tokenizer.end_of_text]
        document = np.concatenate([np.array(separator, dtype=np.int64), np.asarray(ids, dtype=np.int64)])
        if len(document) and (document.min() < 0 or document.max() >= self.tokenizer.vocab_size):
            raise InputError(
                f"{self.split}: token ids from {document.min()} to {document.max()} do not fit a vocabulary of "
                f"{self.tokenizer.vocab_size}"
            )
        self.documents += 1
        self._pending_documents += 1
        while len(document):
            part, document = np.split(document, [self.shard_tokens - self._pending_tokens])
            self._pending.append(part.astype(self.dtype))
            self._pending_tokens += len(part)
            self._pending_bytes += int(self._lengths[part].sum())
            if self._pending_tokens == self.shard_tokens:
                self._write()

    def close(self) -> list[ShardInfo]:
        """Write what is left, and describe all shards."""
        if self._pending_tokens:
            self._write()
        return self.shards

    def _write(self) -> None:
        ids = np.concatenate(self._pending)
        name = f"{self.split}-{len(self.shards):05d}.bin"
        digest = write_shard(self.directory / name, ids)
        documents, text_bytes = self._pending_documents, self._pending_bytes
        self.shards.append(ShardInfo(name, self.split, len(ids), documents, text_bytes, int(ids.max()), digest))
        self._pending = []
        self._pending_tokens = self._pending_documents = self._pending_bytes = 0
