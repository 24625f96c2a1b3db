"""Tell whether a run has learned its training text or memorized it, and what samples share with that text."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff

from gpt.choices import Device, WeightDtype
from gpt.commands import json_text
from gpt.config import TrainConfig
from gpt.config_io import later, parse
from gpt.corpus.origins import Names
from gpt.dataset.dataset import Dataset, open_dataset
from gpt.dataset.documents import Documents
from gpt.dataset.mixture import open_weighted
from gpt.device import choose_device
from gpt.errors import InputError, OutOfMemory, require
from gpt.evaluation.copies import BY_HEART, Copies, find_copies
from gpt.evaluation.course import Course
from gpt.evaluation.memorization import Memorization, Sides
from gpt.evaluation.passages import MOST, Passages
from gpt.evaluation.verdict import sentence, verdict_json, verdict_rows
from gpt.generation.completion import TextEngine
from gpt.generation.sampling import SamplingConfig, draw_logprob
from gpt.interrupts import Interruptible
from gpt.log import Progress, log
from gpt.runs.directory import by_name, is_run, newest_run, read_config
from gpt.runs.growing import beginning
from gpt.runs.load import LoadedRun, load_run, require_model
from gpt.terminal import one_line, printable
from gpt.text.added import extends
from gpt.text.tokenizer import Tokenizer
from gpt.tracking.jsonl import read_metrics
from gpt.training.samples import sample_prompt

SAMPLES, SAMPLE_TOKENS, SEED = 100, 200, 1
NO_BASE = "a model that finds all tokens equally likely"
SHOWN, EXCERPT = 5, 60  # stretches that are shown, and characters of each


def main(arguments: Sequence[str] | None = None) -> None:
    with Interruptible():
        parse(tyro.cli, later(memorized), arguments, config=(DisallowNone,))()


def memorized(
    run: Path | None = None,
    checkpoint: str = "best",
    base: str | None = None,
    data: Path | None = None,
    passages: int = MOST,
    samples: int = SAMPLES,
    json: FlagCreatePairsOff[bool] = False,
    device: Device = "auto",
    dtype: WeightDtype = "float32",
) -> None:
    """Tell whether a run has learned its training text or memorized it.

    The run and its base read passages of training and validation text.

    Args:
        run: Run, by path or by name below runs/; by default the newest run.
        checkpoint: Of the run: best, last, or the number of a step.
        base: Run or Hugging Face GPT-2 to compare with; by default what its weights began with, or from scratch chance.
        data: Dataset directory; by default what the run was trained on.
        passages: Passages of each split at the most, of 100 tokens each; fewer take less time.
        samples: Samples of 200 tokens that are searched for in the training text; 0 draws none.
        json: Print one JSON object instead.
        device: Where to compute; auto takes CUDA, else MPS, else the CPU.
        dtype: Precision of the weights, as gpt sample has it.
    """
    require(samples >= 0, "`samples`", samples, "at least 0")
    path = by_name(run) if run else newest_run(with_checkpoint=True)
    require_model(path)
    if not is_run(path):
        raise InputError(f"`run` {path}: is no run of this program, which alone has its training text beside it")
    place = choose_device(device)
    dataset = open_dataset(data) if data else open_weighted(read_config(path).datasets)
    with Progress() as progress:
        progress.doing = f"reading {path}"
        found, tuned = _examined(path, checkpoint, base, dataset, passages, (place, dtype), progress)
        progress.doing = f"sampling from {path}"
        drawn = _sampled(tuned, dataset, samples)
        progress.doing = f"searching {dataset.path} for what {samples} samples share with it"
        texts = [*drawn, *_of_validation(dataset, drawn)]
        both = find_copies(texts, dataset.train, tuned.tokenizer)
        copies = [Copies(some, both.searched) for some in (both.found[: len(drawn)], both.found[len(drawn) :])]
    if json:
        print(json_text(_as_json(tuned, dataset, found, copies)), flush=True)
    else:
        print(printable(_as_text(tuned, dataset, found, copies)), flush=True)


# ---- the verdict ----


def _examined(
    path: Path,
    checkpoint: str,
    base: str | None,
    dataset: Dataset,
    most: int,
    how: tuple[str, WeightDtype],
    progress: Progress,
) -> tuple[Memorization, LoadedRun]:
    """Read the passages with the run's base, with its checkpoint, and with others of its checkpoints."""
    config = read_config(path)
    source = config.init_from if base is None else base
    began = None if source == "scratch" else _loaded_base(config, base, how, dataset.tokenizer)
    context = min(each.context_length for each in (config.model, *([began.config] if began else [])))
    drawn = partial(draw_logprob, sampling=SamplingConfig())
    passages = Passages(dataset, context, how[0], drawn, most, config.document_mask)
    if began:
        _require_same_ids(began, dataset)
    progress.doing = f"reading passages with {source if began else 'no base'}"
    of_base = [passages.read(began.model if began else None, split) for split in (passages.train, passages.validation)]
    name = began.source if began else NO_BASE
    del began
    progress.doing = f"reading passages with {path}"
    tuned = load_run(path, *how, checkpoint=checkpoint)
    _require_same_ids(tuned, dataset)
    course = Course(path, passages, *how)
    own = course.take(tuned)
    points, kind = course.told(read_metrics(path), of_base if base is None and source != "scratch" else None)
    found = Memorization(
        *map(Sides, of_base, own),
        step=tuned.state["step"],
        base=name,
        prompt=passages.length - passages.suffix,
        suffix=passages.suffix,
        by_frequency=passages.by_frequency,
        rise=course.rise(tuned.state["step"]),
        course=points,
        course_source=kind,
        course_windows=tuned.state.get("evaluated_windows") or 0 if kind == "training" else 0,
    )
    return found, tuned


