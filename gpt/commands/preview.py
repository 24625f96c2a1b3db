"""What `gpt prepare … --dry-run` finds: what is in a corpus, how many tokens it gives, which training suits it here.

It takes about ten seconds, whatever the corpus's size, and writes nothing. Of a large corpus, all but the numbers of
files and their bytes are estimates from a part of it. How it is printed, preview_rows.py says.
"""

import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt.commands.preview_rows import show
from gpt.commands.train import settle
from gpt.commands.train_options import parse_train
from gpt.corpus.assembly import SMALLEST_WINDOW
from gpt.corpus.download import missing
from gpt.corpus.examples import Examples, cut_to, encode_examples, require_end_of_text
from gpt.corpus.pipeline import replaceable
from gpt.corpus.preview import Preview
from gpt.corpus.reading import Filters
from gpt.corpus.recipes import Recipe, Remote
from gpt.corpus.split import MAX_CHARACTERS, Piece
from gpt.corpus.vocabulary import AUTO, SAMPLE_CHARACTERS, SplitSizes, make_tokenizer, suitability
from gpt.dataset.dataset import Dataset
from gpt.dataset.manifest import SPLITS
from gpt.dataset.shards import Split
from gpt.device import choose_device
from gpt.distributed.launch import join_world
from gpt.errors import InputError
from gpt.log import Progress, log
from gpt.text.tokenizer import Tokenizer
from gpt.training.exact import exact_arithmetic
from gpt.training.forecast import Forecast

Facts = dict[str, Any]
BUDGET = 1 << 24  # bytes of a corpus that are read, or come of them
LEARNED, ENCODED = 4_000_000, 2_000_000  # characters that a tokenizer is learned from here, and tried on
USUAL_SHARE = 0.1  # that validates, where a recipe has no such setting


@dataclass
class Findings:
    """What was found, part by part: printed at once, or all of it as one JSON object."""

    as_json: bool
    facts: Facts = field(default_factory=dict)

    def add(self, **parts: Any) -> None:
        self.facts |= parts
        if not self.as_json:
            show(parts)

    def end(self) -> None:
        if self.as_json:
            print(json.dumps(self.facts), flush=True)


def dry_run(recipe: Recipe, tokenizer: str | Tokenizer, replace: bool = False, as_json: bool = False) -> None:
    """Print what preparing a corpus would find and write, with a tokenizer, or one of the kind that is named.

    Raises InputError if that cannot be.
    """
    place, findings = recipe.place().expanduser(), Findings(as_json)
    recipe.split()
    filters, examples = recipe.steps().get("filters", Filters()), recipe.steps().get("examples")
    if isinstance(recipe, Remote):
        wanted = recipe.downloads()
        if lacking := [file for directory, files in wanted.items() for file in missing(files, directory)]:
            sizes, of = {file.name: file.size for file in lacking}, sum(map(len, wanted.values()))
            findings.add(download={"files": sizes, "of": of, "directory": os.path.commonpath(wanted)})
            findings.end()
            log.info("what is in them is known once they are here")
            return
    replaceable(place, recipe.manifest_entry(), replace)
    with Progress() as progress:
        found = Preview(recipe.source(), filters, progress, BUDGET)
        findings.add(**_found(found))
        if not found.counts["documents"]:
            raise InputError("there is no text in the input")
        if examples and found.counts["faults"]:
            findings.add(faults={"lines": found.estimate("faults"), "faulty": examples.faulty} | _certainty(found))
        progress.doing = "trying the tokenizer"
        dataset = _add_tokens(findings, found, recipe, tokenizer, examples)
        progress.doing = "trying how fast a model learns here"
        findings.add(training=_training(dataset))
    findings.end()
    log.info("nothing was written; to write it, leave --dry-run out")


# ---- what was found ----


def _found(found: Preview) -> Facts:
    counts = found.counts
    facts: Facts = {
        "found": {"files": found.files, "bytes": found.bytes, "formats": dict(found.formats.most_common())},
        "read": {
            "files": counts["read_files"],
            "bytes": counts["read_bytes"],
            "of": {"files": found.files, "bytes": found.bytes},
            "all": found.is_complete,
            "goes_on": found.goes_on,
        },
        "left_out": {
            "count": sum(found.reasons.values()),
            "all": found.is_complete,
            "reasons": [
                {"count": count, "reason": found.examples[kind].reason, "as": found.examples[kind].name}
                for kind, count in found.reasons.most_common()
            ],
        },
    }
    facts |= {"proposed": dict(found.proposed)} if found.proposed else {}
    return facts | (_documents(found) if counts["documents"] else {})


def _documents(found: Preview) -> Facts:
    counts = found.counts
    return {
        "encodings": dict(found.encodings.most_common()),
        "separators": [notice.message for notice in found.notices if notice.kind == "divided files"],
        "notes": [notice.message for notice in found.notices if notice.kind != "divided files"],
        "documents": {"count": found.estimate("documents"), "bytes": round(found.mean_bytes)} | _certainty(found),
        "duplicates": {"repeated": counts["repeated"], "of": counts["documents"]},
        "secrets": {"kinds": dict(found.secrets.most_common()), "places": found.places},
        "addresses": {"count": found.estimate("addresses")} | _certainty(found),
    }


