"""Tokenizers compared on one's own text: how short they make a text that none of the trained ones has seen, and how
fast.

1. The text is divided as `gpt prepare files` divides it: BPEs are trained on one part, and all are tried on the other.
2. Every tokenizer encodes that other part once, and its tokens are counted.
3. All encode a stretch of it several times, by turns, so that what slows the machine for a while slows all of them.
"""

import itertools
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gpt.corpus.sample import CorpusSample
from gpt.corpus.split import MAX_CHARACTERS, ByContent, Piece, chosen, cut_passages, distinct, key_of, passage_size
from gpt.corpus.vocabulary import parse_tokenizer, suitability
from gpt.errors import InputError
from gpt.log import Progress, log
from gpt.terminal import one_line
from gpt.text.encoding import Encoder
from gpt.text.tokenizer import GPT2_PATTERN, Tokenizer

FEWEST_CHARACTERS = 100  # to train and to try tokenizers on
HELD_OUT = 0.1  # of the text, as the recipe for own text has it
N_EMBD = 768  # GPT-2's: a row of its embedding for each token of the vocabulary
ROUNDS = 5
MOST_TIMED = 1_000_000  # characters, encoded in each round
FEWEST_TIMED = 100_000  # characters; a shorter text is encoded several times, since clocks are coarse


@dataclass(frozen=True)
class Figures:
    """What was found of one tokenizer; None where it could not be tried, for which `fault` gives the reason."""

    name: str
    kind: str | None = None
    vocab_size: int | None = None
    embedding_parameters: int | None = None
    """Of a token embedding at n_embd 768."""
    tokens: int | None = None
    """Of the held-out text."""
    bytes_per_token: float | None = None
    single_byte_share: float | None = None
    """Of the tokens, those that stand for one byte."""
    mb_per_second: float | None = None
    """10^6 bytes of UTF-8 encoded in a second on one core, the median of several rounds."""
    fault: str | None = None


@dataclass(frozen=True)
class Suitable:
    """The tokenizer that `auto` takes for a corpus, and why."""

    tokenizer: str
    characters: int
    """That train."""
    reason: str


def suitable(characters: int) -> Suitable:
    """Find what suits a corpus of so many characters, of which a part validates."""
    trained = characters - int(min(HELD_OUT * characters, MAX_CHARACTERS))
    name, reason = suitability(trained)
    return Suitable(name, trained, reason)


def divided(sample: CorpusSample) -> tuple[list[str], list[str]]:
    """Divide a sample into the texts that BPEs are trained on, and those that all are tried on.

    Raises InputError where one side is left with next to nothing.
    """
    size = passage_size(HELD_OUT * sample.sampled, sample.sampled)
    rows = [(key_of(text), len(text)) for document in sample for text in cut_passages(document.text, size)]
    divide = ByContent(size, *chosen(*distinct(np.array(rows, dtype=np.uint64).reshape(-1, 2)), HELD_OUT))
    pieces: list[Piece] = [piece for document in sample for piece in divide(document)]
    train, held_out = ([piece.text for piece in pieces if piece.split == side] for side in ("train", "validation"))
    if min(sum(map(len, train)), sum(map(len, held_out))) < FEWEST_CHARACTERS:
        raise InputError(
            f"a tenth of the text, {sample.counts['characters']:,} characters, is too little to try tokenizers on: "
            f"give at least {FEWEST_CHARACTERS / HELD_OUT:,.0f} characters"
        )
    return train, held_out


def made_from(names: list[str], sample: CorpusSample, texts: list[str]) -> dict[str, Tokenizer]:
    """Make the named tokenizers of a corpus: bytes, char of all that is in it, and each BPE of the texts.

    A smaller BPE is the beginning of a larger one, since merges are found one after another; so the largest is trained.
    """
    sizes = {name: size for name in names if (size := parse_tokenizer(name)[1]) is not None}
    largest = Tokenizer.train_bpe(texts, max(sizes.values())) if sizes else None
    made = {}
    for name in names:
        if largest is None or name not in sizes:
            several = sample.counts["documents"] > 1
            made[name] = Tokenizer.char(sample.alphabet, several) if name == "char" else Tokenizer.utf8_bytes()
            continue
        made[name] = Tokenizer("bpe", largest.ranks[: sizes[name] - 1], GPT2_PATTERN)
        if made[name].vocab_size < sizes[name]:
            log.info(f"{name}: the text has pairs for a vocabulary of {made[name].vocab_size:,} only")
    return made


