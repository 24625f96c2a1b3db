"""From documents to a dataset directory.

1. The source is read once. Documents whose content was seen before are dropped; the others are kept at hand.
2. A policy divides the documents between training and validation.
3. The tokenizer is loaded, or made from what trains.
4. The texts are encoded, with end-of-text between them, into the shards of their split.
5. The manifest is written last, and the finished directory is put in place by one rename.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from gpt.corpus.reading import Corpus
from gpt.corpus.sample import Sample
from gpt.corpus.sources import Source
from gpt.corpus.split import Divide, Piece, Split
from gpt.corpus.vocabulary import AUTO, SplitSizes, make_tokenizer, parse_tokenizer, suitable_tokenizer
from gpt.corpus.writer import ShardWriter
from gpt.dataset.dataset import Dataset, open_written
from gpt.dataset.manifest import SPLITS, ShardInfo, fingerprint, read_manifest, write_manifest
from gpt.errors import InputError
from gpt.files import aside, write_directory
from gpt.interrupts import Interruptible
from gpt.log import Progress, log
from gpt.terminal import one_line
from gpt.text.tokenizer import Tokenizer

SMALLEST_WINDOW = 65  # tokens: the shortest context of any preset (64), and one more to predict
BATCH_CHARACTERS = 4_000_000  # encoded at once
MAX_SHOWN = 20  # skipped documents that are named on the screen


def prepare(source: Source, split: Split, tokenizer: str | Tokenizer, out: Path, recipe: dict[str, Any]) -> Dataset:
    """Write the dataset directory `out`, replacing a dataset that is there, and open it.

    `tokenizer` is one, or the name of one (see `parse_tokenizer`); `recipe` is recorded in the manifest. What is left
    out of the source is said, and written to skipped.txt, with the documents that repeat another.
    Raises InputError for an unknown tokenizer, a directory that holds something else, or a corpus too small.
    """
    if isinstance(tokenizer, str):
        parse_tokenizer(tokenizer)
    before = _replaceable(out, recipe.get("name"))
    kept = f"; {out} is as it was" if out.exists() else ""
    with (
        Interruptible(aside(out), f"nothing was written{kept}") as interruptible,
        write_directory(out) as partial,
    ):
        with Progress() as progress, contextlib.closing(Corpus(source, partial, progress)) as corpus:
            say_what_was_read(corpus)
            progress.doing = "dividing the text between training and validation"
            written = _write(partial, corpus, split(corpus), tokenizer, recipe, progress)
        interruptible.finish()
    dataset = open_written(out, *written)
    if before not in (None, dataset.fingerprint):
        log.warning(f"{out}: replaces another dataset; runs that were trained on that one cannot go on with this one")
    if len(corpus.skipped) > MAX_SHOWN:
        log.info(f"{out / 'skipped.txt'} names all {len(corpus.skipped):,} that were skipped")
    return dataset


def _write(
    partial: Path,
    corpus: Corpus,
    divide: Divide,
    tokenizer: str | Tokenizer,
    recipe: dict[str, Any],
    progress: Progress,
) -> tuple[Tokenizer, list[ShardInfo], dict[str, Any]]:
    """Write all files of the dataset into a new directory, and return what the manifest is made of."""

    def pieces() -> Iterator[Piece]:
        return (piece for document in corpus for piece in divide(document))

    sizes = SplitSizes.of(pieces())
    if tokenizer == AUTO:
        tokenizer = suitable_tokenizer(sizes.characters["train"])
        recipe = recipe | {"tokenizer": tokenizer}
    if isinstance(tokenizer, str):
        progress.doing = f"making the tokenizer {tokenizer}"
        tokenizer = make_tokenizer(tokenizer, pieces, sizes)

    writers = {name: ShardWriter(partial, name, tokenizer) for name in SPLITS}
    done, total = 0, sum(sizes.characters.values())
    for piece, ids in _encoded(pieces(), tokenizer):
        writers[piece.split].add(ids)
        done += len(piece.text)
        progress.doing = f"encoded {done:,} of {total:,} characters"
    shards = [shard for writer in writers.values() for shard in writer.close()]
    for name, writer in writers.items():
        _require_window(name, sum(shard.tokens for shard in writer.shards), sizes.characters[name])
    tokenizer.save(partial / "tokenizer.json")
    if corpus.skipped:
        reasons = [(left.name, left.reason.replace("`", "")) for left in corpus.skipped]
        lines = "".join(one_line(f"{name}: {reason}") + "\n" for name, reason in reasons)
        (partial / "skipped.txt").write_text(lines, encoding="utf-8", errors="backslashreplace")
    write_manifest(partial, tokenizer, shards, recipe)
    return tokenizer, shards, recipe


def say_what_was_read(corpus: Corpus | Sample) -> None:
    """Name what was skipped, and count what was read. Raises InputError if that is nothing."""
    for left in corpus.skipped[:MAX_SHOWN]:
        log.info(one_line(f"skipped {left.name}: {left.reason}"))
    if len(corpus.skipped) > MAX_SHOWN:
        log.info(f"skipped {len(corpus.skipped) - MAX_SHOWN:,} more")
    if not corpus.documents:
        raise InputError("there is no text in the input: nothing was written")
    log.info(f"read {corpus.files_read:,} of {corpus.files:,} files: {corpus.characters:,} characters")


def _encoded(pieces: Iterable[Piece], tokenizer: Tokenizer) -> Iterator[tuple[Piece, np.ndarray]]:
    """Yield each piece and its ids, in order, encoded some megabytes at a time on all cores."""
    batch: list[Piece] = []
    characters = 0

    def encode() -> Iterator[tuple[Piece, np.ndarray]]:
        ids = tokenizer.encode_batch([piece.text for piece in batch], threads=os.cpu_count() or 1)
        yield from zip(batch, ids, strict=True)

    for piece in pieces:
        batch.append(piece)
        characters += len(piece.text)
        if characters >= BATCH_CHARACTERS:
            yield from encode()
            batch, characters = [], 0
    yield from encode()


def _require_window(split: str, tokens: int, characters: int) -> None:
    if tokens < SMALLEST_WINDOW:
        needed = SMALLEST_WINDOW if not tokens else -(-SMALLEST_WINDOW * characters // tokens)
        raise InputError(
            f"the {split} split has {tokens} tokens ({characters:,} characters); the smallest window needs "
            f"{SMALLEST_WINDOW} (about {needed:,} characters): give more text. Nothing was written"
        )


def _replaceable(out: Path, recipe: str | None) -> str | None:
    """Say which dataset will be replaced, and return its fingerprint; None where there is none that can be read.

    Raises InputError where something else stands, a dataset of another recipe included.
    """
    for above in out.parents:
        if above.exists() and not above.is_dir():
            raise InputError(f"{out}: cannot be written, since {above} is a file")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / "manifest.json").exists():
        raise InputError(f"{out}: exists and is no dataset; choose another name or directory, or remove it")
    try:
        manifest = read_manifest(out)
    except InputError as error:
        log.info(f"{error}; it will be replaced")
        return None
    wrote = manifest.get("recipe", {}).get("name")
    if wrote != recipe:
        raise InputError(
            f"{out}: was written by the recipe {wrote!r}, and this is {recipe!r}; choose another place, or remove it"
        )
    shards = [ShardInfo(**shard) for shard in manifest["shards"]]
    tokens = sum(shard.tokens for shard in shards if shard.split == "train")
    date = datetime.fromtimestamp((out / "manifest.json").stat().st_mtime)
    log.info(f"{out}: will replace the dataset there: {tokens:,} train tokens, prepared {date:%Y-%m-%d %H:%M}")
    return fingerprint(manifest["tokenizer_fingerprint"], shards)