def _certainty(found: Preview) -> Facts:
    return {"estimated": not found.is_complete}


# ---- how many tokens that is ----


def _sizes(found: Preview, recipe: Recipe) -> tuple[SplitSizes, float]:
    """Estimate characters and documents of each split; also return the share that validates."""
    characters = found.estimate("characters")
    wanted = getattr(recipe, "validation_share", None) or USUAL_SHARE
    share = min(wanted, MAX_CHARACTERS / max(1, characters))
    if found.validation_bytes:
        share = found.validation_bytes / found.bytes
    distinct = found.estimate("documents") - found.estimate("repeated")
    shares = dict(zip(SPLITS, (1 - share, share), strict=True))
    pieces = {split: math.ceil(part * distinct) for split, part in shares.items()}
    return SplitSizes(pieces, {split: round(part * characters) for split, part in shares.items()}), share


def _add_tokens(
    findings: Findings, found: Preview, recipe: Recipe, given: str | Tokenizer, examples: Examples | None
) -> Dataset:
    """Tell which tokenizer would be used and how many tokens it gives; return a dataset of that size, without ids."""
    sizes, share = _sizes(found, recipe)
    name, reason = given, ""
    if given == AUTO:
        name, reason = suitability(sizes.characters["train"])
    learned, tried = _parts([*_pieces(found)])
    tokenizer = name
    if isinstance(name, str):
        learning = SplitSizes(sizes.pieces, {**sizes.characters, "train": sum(map(len, learned))})
        tokenizer = make_tokenizer(name, lambda: [Piece("", "train", text) for text in learned], learning)
    assert isinstance(tokenizer, Tokenizer)
    if tokenizer.kind == "char" and isinstance(name, str):
        tokenizer = Tokenizer.char("".join(found.passages), tokenizer.end_of_text is not None)
    tokenizer = examples.added_to(tokenizer) if examples else tokenizer
    size = sum(len(text.encode()) for text in tried)
    per_byte = sum(map(len, tokenizer.encode_batch(tried, threads=1))) / max(1, size)
    called = {"name": name if isinstance(name, str) else None, "kind": tokenizer.kind, "size": tokenizer.vocab_size}
    for_ = {"characters": sizes.characters["train"], "reason": reason} if reason else {}
    findings.add(tokenizer=called | for_ | {"bytes_per_token": round(1 / per_byte, 4)})
    ends = sum(sizes.pieces.values()) if tokenizer.end_of_text is not None else 0
    total = round(found.estimate("text_bytes") * per_byte) + ends
    if examples and found.documents:
        masks = _masks(found, tokenizer, examples)
        total = round(found.estimate("text_bytes") * masks.pop("per_byte"))
        findings.add(examples=masks)
    validation = round(share * total)
    findings.add(tokens={"total": total, "validation": validation})
    train, validation_split = (_Counted(n, c) for n, c in zip(SPLITS, (total - validation, validation), strict=True))
    return Dataset(recipe.place().expanduser(), tokenizer, train, validation_split, "", {}, [], None)


def _masks(found: Preview, tokenizer: Tokenizer, examples: Examples) -> Facts:
    """Tell what becomes of some of the examples: how many tokens they have, are learned, and are cut off."""
    require_end_of_text(tokenizer)
    tried = found.documents[:: max(1, math.ceil(sum(len(each.text) for each in found.documents) / ENCODED))]
    whole = [learned for _, learned in encode_examples(tried, tokenizer, threads=1)]
    masks = [mask for learned in whole if (mask := cut_to(learned, examples.max_tokens)).any()]
    tokens = sum(map(len, masks))
    return {
        "tried": len(tried),
        "learned_share": round(float(np.concatenate(masks).mean()), 4) if masks else 0.0,
        "max_tokens": examples.max_tokens,
        "cut": sum(len(learned) > examples.max_tokens for learned in whole),
        "unlearned": len(whole) - len(masks),
        "faulty": examples.faulty,
        "per_byte": tokens / max(1, sum(len(each.text.encode()) for each in tried)),
    }


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


def _training(dataset: Dataset) -> Facts:
    """Tell what `gpt train` would do with so much text here, and how long that would take; or why it would not."""
    for split in (dataset.train, dataset.validation):
        if split.tokens < SMALLEST_WINDOW:
            few = f"the {split.name} split would have about {split.tokens:,} tokens"
            return {"refused": f"{few}, and the smallest window needs {SMALLEST_WINDOW}: give more text"}
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
            return {"refused": str(error)}
        forecast = Forecast(config, dataset, world)
        seconds = forecast.seconds()
    chosen = config.preset != command.config.preset
    reason = f"{config.preset}: by the size of the text" if chosen else command.reason.removeprefix("preset ")
    facts: Facts = {"preset": config.preset, "reason": reason, "steps": config.steps}
    facts |= {"epochs": config.steps * config.batch_tokens / dataset.train.tokens, "batch_tokens": config.batch_tokens}
    facts |= {"device": str(device), "seconds": sum(seconds) if seconds else None}
    return facts | {"evaluation_seconds": seconds[1] if seconds else None}
