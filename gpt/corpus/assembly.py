"""The finished dataset put together from the results of its slices; and those of the dataset before used once more."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from gpt.corpus.content_split import KEYS, SPLIT
from gpt.corpus.documents import Skipped
from gpt.corpus.ledger import LEDGER, PART
from gpt.corpus.reading import Corpus
from gpt.corpus.replacing import differences
from gpt.corpus.slices import HASHES
from gpt.corpus.sources import Identity, Source, TextFile
from gpt.corpus.split import VALIDATION, Divide, pieces_in
from gpt.corpus.stages import Stages, Task, Work, digest, finish, new_place
from gpt.corpus.vocabulary import SplitSizes
from gpt.dataset.dataset import SHORTEST_CONTEXT
from gpt.dataset.manifest import SPLITS, ShardInfo, read_manifest, shard_info, write_manifest
from gpt.errors import InputError
from gpt.files import inside, read_json, sha256, write_whole
from gpt.log import log
from gpt.text.tokenizer import Tokenizer

SMALLEST_WINDOW = SHORTEST_CONTEXT + 1  # tokens
SLICES, REPORT = "slices.json", "report.json"
FORMAT = ("gpt-slices", 1)
RECORDS = (LEDGER, SLICES, SPLIT, KEYS)  # of which the manifest has hashes; a report may tell of what took longer
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
) -> tuple[list[ShardInfo], str]:
    """Write all files of the dataset into an empty directory, and return its shards and the corpus fingerprint."""
    named = list(_named(results))
    files: dict[str, dict[str, str]] = {result.key: {} for result in results}  # as the dataset calls those of a slice
    for result, shard, called in named:
        for own, name in zip(shard.files, called.files, strict=True):
            link(Path(f"{result.place}.{own}"), partial / name)
            files[result.key][own] = name
    shards = [called for _, _, called in named]
    slices = {}
    with open(partial / LEDGER, "wb") as ledger:
        for each in results:
            content = each.ledger.read_bytes()
            at, sha = [ledger.tell(), ledger.write(content)], hashlib.sha256(content).hexdigest()
            slices[each.key] = {"result": each.found, "files": files[each.key], "ledger": at, "ledger_sha256": sha}
    for file in corpus.stages.own.glob("split.*"):  # SPLIT and KEYS, if it was divided by content
        link(file, partial / file.name)
    head = {"format": FORMAT[0], "version": FORMAT[1], "slice_bytes": corpus.slice_bytes, "inputs": corpus.inputs}
    write_whole(partial / SLICES, json.dumps(head | {"slices": slices, "digest": digest(slices)}))
    tokenizer.save(partial / "tokenizer.json")
    fingerprint = _fingerprint(corpus, shards, tokenizer, recipe)
    write_whole(partial / REPORT, json.dumps(_report(corpus, results, shards, fingerprint), indent=1))
    write_manifest(partial, tokenizer, shards, recipe, fingerprint, _hashes(partial))
    return shards, fingerprint


def _hashes(partial: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that tells of the corpus."""
    return {name: sha256(file) for name in RECORDS if (file := partial / name).exists()}


def _named(results: Sequence[Result]) -> Iterator[tuple[Result, ShardInfo, ShardInfo]]:
    """Name the shards by their splits and slices: yield each as its slice calls it, and as the dataset does."""
    for split in SPLITS:
        for number, result in enumerate(results):
            own = [shard for shard in result.shards if shard.split == split]
            for part, shard in enumerate(own):
                yield result, shard, shard.called(f"{split}-{number:05d}{f'-{part}' if part else ''}.bin")


