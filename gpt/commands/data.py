"""Check a dataset, and show its documents, where they come from, and what a step of training read."""

import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from tyro.conf import DisallowNone, Positional, arg
from tyro.extras import subcommand_cli_from_dict

from gpt.config_io import later, parse
from gpt.corpus.ledger import LEDGER, losses
from gpt.corpus.origins import Names, has_ledger, names_of
from gpt.corpus.verify import verify_records
from gpt.dataset.dataset import Dataset, open_dataset
from gpt.dataset.documents import Documents
from gpt.dataset.manifest import SPLITS, ShardInfo, describe
from gpt.dataset.mixture import open_weighted
from gpt.dataset.samples import sample_pieces
from gpt.dataset.verify import verify_shards
from gpt.errors import InputError, did_you_mean
from gpt.hashing import row_hashes
from gpt.interrupts import Interruptible
from gpt.log import Progress, log
from gpt.runs.directory import by_name, read_config
from gpt.terminal import one_line, printable, show
from gpt.tracking.jsonl import read_metrics

if TYPE_CHECKING:
    from gpt.config import TrainConfig
    from gpt.dataset.loader import Loader

FAULTY = 1  # exit code: it was looked at, and something is not as it should be, or not there
LISTED, BEGINNING = 5, 60  # documents in the overview, and characters of each
DESCRIPTION = "Check a dataset, or show what is in it. gpt data NAME --help lists the options."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `gpt data verify` or `gpt data show`; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {"verify": later(verify), "show": later(show_data)}
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        raise InputError(f"there is no gpt data {arguments[0]!r}; {did_you_mean(arguments[0], commands)}")
    with Interruptible():
        shown = {"prog": "gpt data", "description": DESCRIPTION, "config": (DisallowNone,)}
        return parse(subcommand_cli_from_dict, commands, arguments, None, **shown)()


def _require_dataset(directory: Path) -> None:
    """Raise InputError where there is none, which lists those that there are."""
    if directory.exists():
        return
    there = sorted(str(path.parent) for path in Path("data").glob("*/manifest.json"))
    near = get_close_matches(str(Path("data") / directory.name), there, n=1, cutoff=0.8)
    known = f"; there are: {', '.join(there)}" if there else ", nor in data/; make one: gpt prepare"
    raise InputError(f"{directory}: there is no dataset here{f'; did you mean {near[0]}?' if near else known}")


def verify(directory: Annotated[Path, Positional, arg(metavar="DIR")]) -> int:
    """Check every file of tokens: header, size, ids and hash. Exit code 1 if one is not as it should be.

    All of it is read again, whatever was checked before. Other programs' shards have no hashes to compare with. Of
    ours, report, ledger, slices and split are checked, too.

    Args:
        directory: The dataset's directory, such as data/python.
    """
    _require_dataset(directory)
    tokens = bad = count = masks = 0
    splits = set(SPLITS)
    for shard in verify_shards(directory):
        count += 1
        splits.discard(shard.split)
        if isinstance(shard.found, ShardInfo):
            masks += shard.is_mask
            tokens += 0 if shard.is_mask else shard.found.tokens
            largest = "a mask of 0 and 1 " if shard.is_mask else f"largest id {shard.found.largest_id:>7,}"
            facts = f"{shard.found.tokens:>15,} tokens  {largest}  ok"
        else:
            bad += 1
            facts = f"{'damaged':>15}"
            log.error(f"error: {shard.found}")
        print(f"{shard.file:26} {shard.split:10} {facts}", flush=True)
    for split in splits:
        log.warning(f"{directory}: has no {split} shard, without which nothing can be trained on it")
    for fault in (records := [*verify_records(directory)]):
        log.error(f"error: {fault}")
    files = "shards and masks" if masks else "shards"
    if bad:
        log.error(f"{directory}: {bad} of {count} {files} cannot be used")
    elif records:
        log.error(f"{directory}: its {files} are well, and what lies beside them is not")
    if bad or records:
        return FAULTY
    against = "as manifest.json says" if (directory / "manifest.json").exists() else "no manifest.json, so no hashes"
    log.info(f"{directory}: {count:,} {files}, {tokens:,} tokens: all is well ({against})")
    return 0


