"""From documents to a dataset directory.

1. A plan divides the source into slices. Each is read once; its texts are kept at hand (reading.py).
2. Of documents of one content, the first stays (reading.py).
3. A policy divides the documents between training and validation (split.py, content_split.py, overlap.py).
4. The tokenizer is loaded, or made from what trains (vocabulary.py).
5. Each slice is encoded into shards of its own (writer.py), unless the dataset that is replaced has just those.
6. Manifest, ledger and report are written last, and the finished directory is put in place by one rename (assembly.py).

What 1, 3 and 5 do is done slice by slice, on any number of processes, and once for all (stages.py): a preparation that
was killed goes on where it was, and gives the same bytes.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast, get_args

from gpt.choices import EncoderName
from gpt.corpus.assembly import Result, assemble, inputs_key, is_finished, require_windows, reuse, slice_bytes_of
from gpt.corpus.disk import warn_of_little_room
from gpt.corpus.documents import Skipped
from gpt.corpus.examples import Examples, write_examples
from gpt.corpus.executor import cores, worker_count
from gpt.corpus.jobs import is_last
from gpt.corpus.ledger import REPEATS, write_spool
from gpt.corpus.reading import MAX_SHOWN, VERSION, Corpus, Filters, drop_duplicates
from gpt.corpus.replacing import require_replaceable
from gpt.corpus.sample import CorpusSample
from gpt.corpus.slices import cut_slices, name_at, repeats_at, slice_bytes
from gpt.corpus.sources import Source
from gpt.corpus.split import Divide, Splitter, division_key
from gpt.corpus.stage_progress import limit
from gpt.corpus.stages import KEPT, Stages, Task, digest, work_in
from gpt.corpus.vocabulary import corpus_tokenizer, make_tokenizer, parse_tokenizer
from gpt.corpus.writer import DISAGREEMENT, write_slice
from gpt.dataset.dataset import Dataset, open_dataset, open_written
from gpt.dataset.manifest import fingerprint, read_manifest, shard_info
from gpt.errors import InputError, require
from gpt.files import bring_back, write_directory
from gpt.interrupts import Interruptible
from gpt.log import Progress, log
from gpt.terminal import one_line
from gpt.text.tokenizer import Tokenizer, require_bpe_size

LEAST_FOR_WORKERS = 1 << 24  # bytes of input, or characters: for less, beginning processes takes longer than they save
LEAST_FOR_FAST = 1 << 22  # characters: for less, loading gigatoken takes longer than it saves
LEAST_TO_KEEP = 1 << 26  # bytes of input: what takes less than a minute is not worth a directory that stays
LEAST_SECONDS = 3.0


def prepare(
    source: Source | Callable[[], Source],
    split: Splitter,
    tokenizer: str | Tokenizer,
    out: Path,
    recipe: dict[str, Any],
    filters: Filters | None = None,
    workers: str = "1",
    part: tuple[int, int] = (1, 1),
    examples: Examples | None = None,
    encoder: EncoderName = "auto",
    replace: bool = False,
) -> Dataset | None:
    """Write the dataset directory `out`, and open it; of a dataset that is there see replacing.py, and `replace`.

    `source` is one, or gives one once `out` can be written. `tokenizer` is one, or its name (see `parse_tokenizer`);
    `recipe` is recorded. For `workers` and `part` see executor.py; a program with several must be safe to import.
    Of several parts, the first writes the dataset, and the others return None. With `examples` documents are such, with
    no `filters`. `encoder` changes only the time. Raises InputError for an unknown tokenizer, or a corpus too small.
    """
    tokenizer = _checked(tokenizer, encoder, examples)
    before = replaceable(out, recipe, replace)
    if part[1] > 1 and before and is_finished(out, source, recipe, _with_added(tokenizer, examples)):
        return open_dataset(out) if part[0] == 1 else None
    with (
        work_in(out, part) as (work, interruptible),
        Progress(live=True) as progress,
        Stages(work, progress, workers, part) as stages,
    ):
        corpus = _read(source, stages, None if replace else out, filters or Filters(), interruptible)
        drop_duplicates(corpus, stages.own)
        if examples:
            examples.require_sound(corpus)
        say_what_was_read(corpus, _repetitions(corpus))
        divide = split(corpus)
        made, recipe = corpus_tokenizer(tokenizer, corpus, divide, recipe, progress)
        made = examples.added_to(made) if examples else made
        results = _encoded(corpus, divide, made, out, examples, encoder)
        if part[1] > 1 and not is_last(work, part):
            return None
        recipe = recipe | (examples.judge(corpus, results) if examples else {})
        require_windows([shard for result in results for shard in result.shards], corpus, divide)
        with write_directory(out) as partial:
            shards, fingerprinted = assemble(partial, corpus, results, made, recipe)
            interruptible.finish()
    dataset = open_written(out, made, shards, recipe, fingerprinted)
    _say_what_came_of_it(stages, dataset, before, corpus)
    return dataset


def _say_what_came_of_it(stages: Stages, dataset: Dataset, before: str | None, corpus: Corpus) -> None:
    """Say how fast it was, and what took longest, where that was long enough to ask.

    And whether the dataset is another one than before, and where all stands that was left out.
    """
    if (took := sum(stages.seconds.values())) >= LEAST_SECONDS:
        size, tokens = sum(each.bytes for each in corpus.slices), sum(shard.tokens for shard in dataset.shards)
        longest, seconds = max(stages.seconds.items(), key=lambda item: item[1])
        words = [f"{longest} took {seconds / took:.0%} of it", *filter(None, [limit(stages.spent)])]
        log.info(
            f"{size / 1e6:,.1f} MB in {took:,.0f} s: {size / 1e6 / took:.1f} MB/s, {tokens / 1e6 / took:.2f} million "
            f"tokens/s; {', '.join(words)}"
        )
    if before not in (None, dataset.fingerprint):
        log.warning(
            f"{dataset.path}: replaces another dataset; runs that were trained on that one cannot go on with this one"
        )
    if corpus.counts["left_out"] + corpus.counts["mended"] > MAX_SHOWN:
        log.info(f"gpt data show {dataset.path} --dropped names all that was left out")


def _read(
    given: Source | Callable[[], Source],
    stages: Stages,
    out: Path | None,
    filters: Filters,
    interruptible: Interruptible,
) -> Corpus:
    """Read the source, slice by slice; `out` may have a dataset that has grown, whose split is kept."""
    source = cast("Source", given()) if callable(given) else given
    stages.progress.doing = "looking for files"
    parts = source.parts()
    identities = [source.identity(part) for part in parts if not isinstance(part, Skipped)]
    total = sum(identity.bytes for identity in identities)
    before = out if out and (out / "manifest.json").exists() else None
    size = (slice_bytes_of(before) if before else None) or slice_bytes(total)
    divided = [each for part in parts for each in ([part] if isinstance(part, Skipped) else source.divided(part, size))]
    asked, stages.workers = stages.workers, _suitable(stages.workers, total)
    if total >= LEAST_TO_KEEP or stages.part[1] > 1:
        interruptible.keep(KEPT)
        stages.keep()
        warn_of_little_room(stages.directory, [(identity.name, identity.bytes) for identity in identities])
    corpus = Corpus(stages, source, [*cut_slices(source, divided, size)], filters)
    corpus.before, corpus.slice_bytes, corpus.inputs = before, size, inputs_key(identities)
    stages.workers = _suitable(asked, max(total, corpus.counts["characters"]))  # more of a pipe, or of what was packed
    return corpus


def _suitable(workers: str, size: int) -> str:
    """Return the workers that so many bytes or characters are worth, of those that were asked for."""
    return "1" if size < LEAST_FOR_WORKERS and worker_count(workers) else workers


def _repetitions(corpus: Corpus) -> Iterator[Skipped]:
    """Yield the documents that repeat another."""
    for each in corpus.slices:
        for number, first in repeats_at(each.repeats).tolist():
            bases = corpus.bases
            of_first = bisect_right(bases, first) - 1
            name = name_at(corpus.slices[of_first].place, first - bases[of_first])
            yield Skipped(name_at(each.place, number), f"{REPEATS}{name}")


def say_what_was_read(corpus: Corpus | CorpusSample, repetitions: Iterable[Skipped] = ()) -> None:
    """Name what was skipped or repaired, and count what was read. Raises InputError if that is nothing."""
    counts = corpus.counts
    skipped = [*islice(chain(corpus.skipped[:MAX_SHOWN], repetitions), MAX_SHOWN)]
    for done, parts, count in (
        ("skipped", skipped, counts["left_out"] + counts["repeated"]),
        ("kept", corpus.repaired, counts["mended"]),
    ):
        for part in parts[:MAX_SHOWN]:
            log.info(one_line(f"{done} {part.name}: {part.reason}"))
        if count > MAX_SHOWN:
            log.info(f"{done} {count - MAX_SHOWN:,} more{'' if done == 'skipped' else ' with bad bytes'}")
    if not counts["documents"]:
        raise InputError("there is no text in the input: nothing was written")
    if isinstance(corpus, Corpus) and not corpus.bases[-1]:
        why = f", the last of those named above: {skipped[-1].reason}" if skipped else ""
        raise InputError(f"all {counts['documents']:,} documents are left out{why}; nothing was written")
    log.info(f"read {counts['files_read']:,} of {counts['files']:,} files: {counts['characters']:,} characters")


def _checked(tokenizer: str | Tokenizer, encoder: EncoderName, examples: Examples | None) -> str | Tokenizer:
    """Make the tokenizer now, if it hangs on no text. Raises InputError for an unknown one, and a wrong encoder."""
    if isinstance(tokenizer, str):
        kind, size = parse_tokenizer(tokenizer)
        if size is not None:
            require_bpe_size(size)
        tokenizer = make_tokenizer(tokenizer) if kind in ("gpt2", "bytes", "file") else tokenizer
    require(encoder in get_args(EncoderName), "`encoder`", encoder, ", ".join(get_args(EncoderName)))
    if encoder == "gigatoken":
        require(examples is None, "`encoder`", encoder, "auto or tiktoken for prompts and answers")
        from gpt.text.fast import require_fast

        require_fast(tokenizer)
    return tokenizer


def _with_added(tokenizer: str | Tokenizer, examples: Examples | None) -> str | Tokenizer:
    return examples.added_to(tokenizer) if examples and isinstance(tokenizer, Tokenizer) else tokenizer


def _encoded(
    corpus: Corpus,
    divide: Divide,
    tokenizer: Tokenizer,
    out: Path,
    examples: Examples | None,
    encoder: EncoderName,
) -> list[Result]:
    """Encode all slices, but those that the dataset that is to be replaced has already.

    Where gigatoken differs from tiktoken in one slice, this is said, and tiktoken encodes all of them.
    """
    stages, tasks = corpus.stages, _encoding_tasks(corpus, divide, tokenizer, examples)
    plain = write = write_examples if examples else write_slice
    least = {"auto": LEAST_FOR_FAST, "gigatoken": 0}.get(encoder, math.inf)
    if not examples and corpus.counts["characters"] >= least:
        from gpt.corpus.fast_writer import fastest

        write = fastest(tokenizer)
    if corpus.before and (reused := reuse(out, stages, write, tasks)):
        _say_what_is_new(out, reused, len(tasks), [t.label for t in tasks if not stages.result(write, t).exists()])
    results = list(stages.run("encoding", write, tasks))
    for task, (_, found) in zip(tasks, results, strict=True):
        if DISAGREEMENT in found:
            corpus.report[DISAGREEMENT] = f"{task.label}: {found[DISAGREEMENT]}"
            log.warning(f"{corpus.report[DISAGREEMENT]}; so tiktoken encodes all of the corpus, which takes longer")
            results = list(stages.run("encoding by tiktoken", plain, tasks))
            break
    return [Result(task.key, place, found) for task, (place, found) in zip(tasks, results, strict=True)]


def _say_what_is_new(out: Path, reused: int, total: int, new: list[str]) -> None:
    """Say how many slices are as they were, and with what those begin that are to be encoded."""
    if reused == total:
        log.info(f"all {total:,} slices are as in {out}, and none is encoded again")
        return
    ends = "; new or changed:" if new else ""  # none where the others were encoded before a kill
    log.info(f"{reused:,} of {total:,} slices are as in {out}, and need not be encoded again{ends}")
    if new:
        log.info(f"slices that begin with {', '.join(new[:MAX_SHOWN])}{', …' if len(new) > MAX_SHOWN else ''}")


def _encoding_tasks(corpus: Corpus, divide: Divide, tokenizer: Tokenizer, examples: Examples | None) -> list[Task]:
    file = corpus.stages.own / f"tokenizer-{tokenizer.fingerprint[:32]}.json"
    tokenizer.save(file)
    spool = write_spool(corpus.stages.own, [str(each.place) for each in corpus.slices], corpus.bases)
    is_alone = corpus.stages.workers == "1" or len(corpus.slices) == 1
    most, threads = (examples.max_tokens,) if examples else (), cores() if is_alone else 1

    def key(listed: Path | None) -> str:
        return digest(VERSION, division_key(divide, listed), tokenizer.fingerprint, *most)

    return corpus.tasks(key, spool, divide, file, threads, *most, by="content")


def replaceable(out: Path, recipe: dict[str, Any], replace: bool = False) -> str | None:
    """Say which dataset will be replaced, and return its fingerprint; None where there is none that can be read.

    Raises InputError where something else stands, and where the dataset is of other settings, unless it is to be
    replaced (see replacing.py).
    """
    bring_back(out)
    for above in out.parents:
        if above.exists() and not above.is_dir():
            raise InputError(f"{out}: cannot be written, since {above} is a file")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / "manifest.json").exists():
        raise InputError(f"{out}: exists and is no dataset; choose another name or directory, or remove it")
    try:
        manifest = read_manifest(out)
    except InputError as error:
        log.info(f"{error}; it will be replaced")
        return None
    if not replace:
        require_replaceable(out, manifest.get("recipe", {}), recipe)
    shards = [*map(shard_info, manifest["shards"])]
    tokens = sum(shard.tokens for shard in shards if shard.split == "train")
    date = datetime.fromtimestamp((out / "manifest.json").stat().st_mtime)
    log.info(f"{out}: will replace the dataset there: {tokens:,} train tokens, prepared {date:%Y-%m-%d %H:%M}")
    return fingerprint(manifest["tokenizer_fingerprint"], shards)