def compare(encoders: Mapping[str, Encoder | InputError], texts: list[str], progress: Progress) -> list[Figures]:
    """Count the tokens of some texts by each tokenizer, and measure its speed.

    One that is an error, or cannot encode them, is named with its fault and left out of the measurement. Raises
    InputError where none is left.
    """
    found: dict[str, Figures] = {}
    usable: dict[str, Encoder] = {}
    for name, encoder in encoders.items():
        progress.doing = f"counting the tokens of {name}"
        try:
            if isinstance(encoder, InputError):
                raise encoder
            found[name] = _counted(name, encoder, texts)
            usable[name] = encoder
        except InputError as error:
            found[name] = Figures(name, fault=str(error))
    if not usable:
        raise InputError("; ".join(f"{name}: {figures.fault}" for name, figures in found.items()))
    speeds = _speeds(usable, texts, progress)
    return [replace(figures, mb_per_second=speeds.get(name)) for name, figures in found.items()]


def _counted(name: str, encoder: Encoder, texts: list[str]) -> Figures:
    lengths, tokens, size, single = encoder.byte_lengths(), 0, 0, 0
    for text in texts:
        [ids] = encoder.encode_batch([text], threads=1)
        of_each = lengths[ids]
        tokens, size, single = tokens + len(ids), size + int(of_each.sum()), single + int(np.sum(of_each == 1))
    return Figures(
        name,
        encoder.kind,
        encoder.vocab_size,
        encoder.vocab_size * N_EMBD,
        tokens,
        size / max(1, tokens),
        single / max(1, tokens),
    )


def _speeds(encoders: Mapping[str, Encoder], texts: list[str], progress: Progress) -> dict[str, float]:
    """Measure 10^6 bytes a second: of each the median of several rounds, which go through them to and fro."""
    timed = list(_timed(texts))
    size = sum(len(text.encode()) for text in timed)
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for turn in range(ROUNDS):
        progress.doing = f"measuring speed, round {turn + 1} of {ROUNDS}"
        for name in list(encoders)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            encoders[name].encode_batch(timed, threads=1)
            seconds[name].append(time.perf_counter() - start)
    return {name: size / statistics.median(times) / 1e6 for name, times in seconds.items()}


def _timed(texts: list[str]) -> list[str]:
    """Take texts up to a size that is encoded in a moment, over and over where they are too short to be timed."""
    total = sum(map(len, texts))
    chosen, left = [], MOST_TIMED
    for text in itertools.chain.from_iterable(itertools.repeat(texts, math.ceil(FEWEST_TIMED / total))):
        chosen.append(text[:left])
        left -= len(chosen[-1])
        if left <= 0:
            break
    return chosen


def comparison_lines(found: list[Figures]) -> list[str]:
    """Write figures as a table, a line for each tokenizer below a heading."""
    rows = [["tokenizer", "vocabulary", "tokens", "bytes/token", "single bytes", "MB/s", "embedding at 768"]]
    for each in found:
        cells = [
            _cell(each.vocab_size, ",d"),
            _cell(each.tokens, ",d"),
            _cell(each.bytes_per_token, ".3f"),
            _cell(each.single_byte_share, ".1%"),
            _cell(each.mb_per_second, ".1f"),
            _cell(each.embedding_parameters, ",d"),
        ]
        rows.append([one_line(each.name), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([first.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for first, *cells in rows]


def _cell(value: float | None, format: str) -> str:
    return "-" if value is None else f"{value:{format}}"