def show_data(
    directory: Annotated[Path | None, Positional, arg(metavar="[DIR]", help_behavior_hint="")] = None,
    split: Literal["train", "validation"] | None = None,
    document: int | None = None,
    text: str | None = None,
    run: Path | None = None,
    step: int | None = None,
    dropped: Annotated[tuple[str, ...] | None, arg(metavar="[REASON]", help_behavior_hint="")] = None,
) -> int:
    """Show a dataset: its sizes and first documents, or what an option asks for.

    A document is what stands between two end-of-text tokens. They are numbered from 0, in each split by itself.

    Args:
        directory: The dataset's directory, such as data/python. With --run it may be left out: the run knows its own.
        split: Show documents of this split; otherwise those of train, or with --text of both.
        document: Print the whole document of this number.
        text: Find this text, letter for letter, and print each place where it stands. Exit code 1 if there is none.
        run: With --step: print the text that a step of this run has read. Exit code 1 if the data has changed since.
        step: The number of that step, the first being 1.
        dropped: Print what was left out of the input, and why: all, or that with this reason. Exit code 1 if nothing.
    """
    if dropped is not None and split:
        raise InputError("--split and --dropped: what was left out is in neither split; leave --split out")
    _require_one(document, text, run, step, dropped)
    run = by_name(run) if run else None
    config = read_config(run) if run else None
    if run and config and step:
        if split == "validation":
            raise InputError("--split validation: no step reads that; leave --split out with --run")
        dataset = open_dataset(directory) if directory else open_weighted(config.datasets)
        return _show_step(dataset, run, config, step)
    if directory is None:
        first = " first: gpt data show DIR --dropped REASON" if dropped else ""
        raise InputError(f"name a dataset, as data/python,{first or ' or a run with --run'}")
    _require_dataset(directory)
    if dropped is not None:
        return _show_dropped(directory, " ".join(dropped))
    dataset = open_dataset(directory)
    if text is not None:
        return _show_places(dataset, text, [split] if split else ["train", "validation"])
    if document is not None:
        _show_document(dataset, split or "train", document)
    else:
        _show_overview(dataset, split or "train")
    return 0


def _require_one(
    document: int | None, text: str | None, run: Path | None, step: int | None, dropped: tuple[str, ...] | None
) -> None:
    if sum(option is not None for option in (document, text, run, dropped)) > 1:
        raise InputError("--document, --text, --run and --dropped: give one of them")
    if (run is None) != (step is None):
        raise InputError("--run and --step: give both, as --run runs/python-nano --step 12")
    if step is not None and step < 1:
        raise InputError(f"--step is {step}; it must be at least 1")


def _documents(dataset: Dataset, split: str) -> Documents:
    return Documents(dataset.train if split == "train" else dataset.validation, dataset.tokenizer)


def _show_overview(dataset: Dataset, listed: str) -> None:
    counts, names = {}, Names(dataset)
    for split in (dataset.train, dataset.validation):
        infos = [info for info in dataset.shards if info.split == split.name]
        count = sum(info.documents for info in infos) or _documents(dataset, split.name).count()
        size = sum(info.text_bytes for info in infos)
        text = f"  {size:,} bytes of text" if size else ""
        if split.is_masked:
            text = f"{text}  {split.count_learned(0, split.tokens):,} tokens learned"
        print(f"{split.name:10} {split.tokens:>15,} tokens  {count:,} documents  {len(infos):,} shards{text}")
        counts[split.name] = count
    documents = _documents(dataset, listed)
    shown = min(LISTED, counts[listed])
    for number in range(shown):
        span = documents.span(number)
        beginning = "".join(documents.text(span[: 4 * BEGINNING]))
        name = names(listed, number)
        source = f" of {name}" if name else ""
        print(f"{listed} {number}: {len(span):,} tokens{source}: {one_line(beginning)[:BEGINNING]}")
    if shown:
        which = f"the first {shown} of {counts[listed]:,} documents" if counts[listed] > shown else "all documents"
        option = f"--split {listed} --document {counts[listed] - 1}"
        path = shlex.quote(str(dataset.path))
        log.info(f"these are {which} of {listed}; a whole one, by its number: gpt data show {path} {option}")
    if dataset.corpus_fingerprint:
        log.info(f"corpus fingerprint: {dataset.corpus_fingerprint}")


def _show_document(dataset: Dataset, split: str, number: int) -> None:
    documents = _documents(dataset, split)
    span = documents.span(number)
    name = Names(dataset)(split, number)
    log.info(
        f"{dataset.path}: document {number:,} of {split}, {len(span):,} tokens from token {span.start:,}"
        f"{f', of {name}' if name else ''}"
    )
    _show_text(documents.text(span))
    with_end = range(span.start, min(span.stop + 1, documents.split.tokens))
    learned = documents.split.learned(with_end.start, len(with_end))
    for part in np.split(with_end, np.flatnonzero(np.diff(learned)) + 1) if documents.split.is_masked else []:
        if learned[part[0] - span.start]:
            answer = "".join(documents.text(range(int(part[0]), int(part[-1]) + 1)))
            log.info(one_line(f"learned: {len(part):,} tokens: {answer}"))


