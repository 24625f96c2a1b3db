"""From documents to a dataset directory.

1. A recipe yields documents, each with its name, text and split; it is asked again for each pass over the text.
2. Documents whose content was seen before are dropped.
3. The tokenizer is loaded, or made from the training documents.
4. Documents are encoded, with end-of-text between them, into the shards of their split.
5. The manifest is written last, and the finished directory is put in place by one rename.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt.corpus.writer import ShardWriter
from gpt.dataset.dataset import Dataset, open_dataset
from gpt.dataset.manifest import SPLITS, write_manifest
from gpt.errors import InputError
from gpt.files import read_json
from gpt.interrupts import Interruptible
from gpt.log import log
from gpt.terminal import one_line
from gpt.text.names import AUTO, parse_tokenizer
from gpt.text.tokenizer import Tokenizer

SMALLEST_WINDOW = 65  # tokens: the shortest context of any preset (64), and one more to predict
TRAINER_CHARACTERS = 50_000_000  # a BPE is learned from about this much of a larger corpus
PIECE_CHARACTERS = 10_000
BATCH_CHARACTERS = 4_000_000  # encoded at once
SAID = 20  # skipped documents that are named on the screen
# What `auto` takes for a text of fewer characters than this; measured, see benchmarks/LOG.md.
VOCABULARIES = ((100_000, "bytes"), (1_000_000, "bpe:512"), (20_000_000, "bpe:2048"), (math.inf, "bpe:4096"))


@dataclass(frozen=True)
class Document:
    """One text. `name` identifies it everywhere alike; `split` is 'train' or 'validation'."""

    name: str
    text: str
    split: str


def split_by_hash(name: str, validation_share: float) -> str:
    """The split of a document, from the hash of its name: the same on every machine."""
    return "validation" if hash_fraction(name) < validation_share else "train"


def require_share(validation_share: float) -> None:
    """Raises InputError for a share of validation that would leave nothing on one side."""
    if not 0 < validation_share <= 0.5:
        raise InputError(f"`validation_share` is {validation_share}; it must be above 0 and at most 0.5")


def require_plain(name: str) -> None:
    """Raises InputError for a dataset's name that leads elsewhere than below data/."""
    if Path(name).name != name or name in (".", ".."):
        raise InputError(f"`name` {name}: is no plain name; to write elsewhere, give a directory with `out`")


