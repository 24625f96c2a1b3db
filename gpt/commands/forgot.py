"""Tell what a run has forgotten: how much worse than its base it predicts other text."""

import json as json_module
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff

import gpt.evaluation
from gpt.choices import Device, WeightDtype
from gpt.commands.evaluate import (
    EvaluationText,
    ModelResult,
    Protocol,
    compared,
    corpus_of,
    has_mask,
    measure,
    result_json,
)
from gpt.config_io import later, parse
from gpt.corpus.documents import AUTO, ReadOptions
from gpt.corpus.sources import TextFiles
from gpt.corpus.text_split import text_split
from gpt.device import choose_device
from gpt.errors import InputError
from gpt.evaluation.compare import Difference
from gpt.evaluation.words import around, difference_words, figure
from gpt.interrupts import Interruptible
from gpt.log import log
from gpt.runs.directory import by_name, is_run, newest_run, read_config
from gpt.runs.growing import beginning
from gpt.runs.load import LoadedRun, load_run, load_tokenizer, model_config, require_model
from gpt.terminal import printable

OTHER_TEXT = Path(gpt.evaluation.__path__[0]) / "other_text.txt"  # of ten kinds, written for this package
SEPARATOR = "===="


def main(arguments: Sequence[str] | None = None) -> None:
    with Interruptible():
        parse(tyro.cli, later(forgot), arguments, config=(DisallowNone,))()


def forgot(
    run: Path | None = None,
    checkpoint: str = "best",
    base: str | None = None,
    data: Path | None = None,
    text: tuple[Path, ...] = (),
    field: str | None = None,
    separator: str = AUTO,
    encoding: str | None = None,
    json: FlagCreatePairsOff[bool] = False,
    device: Device = "auto",
    dtype: WeightDtype = "float32",
) -> None:
    """Tell how much worse than its base a run predicts other text.

    Args:
        run: Run, by path or by name below runs/; by default the newest run.
        checkpoint: Of the run: best, last, or the number of a step.
        base: What it is compared with, a run or a Hugging Face GPT-2; by default what its weights began with.
        data: Dataset directory, of which the validation split is the other text.
        text: Files and directories of text instead; by default a text of the package, 12 KB of English and some code.
        field: Field or column of JSON, CSV, TSV and Parquet that holds the text.
        separator: What ends a document within a file, or none, as gpt prepare files has it.
        encoding: Encoding of files that are neither UTF-8 nor marked, such as cp1252.
        json: Print one JSON object instead.
        device: Where to compute; auto takes CUDA, else MPS, else the CPU.
        dtype: Precision of the weights, as gpt sample has it.
    """
    path = by_name(run) if run else newest_run(with_checkpoint=True)
    require_model(path)
    reading = ReadOptions(field, separator, encoding)
    source = _base_of(path) if base is None else base
    context = min(model_config(name).context_length for name in (source, path))  # both see as much
    how = choose_device(device), dtype
    corpus = corpus_of(path, data, text, reading) if data or text or reading != ReadOptions() else _package_text(path)
    protocol = Protocol(corpus, *how, None, None, context, has_mask(path))  # by which both are measured
    began = _beginning(path, *how) if base is None else load_run(base, *how)
    first = measure(began, protocol, chosen_by_loss=False)
    tuned, differences = compared(first, load_run(path, *how, checkpoint=checkpoint), protocol)
    if json:
        runs = [result_json(first, {}), result_json(tuned, differences)]
        found = {"data": protocol.corpus.name, "precision": protocol.precision, "sentence": _sentence(differences)}
        print(json_module.dumps(found | {"base": runs[0], "run": runs[1]}), flush=True)
    else:
        print(printable(_as_text(first, tuned, differences, protocol)), flush=True)


def _base_of(run: Path) -> str:
    """Give what a run's weights began with. Raises InputError if that was nothing."""
    source = read_config(run).init_from if is_run(run) else "scratch"
    if source == "scratch":
        raise InputError(f"{run}: began with no other weights, so that it can have forgotten nothing; name a `base`")
    return source


def _beginning(run: Path, device: str, dtype: WeightDtype) -> LoadedRun:
    """Load what a run's weights began with, in the ids of the run: its own tokenizer may be none, or have fewer."""
    return replace(beginning(read_config(run), load_tokenizer(run), device, dtype), path=run)


def _package_text(run: Path) -> EvaluationText:
    """Read the text of the package in the ids of the run. Raises InputError for a character that these lack."""
    tokenizer = load_tokenizer(run)
    try:
        with log.through(logging.NullHandler()):  # nobody asks how it is divided
            split = text_split(TextFiles([OTHER_TEXT], how=ReadOptions(separator=SEPARATOR)), tokenizer)
    except InputError as error:
        raise InputError(f"{error}; name other text, with `text` or `data`") from None
    return EvaluationText("the text of this package", split, tokenizer)


def _sentence(differences: dict[str, Difference]) -> str:
    """Say what was forgotten; by the loss, or between different tokenizers by the bits per byte."""
    name = "loss" if "loss" in differences else "bits_per_byte"
    found = differences[name]
    words = difference_words(found, name)
    if found.verdict == "worse than":
        return f"Forgotten: on this text the run is worse than its base, by {words}."
    if found.verdict == "better than":
        return f"Nothing forgotten: on this text the run is better than its base, by {words}."
    return f"Nothing forgotten that can be told from chance: on this text the run differs from its base by {words}."


def _as_text(first: ModelResult, tuned: ModelResult, differences: dict[str, Difference], protocol: Protocol) -> str:
    rows = []
    for name, result in (("base", first), ("run", tuned)):
        e = result.evaluation
        loss = figure(f"{e.loss:.4f}", e.loss_se, around(e.loss, e.loss_se, e.factor), 4, " nats per token")
        rows.append((name, f"{loss}, {e.bits_per_byte:.4f} bits per byte: {result.source}"))
    rows += [("difference", difference_words(found, name)) for name, found in differences.items()]
    e = first.evaluation
    rows.append(("other text", f"{protocol.corpus.name}: {e.tokens:,} tokens, {e.text_bytes:,} bytes"))
    inside = ", inside documents" if e.document_mask else ""
    rows.append(("protocol", f"context {e.context_length:,}{inside}, {protocol.precision}"))
    return "\n".join([_sentence(differences), *(f"{name:12} {words}" for name, words in rows)])
