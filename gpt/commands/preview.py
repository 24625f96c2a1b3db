"""What `gpt prepare … --dry-run` prints: what is in a corpus, how many tokens it gives, which training suits it here.

It takes about ten seconds, whatever the corpus's size, and writes nothing. Of a large corpus, all but the numbers of
files and their bytes are estimates from a part of it.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt.commands import as_flags
from gpt.commands.train import settle
from gpt.commands.train_options import parse_train
from gpt.corpus.assembly import SMALLEST_WINDOW
from gpt.corpus.download import bytes_in_words, missing
from gpt.corpus.pipeline import replaceable
from gpt.corpus.preview import Preview
from gpt.corpus.reading import Filters
from gpt.corpus.recipes import Recipe, Remote
from gpt.corpus.recipes.files import Files
from gpt.corpus.split import MAX_CHARACTERS, Piece
from gpt.corpus.vocabulary import AUTO, SAMPLE_CHARACTERS, SplitSizes, make_tokenizer, suitability
from gpt.dataset.dataset import Dataset
from gpt.dataset.manifest import SPLITS
from gpt.dataset.shards import Split
from gpt.device import choose_device
from gpt.distributed.launch import join_world
from gpt.errors import InputError
from gpt.log import Progress, log
from gpt.terminal import one_line
from gpt.text.tokenizer import Tokenizer
from gpt.tracking.progress import duration
from gpt.training.exact import exact_arithmetic
from gpt.training.forecast import Forecast

Row = tuple[str, str]
BUDGET = 1 << 24  # bytes of a corpus that are read, or come of them
LEARNED, ENCODED = 4_000_000, 2_000_000  # characters that a tokenizer is learned from here, and tried on
USUAL_SHARE = 0.1  # that validates, where a recipe has no such setting
MOST_NAMED = 8  # formats and the like
MOST_SHOWN = 3  # of what is shown by an example
MOST_FILES = 5  # to be downloaded, that are named


def dry_run(recipe: Recipe, tokenizer: str | Tokenizer) -> None:
    """Print what preparing a corpus would find and write, with a tokenizer, or one of the kind that is named.

    Raises InputError if that cannot be.
    """
    place = recipe.place().expanduser()
    recipe.split()
    filters = recipe.filters() if isinstance(recipe, Files) else Filters()
    if isinstance(recipe, Remote):
        files, directory = recipe.downloads()
        if lacking := missing(files, directory):
            _show(_download_rows([(file.name, file.size) for file in lacking], len(files), directory))
            log.info("what is in them is known once they are here")
            return
    replaceable(place, recipe.record()["name"])
    with Progress() as progress:
        found = Preview(recipe.source(), filters, progress, BUDGET)
        _show(_found_rows(found))
        if not found.counts["documents"]:
            raise InputError("there is no text in the input")
        progress.doing = "trying the tokenizer"
        sizes, share = _sizes(found, recipe)
        dataset = _show_tokens(found, sizes, share, tokenizer, place)
        progress.doing = "trying how fast a model learns here"
        _show(_training_rows(dataset))
    log.info("nothing was written; to write it, leave --dry-run out")


def _show(rows: Sequence[Row]) -> None:
    for name, text in rows:
        print(f"{name:16} {one_line(as_flags(text))}", flush=True)


def _download_rows(lacking: list[tuple[str, int | None]], of: int, directory: Path) -> list[Row]:
    """Say what would be downloaded."""
    size = sum(size or 0 for _, size in lacking)
    rows = [("download", f"{len(lacking):,} of {of:,} files, {bytes_in_words(size)}, to {directory}")]
    rows += [("", f"{name}: {bytes_in_words(size or 0)}") for name, size in lacking[:MOST_FILES]]
    more = len(lacking) - MOST_FILES
    return [*rows, ("", f"and {more:,} more")] if more > 0 else rows


# ---- what was found ----


def _found_rows(found: Preview) -> list[Row]:
    files = f"{found.files:,} {'file' if found.files == 1 else 'files'}"
    rows = [
        ("found", f"{files}, {bytes_in_words(found.bytes)}: {_counted(found.formats)}"),
        ("read", _read_words(found)),
    ]
    if found.reasons:
        rows.append(("left out", f"{sum(found.reasons.values()):,} {'in all' if found.is_complete else 'so far'}"))
        common = [(count, found.examples[kind]) for kind, count in found.reasons.most_common(MOST_NAMED)]
        rows += [("", f"{count:,} {left.reason}: {left.name}") for count, left in common]
    return rows + _document_rows(found) if found.counts["documents"] else rows


def _document_rows(found: Preview) -> list[Row]:
    counts, rows = found.counts, list[Row]()
    if found.encodings:
        rows.append(("encodings", _counted(found.encodings)))
    divided = [notice.message for notice in found.notices if notice.kind == "divided files"]
    others = [notice.message for notice in found.notices if notice.kind != "divided files"]
    rows.append(("separators", f"found in {len(divided):,} of the texts" if divided else "none was found in a text"))
    rows += [("", message) for message in divided[:MOST_SHOWN]]
    rows += [("note", message) for message in others[:MOST_SHOWN]]
    mean = counts["text_bytes"] / max(1, counts["documents"] - counts["repeated"])
    rows.append(("documents", f"{_estimated(found, 'documents')}, of {bytes_in_words(round(mean))} on average"))
    repeated = f"{counts['repeated']:,} of {counts['documents']:,} that were read repeat another"
    rows.append(("duplicates", f"{repeated} ({counts['repeated'] / counts['documents']:.1%})"))
    likely = f"{_counted(found.secrets)}: look at them before you train on them" if found.secrets else "none was seen"
    rows.append(("likely secrets", likely))
    rows += [("", place) for place in found.places]
    return [*rows, ("e-mail", f"addresses: {_estimated(found, 'addresses')}")]


def _read_words(found: Preview) -> str:
    if found.is_complete:
        return "all of it"
    if found.goes_on:
        return f"{bytes_in_words(found.counts['read_bytes'])}; a pipe goes on, so that the figures are of its beginning"
    part = f"{bytes_in_words(found.counts['read_bytes'])} of {bytes_in_words(found.bytes)}"
    files = f"{found.counts['read_files']:,} of the files" if found.files > 1 else "the file"
    return f"{part}, in {files}; what follows is an estimate from that"


def _estimated(found: Preview, name: str) -> str:
    number = found.estimate(name)
    return f"{number:,}" if found.is_complete or not number else f"about {_rounded(number)}"


def _rounded(number: int) -> str:
    """Write an estimate, with three digits."""
    return f"{round(number, min(0, 3 - len(str(number)))):,}"


def _counted(counter: Counter[str]) -> str:
    """Name what there is most of: '.py 12, .txt 3'."""
    words = [f"{name} {count:,}" for name, count in counter.most_common(MOST_NAMED)]
    more = len(counter) - MOST_NAMED
    return ", ".join([*words, f"and {more:,} others"] if more > 0 else words)


# ---- how many tokens that is ----


def _sizes(found: Preview, recipe: Recipe) -> tuple[SplitSizes, float]:
    """Estimate characters and documents of each split; also return the share that validates."""
    characters = found.estimate("characters")
    share = min(getattr(recipe, "validation_share", USUAL_SHARE), MAX_CHARACTERS / max(1, characters))
    if found.validation_bytes:
        share = found.validation_bytes / found.bytes
    distinct = found.estimate("documents") - found.estimate("repeated")
    shares = dict(zip(SPLITS, (1 - share, share), strict=True))
    pieces = {split: math.ceil(part * distinct) for split, part in shares.items()}
    return SplitSizes(pieces, {split: round(part * characters) for split, part in shares.items()}), share


def _show_tokens(found: Preview, sizes: SplitSizes, share: float, given: str | Tokenizer, place: Path) -> Dataset:
    """Print which tokenizer would be used and how many tokens it gives; return a dataset of that size, without ids."""
    name, reason = given, ""
    if given == AUTO:
        name, why = suitability(sizes.characters["train"])
        reason = f", for about {_rounded(sizes.characters['train'])} characters: {why}"
    learned, tried = _parts([*_pieces(found)])
    tokenizer = name
    if isinstance(name, str):
        learning = SplitSizes(sizes.pieces, {**sizes.characters, "train": sum(map(len, learned))})
        tokenizer = make_tokenizer(name, lambda: [Piece("", "train", text) for text in learned], learning)
    assert isinstance(tokenizer, Tokenizer)
    if tokenizer.kind == "char" and isinstance(name, str):
        tokenizer = Tokenizer.char("".join(found.passages), tokenizer.end_of_text is not None)
    size = sum(len(text.encode()) for text in tried)
    per_byte = sum(map(len, tokenizer.encode_batch(tried, threads=1))) / max(1, size)
    ends = sum(sizes.pieces.values()) if tokenizer.end_of_text is not None else 0
    total = round(found.estimate("text_bytes") * per_byte) + ends
    called = name if isinstance(name, str) else f"{tokenizer.kind}, {tokenizer.vocab_size:,} ids"
    validation = round(share * total)
    _show(
        [
            ("tokenizer", f"{called}{reason}; {1 / per_byte:.2f} bytes per token"),
            ("tokens", f"about {_rounded(total)}, of which {_rounded(validation)} validate"),
        ]
    )
    train, validation_split = (_Counted(n, c) for n, c in zip(SPLITS, (total - validation, validation), strict=True))
    return Dataset(place, tokenizer, train, validation_split, "", {}, [], None)


class _Counted(Split):
    """A split of which only the number of tokens is known."""

    def __init__(self, name: str, tokens: int) -> None:
        super().__init__(name, [])
        self.tokens = tokens


def _pieces(found: Preview) -> Iterator[str]:
    for text in found.passages:
        for start in range(0, len(text), SAMPLE_CHARACTERS):
            yield text[start : start + SAMPLE_CHARACTERS]


def _parts(pieces: list[str]) -> tuple[list[str], list[str]]:
    """Choose what a tokenizer is learned from, and what it is tried on: other text, where there is enough."""
    if sum(map(len, pieces)) <= LEARNED:
        return pieces, _some(pieces, ENCODED)
    return _some(pieces[0::2], LEARNED), _some(pieces[1::2], ENCODED)


def _some(pieces: list[str], most: int) -> list[str]:
    """Take about so many characters, from all over the pieces."""
    return pieces[:: max(1, math.ceil(sum(map(len, pieces)) / most))]


# ---- what training suits it ----


def _training_rows(dataset: Dataset) -> list[Row]:
    """Say what `gpt train` would do with so much text here, and how long that would take."""
    for split in (dataset.train, dataset.validation):
        if split.tokens < SMALLEST_WINDOW:
            few = f"the {split.name} split would have about {split.tokens:,} tokens"
            return [("training", f"{few}, and the smallest window needs {SMALLEST_WINDOW}: give more text")]
    command = parse_train(["--data", str(dataset.path)])
    config, device = command.config, choose_device(command.config.device)
    with (
        log.through(logging.NullHandler()),
        exact_arithmetic(config.exact, device),
        join_world(device, config.timeout) as world,
    ):
        try:
            config = settle(command, dataset, world)
        except InputError as error:
            return [("training", str(error))]
        forecast = Forecast(config, dataset, world)
        seconds = forecast.seconds()
    epochs = config.steps * config.batch_tokens / dataset.train.tokens
    times = f"{epochs:.3g} {'epoch' if round(epochs, 2) == 1 else 'epochs'}"
    rows = [
        ("preset", command.reason.removeprefix("preset ")),
        ("length", f"{times}, {config.steps:,} steps of {config.batch_tokens:,} tokens"),
    ]
    if seconds is None:
        return [*rows, ("time", "not forecast: a trial would not fit into the free memory")]
    training, evaluation = seconds
    words = f"about {duration(training + evaluation)} on {device}, of which {duration(evaluation)} evaluation"
    return [*rows, ("time", words)]
