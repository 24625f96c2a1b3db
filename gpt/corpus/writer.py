"""The last stage: the ids of a slice's documents, as shards."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpt.corpus.executor import timed
from gpt.corpus.ledger import Outcome, write_ledger
from gpt.corpus.reading import batches as in_batches
from gpt.corpus.slices import documents_at
from gpt.corpus.split import Divide, Piece, passages_at, pieces_of
from gpt.corpus.stage_progress import TOKENIZING
from gpt.dataset.manifest import SPLITS, MaskedShardInfo, ShardInfo
from gpt.dataset.shards import CHUNK_TOKENS, ids_dtype, mask_name, write_shard
from gpt.errors import InputError
from gpt.text.tokenizer import Tokenizer

BATCH_CHARACTERS = 4_000_000  # encoded at once
OVERHEAD = 100  # characters that a piece counts for, beside its own: so many take as much memory as it does otherwise
SHARD_TOKENS = 100_000_000
DISAGREEMENT = "gigatoken_differs"  # in a result and in the report

Encode = Callable[[list[str]], list[np.ndarray]]  # of many texts, their ids


class ShardWriter:
    """Writes the documents of one split as shards of at most `shard_tokens` tokens, named by what follows `stem`.

    An end-of-text ends each document, where the tokenizer has one. Use `add`, then `close`. Either all documents have
    masks, or none.
    """

    def __init__(self, stem: Path, split: str, tokenizer: Tokenizer, shard_tokens: int = SHARD_TOKENS) -> None:
        self.stem, self.split, self.tokenizer, self.shard_tokens = stem, split, tokenizer, shard_tokens
        self.dtype = ids_dtype(tokenizer.vocab_size)
        self.shards: list[ShardInfo] = []
        self._lengths = _byte_lengths(tokenizer)
        end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
        self._end = np.array(end, dtype=self.dtype)
        self._pending, self._masks = list[np.ndarray](), list[np.ndarray]()
        self._pending_tokens = self._pending_documents = 0

    def add(self, documents: Sequence[np.ndarray], masks: Sequence[np.ndarray] = ()) -> None:
        """Add documents. A mask of each, bool, tells which ids are learned, and at its end whether end-of-text is.

        Raises InputError for an id outside the vocabulary, which a cast would wrap silently.
        """
        ids = np.concatenate([self._end[:0], *(part for ids in documents for part in (ids, self._end))])
        if len(ids) and (ids.max() >= self.tokenizer.vocab_size or ids.min() < 0):
            raise InputError(
                f"{self.split}: token ids from {ids.min()} to {ids.max()} do not fit a vocabulary of "
                f"{self.tokenizer.vocab_size}"
            )
        ids = ids.astype(self.dtype)
        mask = np.concatenate(masks).astype(np.uint8) if masks else None
        starts = np.cumsum([0, *(len(own) + len(self._end) for own in documents)])[:-1]
        begin = 0
        while begin < len(ids):
            end = begin + min(CHUNK_TOKENS, self.shard_tokens - self._pending_tokens)
            self._pending.append(ids[begin:end])
            if mask is not None:
                self._masks.append(mask[begin:end])
            self._pending_tokens += len(self._pending[-1])
            self._pending_documents += int(np.searchsorted(starts, end) - np.searchsorted(starts, begin))
            if self._pending_tokens == self.shard_tokens:
                self._write()
            begin = end

    def close(self) -> list[ShardInfo]:
        """Write what is left, and describe all shards."""
        if self._pending_tokens:
            self._write()
        return self.shards

    def _write(self) -> None:
        name = f"{self.split}-{len(self.shards)}.bin"
        digest = write_shard(Path(f"{self.stem}.{name}"), self._pending)
        text_bytes = sum(int(self._lengths[ids].sum()) for ids in self._pending)
        largest = max(int(ids.max()) for ids in self._pending)
        facts = (self._pending_tokens, self._pending_documents, text_bytes, largest)
        info = ShardInfo(name, self.split, *facts, digest)
        if self._masks:
            mask, learned = mask_name(name), sum(int(part.sum()) for part in self._masks)
            info = MaskedShardInfo(
                *vars(info).values(), mask, write_shard(Path(f"{self.stem}.{mask}"), self._masks), learned
            )
        self.shards.append(info)
        self._pending, self._masks = [], []
        self._pending_tokens = self._pending_documents = 0


def write_slice(
    place: Path,
    text: Path,
    repeats: Path | None,
    passages: Path | None,
    spool: Path,
    divide: Divide,
    tokenizer: Path,
    threads: int,
    encode: Encode | None = None,
) -> dict[str, Any]:
    """Encode the documents of a slice into shards, and write what became of every document into its ledger.

    `repeats` lists those that repeat another; `spool` says where all are, and `passages` where those of the slice are
    listed. The `tokenizer`, a file, encodes on so many threads, or `encode` does in its place. Raises InputError for
    what it cannot encode.
    """
    loaded = loaded_tokenizer(tokenizer)
    writers = {split: ShardWriter(place, split, loaded) for split in SPLITS}
    encode, done = encode or partial(loaded.encode_batch, threads=threads), list[Outcome]()

    def pieces() -> Iterator[Piece]:
        for document, own in pieces_of(documents_at(text, repeats), divide, passages_at(passages)):
            outcome = Outcome(len(document.text))
            for piece in own:
                outcome.add(piece)
                yield piece
            done.append(outcome)

    def outcomes() -> Iterator[Outcome]:
        for batch in batches(pieces()):
            found = timed(TOKENIZING, encode, [piece.text for piece in batch])
            for split, writer in writers.items():
                writer.add([ids for piece, ids in zip(batch, found, strict=True) if piece.split == split])
            yield from done
            done.clear()

    ledger = write_ledger(place, text, repeats, spool, outcomes())
    return {"shards": [asdict(shard) for writer in writers.values() for shard in writer.close()]} | ledger


@functools.lru_cache(maxsize=2)
def loaded_tokenizer(tokenizer: Path) -> Tokenizer:
    """Load a tokenizer, once for many slices."""
    return Tokenizer.load(tokenizer)


@functools.lru_cache(maxsize=2)
def _byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    return tokenizer.byte_lengths()


def batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Yield some megabytes of pieces at a time."""
    return in_batches(pieces, lambda piece: len(piece.text) + OVERHEAD, BATCH_CHARACTERS)