def _fingerprint(corpus: Corpus, shards: list[ShardInfo], tokenizer: Tokenizer, recipe: dict[str, Any]) -> str:
    """Return the SHA-256 over inputs, settings, tokenizer and shards; where the inputs lay makes no difference."""
    inputs = [sha256(Path(f"{each.place}{HASHES}")) for each in corpus.slices]
    settings = {key: value for key, value in recipe.items() if key not in ("input", "validation", "tokenizer")}
    content = [inputs, settings, tokenizer.fingerprint, [asdict(shard) for shard in shards]]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _report(corpus: Corpus, results: Sequence[Result], shards: list[ShardInfo], fingerprint: str) -> dict[str, Any]:
    read, used, reasons, longest = Counter[str](), Counter[str](), Counter[str](), [0, ""]
    for result in results:
        read.update(result.found["sources"]["read"])
        used.update(result.found["sources"]["kept"])
        reasons.update(result.found["left_out"])
        longest = max(longest, result.found["longest"])
    tokens = {split: sum(shard.tokens for shard in shards if shard.split == split) for split in SPLITS}
    text_bytes = sum(shard.text_bytes for shard in shards)
    documents, kept = (sum(result.found[f"{name}_kept"] for result in results) for name in ("documents", "characters"))
    return {
        "documents": {"read": corpus.counts["documents"], "kept": documents, "left_out": dict(reasons.most_common())},
        "characters": {"read": corpus.counts["characters"], "kept": kept},
        "text_bytes": text_bytes,
        "tokens": tokens,
        "bytes_per_token": round(text_bytes / max(1, sum(tokens.values())), 4),
        "longest": {"document": longest[1], "bytes": longest[0]},
        "sources": {
            name: {"bytes_read": read[name], "characters_kept": part, "share": round(part / max(1, kept), 6)}
            for name, part in used.most_common(LARGEST_SOURCES)
        },
        **corpus.report,
        "corpus_fingerprint": fingerprint,
    }


def require_windows(shards: Sequence[ShardInfo], corpus: Corpus, divide: Divide) -> None:
    """Raise InputError if a split is shorter than the window of any preset."""
    tokens = {split: sum(shard.tokens for shard in shards if shard.split == split) for split in SPLITS}
    short = [split for split in SPLITS if tokens[split] < SMALLEST_WINDOW]
    if short:  # of both, that of validation needs more text
        sizes = SplitSizes.of(piece for _, own in pieces_in(corpus, divide) for piece in own).characters
        raise InputError(_too_small(short[-1], tokens[short[-1]], sizes, any(each.validates for each in corpus.slices)))


def _too_small(split: str, tokens: int, sizes: dict[str, int], given: bool) -> str:
    """Say how small a split is, how large it must be, and how much text that takes; it may be `given` by itself."""
    own, total = sizes[split], sum(sizes.values())
    needed = -(-SMALLEST_WINDOW * own // max(1, tokens - 1)) if own else SMALLEST_WINDOW  # without its end-of-text
    whole = -(-total * needed // own) if own else 10 * needed
    if given:
        remedy = "give more text by `validation`" if split == VALIDATION else "give more text by `input`"
    else:
        more = f"about {whole:,} characters in all, which are {total:,} now" if whole > total else "more text"
        remedy = f"give {more}"
        remedy += ", or a larger `validation_share`" if split == VALIDATION else ""
    return (
        f"the text is too small: the {split} split has {tokens} tokens ({sizes[split]:,} characters), and the smallest "
        f"window needs {SMALLEST_WINDOW} (about {needed:,} characters): {remedy}. Nothing was written"
    )


# ---- the dataset before ----


def slice_bytes_of(out: Path) -> int | None:
    """Return how large the slices of a dataset are, if it says so."""
    found = read_slices(out).get("slice_bytes")
    return found if type(found) is int and found > 0 else None


def inputs_key(identities: Sequence[Identity]) -> str:
    """Name the inputs of a dataset, by their names and sizes, wherever they lie."""
    return digest([(each.name, each.bytes) for each in identities])


def is_finished(
    out: Path, given: Source | Callable[[], Source], recipe: dict[str, Any], tokenizer: str | Tokenizer
) -> bool:
    """Tell, and say, whether a dataset was made of just these files by the same settings, and no file changed since.

    Of a tokenizer that is to be made of the text, its name alone is compared, which the recipe has.
    """
    manifest = read_manifest(out)
    is_other = isinstance(tokenizer, Tokenizer) and tokenizer.fingerprint != manifest["tokenizer_fingerprint"]
    if is_other or differences(manifest.get("recipe", {}), recipe):
        return False
    source = cast("Source", given()) if callable(given) else given
    parts = [part for part in source.parts() if not isinstance(part, Skipped)]
    if not all(isinstance(part, TextFile) and part.path.is_file() for part in parts):
        return False
    changed = [max(status.st_mtime, status.st_ctime) for status in (part.path.stat() for part in parts)]
    same = read_slices(out).get("inputs") == inputs_key([source.identity(part) for part in parts])
    found = same and max(changed, default=0) < (out / "manifest.json").stat().st_mtime
    if found:
        log.info(f"{out}: stays: it is finished already, of the same inputs, so that this job has nothing to do")
    return found


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
            for own, promised in wanted:
                file = inside(out, entry["files"][own])
                if sha256(file) != promised:
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