def _show_text(pieces: Iterator[str]) -> None:
    """Write a text, and on a terminal the end of its last line."""
    last = "\n"
    for piece in pieces:
        show(piece)
        last = piece[-1:] or last
    if last != "\n" and sys.stdout.isatty():
        print()


def _show_places(dataset: Dataset, text: str, splits: list[str]) -> int:
    count, names = 0, Names(dataset)
    for split in splits:
        for match in _documents(dataset, split).find(text):
            count += 1
            where = f"{split} document {match.document}, line {match.line}, byte {match.byte}, token {match.token}"
            name = names(split, match.document)
            print(f"{f'{name}: ' if name else ''}{where}: {one_line(match.excerpt)}", flush=True)
    log.info(f"{dataset.path}: {'nowhere' if not count else f'{count:,} places'} in {' and '.join(splits)}")
    return 0 if count else FAULTY


def _show_dropped(directory: Path, wanted: str) -> int:
    """Print what was left out of a dataset, or kept with a loss, if its reason has the word that is wanted."""
    if not has_ledger(directory):
        describe(directory)  # which says so if there is no dataset
        raise InputError(
            f"{directory}: has no {LEDGER}, which says what became of each document: another program wrote it, or an "
            "older version of this one; prepare it again"
        )
    counts = Counter[str]()
    with Progress() as progress:
        progress.doing = f"reading {directory / LEDGER}"
        for loss in losses(directory, wanted):
            counts[loss.fate] += 1
            size = "unread" if loss.bytes is None else f"{loss.bytes:,} bytes"
            print(f"{loss.fate:8} {size:>19}  {one_line(loss.name)}: {one_line(loss.reason)}")
    found = ", ".join(f"{count:,} {fate}" for fate, count in sorted(counts.items(), reverse=True))
    log.info(
        f"{directory}: {found or 'nothing'}{' that was left out, or kept with a loss' if not found else ''}"
        f"{f', for reasons with {wanted!r}' if wanted else ''}"
    )
    return 0 if counts else FAULTY


def _show_step(dataset: Dataset, run: Path, config: "TrainConfig", step: int) -> int:
    """Print the samples of a step. 1 if they are not what the run has recorded."""
    from gpt.training.start import training_loader  # which loads torch, as only a step needs it

    dataset.require_window(config.model.context_length)
    loader = training_loader(config, dataset)
    agrees = _agrees(loader, dataset, run, step)
    documents = [_documents(source.dataset, "train") for source in dataset.sources]
    pieces = [*sample_pieces(loader, documents, loader.samples(step - 1))]
    names = names_of(dataset, pieces)
    for read in pieces:
        those = f"document {read.first}" if read.first == read.last else f"documents {read.first} to {read.last}"
        those = f"{those} of {dataset.sources[read.source].dataset.path}" if len(dataset.sources) > 1 else those
        place = f"train tokens {read.span[0]} to {read.span[-1]}"
        print(f"step {step}, sample {read.sample}, epoch {read.epoch}, {place}, {those}:")
        for number in range(read.first, read.last + 1):
            if name := names.get((read.source, number)):
                line = f", from line {documents[read.source].line(read.span[0])}," if number == read.first else ""
                print(f"document {number}{line} is of {name}")
        content = "".join(documents[read.source].text(read.span))
        print(printable(content) if sys.stdout.isatty() else content, end="\n\n")
    return 0 if agrees else FAULTY


def _agrees(loader: "Loader", dataset: Dataset, run: Path, step: int) -> bool:
    """Compare with the hash that the run recorded, of this step or else of the nearest, and say what came out."""
    records = [record for record in read_metrics(run) if isinstance(record.get("batch_hash"), str)]
    if not records:
        log.warning(f"{run}: has recorded no step yet, so that nothing says whether this is what it reads")
        return True
    nearest = min(records, key=lambda record: abs(record["step"] - step))
    samples, batch = loader.samples(nearest["step"] - 1), loader.batch(nearest["step"] - 1)
    hashed = int(row_hashes(samples, *batch.tensors).sum()) % 2**64
    of_step = f"of step {nearest['step']:,}" + ("" if nearest["step"] == step else ", the nearest that is recorded,")
    if nearest["batch_hash"] != f"{hashed:016x}":
        log.warning(
            f"{run}: has read something else than this: the hash {of_step} is another one; {dataset.path} was changed, "
            "or the run's seed, batch_tokens, windows, document_mask or context; or an earlier version recorded it"
        )
        return False
    read = "has read" if step <= records[-1]["step"] else "will read, which it has not come to,"
    log.info(f"{run}: this is what step {step:,} {read} as the hash {of_step} says")
    return True
