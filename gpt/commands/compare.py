"""Tell which of two runs predicts a text better, how sure that is, and where each is ahead."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from gpt.choices import Device, WeightDtype
from gpt.commands import json_text
from gpt.commands.compare_rows import compare_rows
from gpt.commands.evaluate import (
    EvaluationText,
    ModelResult,
    Protocol,
    compared,
    corpus_of,
    measure,
    require_own_data,
    result_json,
)
from gpt.commands.tasks import TaskOptions, precision
from gpt.config_io import later, parse
from gpt.corpus.documents import AUTO, ReadOptions
from gpt.corpus.origins import Names
from gpt.dataset.documents import Documents
from gpt.device import choose_device
from gpt.errors import InputError, require
from gpt.evaluation.compare import BYTES, NATS, TIE, Difference, PairedPieces, paired
from gpt.evaluation.tasks.core import Core
from gpt.evaluation.words import bits_words, difference_words
from gpt.interrupts import Interruptible
from gpt.log import log
from gpt.runs.directory import by_name, quoted
from gpt.runs.load import load_run, require_model
from gpt.terminal import command, one_line, printable

EXCERPT = 160  # characters of a passage that are shown


@dataclass(frozen=True)
class Passage:
    """A passage that one run predicts better than the other."""

    bits_won: float
    """How many bits less the second run needs for it; below 0, the first is ahead."""
    bits_per_byte: tuple[float, float]
    """Of each run."""
    where: str
    text: str


def main(arguments: Sequence[str] | None = None) -> None:
    with Interruptible():
        parse(tyro.cli, later(compare), arguments, config=(DisallowNone,))()


def compare(
    a: Annotated[Positional[Path], arg(metavar="A")],
    b: Annotated[Positional[Path], arg(metavar="B")],
    data: Path | None = None,
    text: Annotated[tuple[Path, ...], arg(help_behavior_hint="")] = (),
    field: str | None = None,
    separator: str = AUTO,
    encoding: str | None = None,
    passages: int = 3,
    json: FlagCreatePairsOff[bool] = False,
    device: Device = "auto",
    dtype: WeightDtype = "float32",
    by: Annotated[TaskOptions, arg(name="", help=""), OmitArgPrefixes] = TaskOptions(),  # noqa: B008
) -> None:
    """Tell which of two runs is better at a text or a task, and where each is ahead.

    Both are taken at their best. To compare more than two, see gpt eval --against.

    Args:
        a: Run, by path or by name below runs/, or Hugging Face GPT-2.
        b: The other one.
        data: Dataset whose validation split both predict; by default that of the first run.
        text: Files and directories of text instead; - is standard input.
        field: Field or column of JSON, CSV, TSV and Parquet that holds the text.
        separator: What ends a document within a file, or none, as gpt prepare files has it.
        encoding: Encoding of files that are neither UTF-8 nor marked, such as cp1252.
        passages: How many passages, or rows, are shown of those where each run is ahead by most; 0 shows none.
        json: Print one JSON object instead.
        device: Where to compute; auto takes CUDA, else MPS, else the CPU.
        dtype: Precision of the weights, as gpt sample has it.
    """
    require(passages >= 0, "`passages`", passages, "at least 0")
    one, two = by_name(a), by_name(b)
    for path in (one, two):
        require_model(path)
    place, how = choose_device(device), ReadOptions(field, separator, encoding)
    task = by.open(bool(data or text or how != ReadOptions()))
    if isinstance(task, Core):
        raise InputError("`task`: gpt compare shows rows of one task; by CORE, runs are compared by gpt eval --against")
    if task:
        loads = [partial(load_run, path, place, dtype) for path in (one, two)]
        compare_rows(task, loads, precision(dtype, place), passages, json)
    else:
        protocol = Protocol(corpus_of(one, data, text, how), place, dtype, None, None)
        _compare_texts(one, two, protocol, passages, json, on_purpose=data is not None)


def _compare_texts(one: Path, two: Path, protocol: Protocol, passages: int, json: bool, on_purpose: bool) -> None:
    """Compare two runs by the loss on each passage of a text; `on_purpose`: of a dataset that was named."""
    first = _first(one, protocol, on_purpose)
    other, differences = compared(first, load_run(two, protocol.device, protocol.dtype), protocol)
    pieces = paired(first.measured, other.measured, first.tokenizer.fingerprint == other.tokenizer.fingerprint)
    shown = [list(_passages(pieces, first, protocol.corpus, passages, ahead)) for ahead in (-1, 1)]
    if json:
        print(json_text(_as_json(first, other, differences, pieces, shown, protocol)), flush=True)
    else:
        print(printable(_as_text(first, other, differences, pieces, shown, protocol)), flush=True)
        if len(differences) == 1:
            log.info("their tokenizers differ: they are compared document by document, in bits per byte")
        log.info(_next(one, two, differences["bits_per_byte"]))


def _next(one: Path, two: Path, bits: Difference) -> str:
    """Say how to go on: with the better one, or with more text, if this is too little to tell."""
    if bits.verdict == TIE:
        return f"which is better cannot be told on this text; try more: {command('compare')} A B --text FILES"
    return f"sample from the better one: {command('sample')} --run {quoted(two if bits.value < 0 else one)}"


def _first(run: Path, protocol: Protocol, on_purpose: bool) -> ModelResult:
    """Measure the first run; its model is not held any longer."""
    loaded = load_run(run, protocol.device, protocol.dtype)
    if protocol.corpus.dataset:
        require_own_data(loaded, protocol.corpus.dataset, on_purpose)
    return measure(loaded, protocol)


def _passages(
    pieces: PairedPieces, first: ModelResult, corpus: EvaluationText, most: int, ahead: int
) -> Iterator[Passage]:
    """Yield the pieces on which one run is ahead by most bits: the first one's with `ahead` −1, the other's with 1."""
    won, ends = ahead * pieces.bits_won, np.append(pieces.starts[1:], first.measured.windows.split.tokens)
    split, tokenizer = first.measured.windows.split, first.tokenizer
    documents, names = Documents(split, tokenizer), Names(corpus.dataset) if corpus.dataset else None
    for place in np.argsort(-won, kind="stable")[:most].tolist():
        if won[place] <= 0:
            break
        start, end = int(pieces.starts[place]), int(ends[place])
        number = int(documents.numbers(np.array([start]))[0])
        name = names("validation", number) if names else ""
        ids = split.read(start, min(end - start, EXCERPT))
        sizes = np.maximum(pieces.first[place, BYTES], 1) * math.log(2)
        yield Passage(
            float(pieces.bits_won[place]),
            (float(pieces.first[place, NATS] / sizes), float(pieces.other[place, NATS] / sizes)),
            f"document {number:,}{f' ({name})' if name else ''}, line {documents.line(start):,}",
            tokenizer.decode(ids[ids != tokenizer.end_of_text].tolist())[:EXCERPT],
        )


def _ahead(pieces: PairedPieces) -> tuple[int, int]:
    """Count the pieces on which the first run is ahead, and those on which the other is."""
    won = pieces.bits_won
    return int((won < 0).sum()), int((won > 0).sum())


def _as_text(
    first: ModelResult,
    other: ModelResult,
    differences: dict[str, Difference],
    pieces: PairedPieces,
    shown: list[list[Passage]],
    protocol: Protocol,
) -> str:
    counts = _ahead(pieces)
    both = (("A", first), ("B", other))
    rows = [(name, f"{bits_words(result.evaluation)} bits per byte: {result.source}") for name, result in both]
    rows += [("difference", f"{difference_words(d, name)}: B {_verdict(d)} A") for name, d in differences.items()]
    rows.append(("passages", f"of {len(pieces.starts):,}, A is ahead on {counts[0]:,} and B on {counts[1]:,}"))
    rows.append(("protocol", f"{protocol.corpus.name}, {protocol.precision}"))
    lines = [f"{name:12} {words}" for name, words in rows]
    for name, found in zip("AB", shown, strict=True):
        lines += [f"\n{name} is ahead by most on"] if found else []
        for passage in found:
            one, two = passage.bits_per_byte
            bits = f"{abs(passage.bits_won):.1f} bits (A {one:.2f}, B {two:.2f} per byte)"
            lines += [f"  {bits}: {passage.where}", f"    {one_line(passage.text)}"]
    return "\n".join(lines)


def _verdict(found: Difference) -> str:
    return found.verdict if found.verdict == TIE else f"is {found.verdict}"


def _as_json(
    first: ModelResult,
    other: ModelResult,
    differences: dict[str, Difference],
    pieces: PairedPieces,
    shown: list[list[Passage]],
    protocol: Protocol,
) -> dict[str, Any]:
    counts = _ahead(pieces)
    return {
        "data": protocol.corpus.name,
        "precision": protocol.precision,
        "runs": [result_json(first, {}), result_json(other, differences)],
        "pieces": len(pieces.starts),
        "ahead": [*counts],
        "passages": [[asdict(passage) for passage in found] for found in shown],
    }
