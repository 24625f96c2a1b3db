"""The tokenizer of a corpus: by its name, or one that suits the size of the text, or learned from it."""

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpt.corpus.documents import Document, hash_fraction
from gpt.corpus.reading import Corpus
from gpt.corpus.split import Divide, Piece, pieces_in
from gpt.dataset.manifest import SPLITS, read_manifest
from gpt.errors import InputError
from gpt.log import Progress, log
from gpt.text.added import in_parts
from gpt.text.tokenizer import Tokenizer

AUTO = "auto"  # in place of a tokenizer's name: one that suits the size of the text
MAX_DIGITS = 9  # of bpe:VOCAB
TRAINER_CHARACTERS = 50_000_000  # a BPE is learned from about this much of a larger corpus
SAMPLE_CHARACTERS = 10_000  # of a text at a time, where not all of it is learned from
# What `auto` takes for a text of fewer characters than this; measured, see benchmarks/LOG.md.
VOCABULARIES = ((100_000, "bytes"), (1_000_000, "bpe:512"), (20_000_000, "bpe:2048"), (math.inf, "bpe:4096"))


@dataclass
class SplitSizes:
    """Pieces and characters of each split."""

    pieces: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    characters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> "SplitSizes":
        sizes = cls()
        for piece in pieces:
            sizes.pieces[piece.split] += 1
            sizes.characters[piece.split] += len(piece.text)
        return sizes


def parse_tokenizer(name: str, encodings: Collection[str] = ()) -> tuple[str, int | None]:
    """Parse 'gpt2', 'bytes', 'char', 'auto', 'bpe:VOCAB', or a path (kind 'file'), into (kind, vocabulary size).

    `encodings` are names of kind 'tiktoken', where those can be used. Raise InputError for anything else.
    """
    kind, colon, number = name.partition(":")
    if kind == "bpe" and number.isdecimal() and len(number) <= MAX_DIGITS:
        return "bpe", int(number)
    if kind in ("gpt2", "bytes", "char", AUTO) and not colon:
        return kind, None
    if name in encodings:
        return "tiktoken", None
    with contextlib.suppress(OSError):  # what is too long to be a path
        if name and Path(name).exists():
            return "file", None
    missing = "is not there; " if "/" in name else ""
    theirs = f"an encoding of tiktoken's ({', '.join(encodings)}), " if encodings else ""
    raise InputError(
        f"`tokenizer` {name}: {missing}choose gpt2, bytes, char, bpe:VOCAB with a number, such as bpe:4096, auto, "
        f"{theirs}"
        "or a directory whose tokenizer to use: a run, a dataset, or a Hugging Face GPT-2"
    )


def suitable_tokenizer(characters: int) -> str:
    """Name the tokenizer that suits so much training text, and say why."""
    name, reason = suitability(characters)
    log.info(f"tokenizer: {name}, for {characters:,} characters: {reason}")
    return name


def suitability(characters: int) -> tuple[str, str]:
    """Name the tokenizer that suits so much training text, and why: rare tokens teach a model nothing."""
    name = next(name for most, name in VOCABULARIES if characters < most)
    return name, "too few for words of their own" if name == "bytes" else "a vocabulary that so much text fills"


def make_tokenizer(
    name: str, pieces: Callable[[], Iterable[Piece]] = lambda: (), sizes: SplitSizes | None = None
) -> Tokenizer:
    """Load or make the tokenizer called `name` (see `parse_tokenizer`).

    A BPE learns from the training pieces, and a vocabulary of characters has those of all pieces, whose sizes are
    `sizes`; the others need neither.
    """
    kind, vocab_size = parse_tokenizer(name)
    if kind == "gpt2":
        return Tokenizer.gpt2()
    if kind == "file":
        path = Path(name)
        return Tokenizer.load(path / "tokenizer.json" if path.is_dir() else path)
    if kind == "bytes":
        return Tokenizer.utf8_bytes()
    assert sizes is not None
    if kind == "char":
        alphabet: set[str] = set()
        for piece in pieces():
            alphabet.update(piece.text)
        return Tokenizer.char(alphabet, end_of_text=max(sizes.pieces.values()) > 1)
    assert vocab_size is not None
    share = TRAINER_CHARACTERS / max(1, sizes.characters["train"])
    texts = (text for piece in pieces() if piece.split == "train" for text in sampled(piece, share))
    tokenizer = Tokenizer.train_bpe(texts, vocab_size)
    if tokenizer.vocab_size < vocab_size:
        log.info(f"the text has pairs for a vocabulary of {tokenizer.vocab_size:,} only, not {vocab_size:,}")
    return tokenizer


def sampled(piece: Piece, share: float) -> Iterator[str]:
    """Yield about this share of a text, from all over it."""
    if share >= 1:
        yield piece.text
        return
    for start in range(0, len(piece.text), SAMPLE_CHARACTERS):
        if hash_fraction(f"{piece.name} {start}") < share:
            yield piece.text[start : start + SAMPLE_CHARACTERS]


def corpus_tokenizer(
    tokenizer: str | Tokenizer, corpus: Corpus, divide: Divide, recipe: dict[str, Any], progress: Progress
) -> tuple[Tokenizer, dict[str, Any]]:
    """Return the tokenizer of a corpus, loaded or made, and the recipe with what `auto` stands for.

    One that was learned from the same corpus, before it grew, stays.
    """

    def pieces() -> Iterator[Piece]:
        return (_plain(own, each) if each.specials else own for each, cut in pieces_in(corpus, divide) for own in cut)

    if not isinstance(tokenizer, str):
        return tokenizer, recipe
    if grown := _grown_tokenizer(tokenizer, corpus, recipe):
        return grown
    progress.doing = f"making the tokenizer {tokenizer}"
    sizes = SplitSizes.of(pieces()) if tokenizer.partition(":")[0] in (AUTO, "bpe", "char") else SplitSizes()
    if tokenizer == AUTO:
        tokenizer = suitable_tokenizer(sizes.characters["train"])
        recipe = recipe | {"tokenizer": tokenizer}
    return make_tokenizer(tokenizer, pieces, sizes), recipe


def _plain(piece: Piece, document: Document) -> Piece:
    """Leave out a chat template's special tokens, of which no vocabulary is to be made."""
    parts = (
        document.text[a:b] for a, b, is_special in in_parts(len(document.text), document.specials) if not is_special
    )
    return replace(piece, text="".join(parts))


def _grown_tokenizer(tokenizer: str, corpus: Corpus, recipe: dict[str, Any]) -> tuple[Tokenizer, dict[str, Any]] | None:
    """Return the tokenizer that was learned from the same corpus before it grew, if it is asked for."""
    if not corpus.is_grown or corpus.before is None:
        return None
    try:
        was = read_manifest(corpus.before).get("recipe", {}).get("tokenizer")
        if not isinstance(was, str) or not was.startswith("bpe:") or tokenizer not in (AUTO, was):
            return None
        grown = Tokenizer.load(corpus.before / "tokenizer.json")
    except InputError as error:
        log.warning(f"{error}; the tokenizer is learned anew")
        return None
    log.info(f"{corpus.before}: its tokenizer, {was}, stays that of the corpus")
    return grown, recipe | {"tokenizer": was}
