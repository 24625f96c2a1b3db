"""The last stage: the ids of a slice's documents, as shards."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gpt.corpus.ledger import Outcome, write_ledger
from gpt.corpus.reading import documents_at
from gpt.corpus.split import Divide, Piece, passages_at, pieces_of
from gpt.dataset.manifest import SPLITS, MaskedShardInfo, ShardInfo
from gpt.dataset.shards import ids_dtype, mask_name, write_shard
from gpt.errors import InputError
from gpt.text.tokenizer import Tokenizer

BATCH_CHARACTERS = 4_000_000  # encoded at once
SHARD_TOKENS = 100_000_000


class ShardWriter:
    """Writes the documents of one split as shards of at most `shard_tokens` tokens, named by what follows `stem`.

    An end-of-text ends each document, where the tokenizer has one. Use `add`, then `close`. Either all documents have
    masks, or none.
    """

    def __init__(self, stem: Path, split: str, tokenizer: Tokenizer, shard_tokens: int = SHARD_TOKENS) -> None:
        self.stem, self.split, self.tokenizer, self.shard_tokens = stem, split, tokenizer, shard_tokens
        self.dtype = ids_dtype(tokenizer.vocab_size)
        self.shards: list[ShardInfo] = []
        self._lengths = tokenizer.byte_lengths()
        end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
        self._end = np.array(end, dtype=self.dtype)
        self._pending, self._masks = list[np.ndarray](), list[np.ndarray]()
        self._pending_tokens = self._pending_documents = 0

    def add(self, ids: Sequence[int] | np.ndarray, mask: np.ndarray | None = None) -> None:
        """Add one document. A mask, bool, tells which ids are learned, and at its end whether end-of-text is.

        Raises InputError for an id outside the vocabulary, which a cast would wrap silently.
        """
        document = np.asarray(ids)
        if len(document) and (document.max() >= self.tokenizer.vocab_size or document.min() < 0):
            raise InputError(
                f"{self.split}: token ids from {document.min()} to {document.max()} do not fit a vocabulary of "
                f"{self.tokenizer.vocab_size}"
            )
        self._pending_documents += 1
        self._append(document.astype(self.dtype), mask)
        self._append(self._end, None if mask is None else mask[len(document) :])

    def _append(self, ids: np.ndarray, mask: np.ndarray | None) -> None:
        while len(ids):
            room = min(len(ids), self.shard_tokens - self._pending_tokens)
            self._pending.append(ids[:room])
            self._pending_tokens += room
            if mask is not None:
                self._masks.append(mask[:room].astype(np.uint8))
                mask = mask[room:]
            ids = ids[room:]
            if self._pending_tokens == self.shard_tokens:
                self._write()

    def close(self) -> list[ShardInfo]:
        """Write what is left, and describe all shards."""
        if self._pending_tokens:
            self._write()
        return self.shards

    def _write(self) -> None:
        name = f"{self.split}-{len(self.shards)}.bin"
        digest = write_shard(Path(f"{self.stem}.{name}"), self._pending)
        ids = np.concatenate(self._pending)
        facts = (len(ids), self._pending_documents, int(self._lengths[ids].sum()), int(ids.max()))
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
    firsts: np.ndarray,
    base: int,
    spool: Path,
    divide: Divide,
    passages: Path | None,
    tokenizer: Path,
    threads: int,
) -> dict[str, Any]:
    """Encode the documents of a slice into shards, and write what became of every document into its ledger.

    `firsts` are the numbers of the first documents of the same content, (N,), and `base` the number of the slice's
    first document; `spool` says where all are, and `passages` where those of the slice are listed. Raises InputError
    for what the tokenizer, a file, cannot encode.
    """
    loaded = loaded_tokenizer(tokenizer)
    writers = {split: ShardWriter(place, split, loaded) for split in SPLITS}
    kept = firsts == np.arange(base, base + len(firsts))
    outcomes = list[Outcome]()

    def pieces() -> Iterator[Piece]:
        for document, own in pieces_of(documents_at(text, kept), divide, passages_at(passages)):
            outcome = Outcome(len(document.text))
            for piece in own:
                outcome.add(piece)
                yield piece
            outcomes.append(outcome)

    for piece, ids in encoded(pieces(), loaded, threads):
        writers[piece.split].add(ids)
    shards = [asdict(shard) for writer in writers.values() for shard in writer.close()]
    return {"shards": shards} | write_ledger(place, text, firsts, kept, spool, outcomes)


@functools.lru_cache(maxsize=2)
def loaded_tokenizer(tokenizer: Path) -> Tokenizer:
    """Load a tokenizer, once for many slices."""
    return Tokenizer.load(tokenizer)


def encoded(pieces: Iterator[Piece], tokenizer: Tokenizer, threads: int) -> Iterator[tuple[Piece, np.ndarray]]:
    """Yield each piece and its ids, in order, encoded some megabytes at a time."""
    batch: list[Piece] = []
    characters = 0

    def encode() -> Iterator[tuple[Piece, np.ndarray]]:
        ids = tokenizer.encode_batch([piece.text for piece in batch], threads)
        yield from zip(batch, ids, strict=True)

    for piece in pieces:
        batch.append(piece)
        characters += len(piece.text)
        if characters >= BATCH_CHARACTERS:
            yield from encode()
            batch, characters = [], 0
    yield from encode()