def _loaded_base(
    config: TrainConfig, base: str | None, how: tuple[str, WeightDtype], tokenizer: Tokenizer
) -> LoadedRun:
    """Load the base, with rows for the special tokens that the data has and it lacks."""
    try:
        return beginning(config, tokenizer, *how, base=base)
    except InputError as error:
        raise InputError(f"{error} (name what the run began with by `base`)") from None


def _require_same_ids(loaded: LoadedRun, dataset: Dataset) -> None:
    """Raise InputError for a model of other ids; warn where it has no tokenizer by which that could be known."""
    own = dataset.tokenizer
    try:
        wanted = loaded.tokenizer
    except InputError as error:
        if loaded.config.vocab_size < own.vocab_size:
            raise InputError(f"{loaded.path}: has {loaded.config.vocab_size:,} ids, and {dataset.path} more") from None
        log.warning(
            f"the tokenizer of {loaded.path} cannot be compared with that of {dataset.path}, only its size ({error})"
        )
        return
    is_grown = loaded.config.vocab_size == own.vocab_size and extends(own, wanted)
    if wanted.fingerprint != own.fingerprint and not is_grown:
        raise InputError(
            f"{dataset.path}: is written with another tokenizer than {loaded.path}; prepare the data with that one, or "
            "name another `base` or other `data`"
        )


# ---- what samples share with the training text ----


def _sampled(run: LoadedRun, dataset: Dataset, samples: int) -> list[np.ndarray]:
    """Draw samples, as gpt sample does by default, all at once: the ids of each, without those of the prompt."""
    if not samples:
        return []
    engine = TextEngine(run.model, run.tokenizer, samples, ends=run.answer_ends)
    sampling = SamplingConfig(max_tokens=SAMPLE_TOKENS, seed=SEED)
    ids: dict[int, list[int]] = {}
    try:
        with log.through(logging.NullHandler()):  # of a context that is outgrown
            for number, _, sample in engine.complete([sample_prompt(dataset)], sampling, samples):
                ids[number] = sample.ids
    except OutOfMemory:
        raise InputError(
            f"out of memory with {samples} samples at once: give fewer `samples`, or another `device`"
        ) from None
    return [np.array(ids[number], dtype=np.int64) for number in range(samples)]


