"""Texts as a split in memory, encoded with a tokenizer that is there: what a dataset of them would have on disk."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from gpt.corpus.documents import Document, Notice, Skipped
from gpt.corpus.executor import cores
from gpt.corpus.reading import MAX_SHOWN, say_notices
from gpt.corpus.sources import Source
from gpt.corpus.split import VALIDATION, Piece
from gpt.corpus.writer import batches
from gpt.dataset.shards import MemorySplit, Split, ids_dtype
from gpt.errors import InputError
from gpt.log import log
from gpt.terminal import one_line
from gpt.text.tokenizer import Tokenizer


def text_split(source: Source, tokenizer: Tokenizer) -> Split:
    """Encode all documents of a source, each ended by end-of-text where the tokenizer has one.

    What is left out is named. Raises InputError where that leaves fewer than two tokens, of which one can be predicted,
    and for a character that the tokenizer lacks.
    """
    dtype, end = ids_dtype(tokenizer.vocab_size), [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    parts = [np.empty(0, dtype=dtype)]
    for batch in batches(_pieces(source, tokenizer)):
        encoded = tokenizer.encode_batch([piece.text for piece in batch], cores())
        parts += [np.append(ids, end).astype(dtype) for ids in encoded]
    split = MemorySplit(VALIDATION, np.concatenate(parts))
    if split.tokens < 2:
        raise InputError("`text`: has fewer than 2 tokens, so that none can be predicted; give more text")
    return split


def _pieces(source: Source, tokenizer: Tokenizer) -> Iterator[Piece]:
    """Yield the documents. Raises InputError for a character that the tokenizer lacks."""
    for found in read_source(source):
        if isinstance(found, Document):
            try:
                tokenizer.require_known(found.text)
            except InputError as error:
                raise InputError(f"{found.name}: {error}") from None
            yield Piece(found.name, VALIDATION, found.text)


def read_source(source: Source) -> Iterator[Document | Skipped]:
    """Yield the documents and what is left out; say that, what was mended, and what is to be said of files."""
    notices, said = list[Notice](), Counter[str]()
    for part in source.parts():
        for found in (part,) if isinstance(part, Skipped) else source.read(part):
            if isinstance(found, Notice):
                notices.append(found)
                continue
            done = "skipped" if isinstance(found, Skipped) else "kept"
            if reason := found.reason if isinstance(found, Skipped) else found.note:
                said[done] += 1
                if said[done] <= MAX_SHOWN:
                    log.info(one_line(f"{done} {found.name}: {reason}"))
            yield found
    for done, count in said.items():
        if count > MAX_SHOWN:
            log.info(f"{done} {count - MAX_SHOWN:,} more{'' if done == 'skipped' else ' with bad bytes'}")
    say_notices(notices)
