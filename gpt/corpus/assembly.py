"""The finished dataset put together from the results of its slices; and those of the dataset before used once more."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt.corpus.content_split import KEYS, RECORD
from gpt.corpus.ledger import LEDGER, PART
from gpt.corpus.reading import HASHES, Corpus
from gpt.corpus.split import Divide
from gpt.corpus.stages import Stages, Task, Work, digest, finish, new_place
from gpt.corpus.vocabulary import SplitSizes
from gpt.dataset.dataset import SHORTEST_CONTEXT
from gpt.dataset.manifest import SPLITS, ShardInfo, shard_info, write_manifest
from gpt.errors import InputError
from gpt.files import inside, read_json, write_whole
from gpt.text.tokenizer import Tokenizer

SMALLEST_WINDOW = SHORTEST_CONTEXT + 1  # tokens
SLICES, REPORT = "slices.json", "report.json"
FORMAT = ("gpt-slices", 1)
LARGEST_SOURCES = 20  # that the report names


@dataclass(frozen=True)
class Result:
    """What came of a slice: its files lie at `place`, with endings, by which `shards` are named."""

    key: str
    place: Path
    found: dict[str, Any]

    @property
    def shards(self) -> list[ShardInfo]:
        return [*map(shard_info, self.found["shards"])]

    @property
    def ledger(self) -> Path:
        return Path(f"{self.place}{PART}")


def assemble(
    partial: Path, corpus: Corpus, results: Sequence[Result], tokenizer: Tokenizer, recipe: dict[str, Any]
) -> list[ShardInfo]:
    """Write all files of the dataset into an empty directory, and return its shards."""
    named = list(_named(results))
    for result, shard, called in named:
        for own, name in zip(shard.files, called.files, strict=True):
            link(Path(f"{result.place}.{own}"), partial / name)
    shards = [called for _, _, called in named]
    slices, end = {}, 0
    with open(partial / LEDGER, "wb") as ledger:
        for result in results:
            mine = [zip(shard.files, called.files, strict=True) for own, shard, called in named if own is result]
            files = {own: name for pairs in mine for own, name in pairs}
            content = result.ledger.read_bytes()
            size = ledger.write(content)
            own = {"ledger": [end, size], "ledger_sha256": hashlib.sha256(content).hexdigest()}
            slices[result.key] = {"result": result.found, "files": files} | own
            end += size
    for name in (RECORD, KEYS):
        if (corpus.stages.own / name).exists():
            link(corpus.stages.own / name, partial / name)
    head = {"format": FORMAT[0], "version": FORMAT[1], "slice_bytes": corpus.slice_bytes}
    write_whole(partial / SLICES, json.dumps(head | {"slices": slices, "digest": digest(slices)}))
    tokenizer.save(partial / "tokenizer.json")
    fingerprint = _fingerprint(corpus, shards, tokenizer, recipe)
    write_whole(partial / REPORT, json.dumps(_report(corpus, results, shards, fingerprint), indent=1))
    write_manifest(partial, tokenizer, shards, recipe, fingerprint)
    return shards


def _named(results: Sequence[Result]) -> Iterator[tuple[Result, ShardInfo, ShardInfo]]:
    """Name the shards by their splits and slices: yield each as its slice calls it, and as the dataset does."""
    for split in SPLITS:
        for number, result in enumerate(results):
            own = [shard for shard in result.shards if shard.split == split]
            for part, shard in enumerate(own):
                yield result, shard, shard.called(f"{split}-{number:05d}{f'-{part}' if part else ''}.bin")


def _fingerprint(corpus: Corpus, shards: list[ShardInfo], tokenizer: Tokenizer, recipe: dict[str, Any]) -> str:
    """Return the SHA-256 over inputs, settings, tokenizer and shards; where the inputs lay makes no difference."""
    inputs = [hashlib.sha256(Path(f"{place}{HASHES}").read_bytes()).hexdigest() for place in corpus.places]
    settings = {key: value for key, value in recipe.items() if key not in ("input", "validation", "tokenizer")}
    content = [inputs, settings, tokenizer.fingerprint, [asdict(shard) for shard in shards]]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _report(corpus: Corpus, results: Sequence[Result], shards: list[ShardInfo], fingerprint: str) -> dict[str, Any]:
    sources, reasons, longest = Counter[str](), Counter[str](), [0, ""]
    for result in results:
        sources.update(dict(result.found["sources"]))
        reasons.update(result.found["left_out"])
        longest = max(longest, result.found["longest"])
    tokens = {split: sum(shard.tokens for shard in shards if shard.split == split) for split in SPLITS}
    text_bytes = sum(shard.text_bytes for shard in shards)
    read = sum(sources.values())
    return {
        "documents": {
            "read": corpus.counts["documents"],
            "kept": sum(int(kept.sum()) for kept in corpus.kept),
            "left_out": dict(reasons.most_common()),
        },
        "characters_read": corpus.counts["characters"],
        "text_bytes": text_bytes,
        "tokens": tokens,
        "bytes_per_token": round(text_bytes / max(1, sum(tokens.values())), 4),
        "longest": {"document": longest[1], "bytes": longest[0]},
        "sources": {
            name: {"bytes": size, "share": round(size / max(1, read), 6)}
            for name, size in sources.most_common(LARGEST_SOURCES)
        },
        **corpus.report,
        "corpus_fingerprint": fingerprint,
    }


def require_windows(shards: Sequence[ShardInfo], corpus: Corpus, divide: Divide) -> None:
    """Raise InputError if a split is shorter than the least window that anything is trained on."""
    for split in SPLITS:
        tokens = sum(shard.tokens for shard in shards if shard.split == split)
        if tokens < SMALLEST_WINDOW:
            characters = SplitSizes.of(piece for document in corpus for piece in divide(document)).characters[split]
            needed = SMALLEST_WINDOW if not tokens else -(-SMALLEST_WINDOW * characters // tokens)
            raise InputError(
                f"the {split} split has {tokens} tokens ({characters:,} characters); the smallest window needs "
                f"{SMALLEST_WINDOW} (about {needed:,} characters): give more text. Nothing was written"
            )


# ---- the dataset before ----


def slice_bytes_of(out: Path) -> int | None:
    """Return how large the slices of a dataset are, if it says so."""
    found = read_slices(out).get("slice_bytes")
    return found if type(found) is int and found > 0 else None


def reuse(out: Path, stages: Stages, work: Work, tasks: Sequence[Task]) -> int:
    """Make results of what a dataset has of the same slices; count them. What is damaged is not used."""
    known, count = read_slices(out).get("slices"), 0
    for task in tasks:
        entry = known.get(task.key) if isinstance(known, dict) else None
        result = stages.result(work, task)
        if entry is None or result.exists():
            continue
        place = new_place(result)
        try:
            found, (begin, size) = entry["result"], entry["ledger"]
            wanted = [pair for shard in map(shard_info, found["shards"]) for pair in shard.files.items()]
            for own, sha256 in wanted:
                file = inside(out, entry["files"][own])
                with open(file, "rb") as opened:
                    if hashlib.file_digest(opened, "sha256").hexdigest() != sha256:
                        raise InputError(f"{file}: is damaged")
                link(file, Path(f"{place}.{own}"))
            with open(out / LEDGER, "rb") as ledger:
                ledger.seek(begin)
                content = ledger.read(size)
            if hashlib.sha256(content).hexdigest() != entry["ledger_sha256"]:
                raise InputError(f"{out / LEDGER}: is damaged")
            Path(f"{place}{PART}").write_bytes(content)
        except (InputError, OSError, KeyError, TypeError, ValueError):
            continue  # it is encoded again
        finish(result, place, found)
        count += 1
    return count


def read_slices(out: Path) -> dict[str, Any]:
    """Return what a dataset says of its slices; nothing where it says nothing, or that is damaged."""
    try:
        content = read_json(out / SLICES, format=FORMAT)
    except InputError:
        return {}
    return content if content.get("digest") == digest(content.get("slices")) else {}


def link(file: Path, name: Path) -> None:
    """Give a file another name, or, where files have one name only, make a copy of it."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)