def _of_validation(dataset: Dataset, drawn: list[np.ndarray]) -> list[np.ndarray]:
    """Cut pieces of validation text as long as the samples, spread evenly."""
    split = dataset.validation
    starts = [i * max(0, split.tokens - SAMPLE_TOKENS) // max(1, len(drawn)) for i in range(len(drawn))]
    return [split.read(start, min(len(ids), split.tokens - start)) for start, ids in zip(starts, drawn, strict=True)]


@dataclass(frozen=True)
class _Placed:
    """Where a stretch stands that a sample shares with the training text."""

    sample: int
    characters: int
    file: str
    """'' where that is not known."""
    document: int
    """Of its dataset's training split, from 0."""
    line: int
    """Of the document, from 1, in which it begins."""
    dataset: str
    text: str


def _placed(dataset: Dataset, copies: Copies) -> list[_Placed]:
    """Find where the longest stretches stand, the longest first, each once."""
    order = sorted(range(len(copies.found)), key=lambda number: copies.found[number].characters)
    last = {copies.found[number].text: number for number in order if copies.found[number].text}
    chosen = [*last.values()][: -SHOWN - 1 : -1]
    ends = [*accumulate(source.dataset.train.tokens for source in dataset.sources)]
    placed = []
    for number in chosen:
        copy = copies.found[number]
        index = bisect_right(ends, copy.place)
        source = dataset.sources[index].dataset
        place = copy.place - (ends[index] - source.train.tokens)
        documents = Documents(source.train, dataset.tokenizer)
        document = int(documents.numbers(np.array([place]))[0])
        where = Names(source)("train", document), document, documents.line(place) + copy.lines, str(source.path)
        placed.append(_Placed(number, copy.characters, *where, copy.text))
    return placed


# ---- what is shown ----


def _as_text(run: LoadedRun, dataset: Dataset, found: Memorization, copies: list[Copies]) -> str:
    rows = verdict_rows(found)
    if copies[0].found:
        rows.append(("samples", f"stretches that stand in the training text: {_lengths(copies[0])}"))
        rows.append(("", f"of as much validation text: {_lengths(copies[1])}"))
    lines = [f"{name:16} {text}" for name, text in rows]
    for placed in _placed(dataset, copies[0]):
        where = f"document {placed.document:,}, line {placed.line:,}"
        where = f"{placed.file}: {where}" if placed.file else f"{placed.dataset}: {where}"
        excerpt = one_line(placed.text)
        more = "…" if len(excerpt) > EXCERPT else ""
        plural = "s" * (placed.characters != 1)
        lines.append(f"{'':16} {placed.characters:,} character{plural} of {where}: {excerpt[:EXCERPT]}{more}")
    return "\n".join([f"{run.source}, on {dataset.path}", sentence(found), *lines])


def _lengths(copies: Copies) -> str:
    count = f"{copies.by_heart:,} of {len(copies.found):,} have {BY_HEART}+"
    return f"{copies.longest:,} characters at the most, median {copies.median:,}, {count}"


def _as_json(run: LoadedRun, dataset: Dataset, found: Memorization, copies: list[Copies]) -> dict[str, Any]:
    def of(some: Copies) -> dict[str, Any]:
        return {
            "count": len(some.found),
            "longest_characters": some.longest,
            "median_characters": some.median,
            f"with_{BY_HEART}_characters": some.by_heart,
        }

    samples = of(copies[0]) | {"longest": [asdict(placed) for placed in _placed(dataset, copies[0])]}
    entry = {"source": run.source, "data": str(dataset.path)}
    return entry | verdict_json(found) | {"samples": samples, "validation_text": of(copies[1])}