def hash_fraction(name: str) -> float:
    """A number from 0 to below 1 that a name has everywhere, and that nobody chose."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


@dataclass
class CorpusStats:
    """What one reading of all documents found."""

    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    characters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    alphabet: set[str] = field(default_factory=set)
    duplicates: dict[str, str] = field(default_factory=dict)


def prepare(
    documents: Callable[[], Iterable[Document]],
    tokenizer_name: str,
    out: Path,
    recipe: dict[str, Any],
    skipped: dict[str, str] | None = None,
) -> Dataset:
    """Write the dataset directory `out`, replacing a dataset that is there, and open it again, checked.

    `recipe` is recorded in the manifest. `skipped` maps what `documents` left out to the reason; it is complete
    once they were read, and is said, and written to skipped.txt, with the documents that repeat another.
    Raises InputError for an unknown tokenizer, a directory that holds something else, or a corpus too small.
    """
    parse_tokenizer(tokenizer_name)
    _require_replaceable(out)
    partial = out.with_name(f".{out.name}.partial")
    kept = f"; {out} is as it was" if out.exists() else ""
    with Interruptible(partial, f"nothing was written{kept}") as interruptible:
        try:
            _write(partial, out, documents, tokenizer_name, recipe, {} if skipped is None else skipped)
            interruptible.finish()
            if _put_in_place(partial, out):
                log.warning(
                    f"{out}: replaces another dataset; runs that were trained on that one cannot go on with this one"
                )
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return open_dataset(out)


def _write(
    partial: Path,
    out: Path,
    documents: Callable[[], Iterable[Document]],
    tokenizer_name: str,
    recipe: dict[str, Any],
    skipped: dict[str, str],
) -> None:
    """Write all files of the dataset into `partial`, a new directory, which will then be called `out`."""
    stats = scan_corpus(documents)
    skipped = skipped | {name: f"the same content as {first}" for name, first in stats.duplicates.items()}
    for name, reason in list(skipped.items())[:SAID]:
        log.info(one_line(f"skipped {name}: {reason}"))
    if len(skipped) > SAID:
        log.info(f"skipped {len(skipped):,} in all; {out / 'skipped.txt'} names each")
    if not sum(stats.documents.values()):
        raise InputError("there is no text in the input: nothing was written")
    if tokenizer_name == AUTO:
        tokenizer_name, why = suitable_tokenizer(stats)
        recipe = recipe | {"tokenizer": tokenizer_name}
        log.info(f"tokenizer: {tokenizer_name}, {why}")
    tokenizer = make_tokenizer(tokenizer_name, documents, stats)
    wanted = parse_tokenizer(tokenizer_name)[1]
    if wanted and tokenizer.vocab_size < wanted:
        log.info(f"the text has pairs for a vocabulary of {tokenizer.vocab_size:,} only, not {wanted:,}")

    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    writers = {split: ShardWriter(partial, split, tokenizer) for split in SPLITS}
    for split, ids in _encoded(documents, tokenizer):
        writers[split].add(ids)
    shards = [shard for writer in writers.values() for shard in writer.close()]
    for split, writer in writers.items():
        _require_window(split, sum(shard.tokens for shard in writer.shards), stats)
    tokenizer.save(partial / "tokenizer.json")
    if skipped:
        lines = "".join(one_line(f"{name}: {reason}") + "\n" for name, reason in skipped.items())
        (partial / "skipped.txt").write_text(lines, encoding="utf-8", errors="backslashreplace")
    write_manifest(partial, tokenizer, shards, recipe)


def scan_corpus(documents: Callable[[], Iterable[Document]]) -> CorpusStats:
    stats, seen = CorpusStats(), {}
    for document in documents():
        digest = _content_hash(document)
        if digest in seen:
            stats.duplicates[document.name] = seen[digest]
            continue
        seen[digest] = document.name
        stats.documents[document.split] += 1
        stats.characters[document.split] += len(document.text)
        stats.alphabet |= set(document.text)
    return stats


def suitable_tokenizer(stats: CorpusStats) -> tuple[str, str]:
    """The tokenizer, and why, that suits a text of this size: tokens that are rare in it teach a model nothing."""
    characters = stats.characters["train"]
    name = next(name for most, name in VOCABULARIES if characters < most)
    few = "too few for words of their own" if name == "bytes" else "a vocabulary that so much text fills"
    return name, f"for {characters:,} characters: {few}"


def make_tokenizer(name: str, documents: Callable[[], Iterable[Document]], stats: CorpusStats) -> Tokenizer:
    """The tokenizer called `name` (see `parse_tokenizer`); a BPE learns from the training documents."""
    kind, vocab_size = parse_tokenizer(name)
    if kind == "gpt2":
        return Tokenizer.gpt2()
    if kind == "file":
        path = Path(name)
        return Tokenizer.load(path / "tokenizer.json" if path.is_dir() else path)
    if kind == "bytes":
        return Tokenizer.utf8_bytes()
    if kind == "char":
        return Tokenizer.char(stats.alphabet, end_of_text=max(stats.documents.values()) > 1)
    assert vocab_size is not None
    share = TRAINER_CHARACTERS / max(1, stats.characters["train"])
    texts = (piece for d in _unique(documents) if d.split == "train" for piece in _pieces(d, share))
    return Tokenizer.train_bpe(texts, vocab_size)


def _pieces(document: Document, share: float) -> Iterator[str]:
    """About this share of a document's text, in pieces from all over it."""
    if share >= 1:
        yield document.text
        return
    for start in range(0, len(document.text), PIECE_CHARACTERS):
        if hash_fraction(f"{document.name} {start}") < share:
            yield document.text[start : start + PIECE_CHARACTERS]


def _unique(documents: Callable[[], Iterable[Document]]) -> Iterator[Document]:
    seen = set()
    for document in documents():
        digest = _content_hash(document)
        if digest not in seen:
            seen.add(digest)
            yield document


def _content_hash(document: Document) -> bytes:
    return hashlib.sha256(document.text.encode()).digest()


def _encoded(documents: Callable[[], Iterable[Document]], tokenizer: Tokenizer) -> Iterator[tuple[str, np.ndarray]]:
    """(split, ids) of each document, in order, encoded some megabytes at a time on all cores."""
    batch: list[Document] = []
    characters = 0

    def encode() -> Iterator[tuple[str, np.ndarray]]:
        ids = tokenizer.encode_batch([document.text for document in batch], threads=os.cpu_count() or 1)
        yield from zip((document.split for document in batch), ids, strict=True)

    for document in _unique(documents):
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield from encode()
            batch, characters = [], 0
    yield from encode()


def _require_window(split: str, tokens: int, stats: CorpusStats) -> None:
    if tokens < SMALLEST_WINDOW:
        characters = stats.characters[split]
        needed = SMALLEST_WINDOW if not tokens else -(-SMALLEST_WINDOW * characters // tokens)
        raise InputError(
            f"the {split} split has {tokens} tokens ({characters:,} characters); the smallest window needs "
            f"{SMALLEST_WINDOW} (about {needed:,} characters): give more text. Nothing was written"
        )


def _require_replaceable(out: Path) -> None:
    if out.exists() and not (out / "manifest.json").exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"`out` {out}: exists and is no dataset; choose another directory, or remove it")


def _put_in_place(partial: Path, out: Path) -> bool:
    """Whether it takes the place of another dataset: of different shards or tokenizer."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    before, now = (_contents(path / "manifest.json") for path in (old, out))
    shutil.rmtree(old, ignore_errors=True)
    return before is not None and before != now


def _contents(manifest: Path) -> object:
    """What a manifest says of shards and tokenizer; None where there is none."""
    try:
        content = read_json(manifest)
    except InputError:
        return None
    return content.get("shards"), content.get("tokenizer_fingerprint")
