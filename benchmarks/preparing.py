"""Preparing: how fast text becomes shards, beside tiktoken alone and beside the ways of llm.c and nanoGPT.

    python -m benchmarks.preparing --megabytes 10,100,1000 --runs 3

The text is words of this Python's library, drawn by how often they occur there, so that no passage repeats; it lies in
one file of each format. All encode with GPT-2's vocabulary and write shards. tiktoken alone encodes the documents, in
memory already, on one core: its rate counts for each core that there is. llm.c's way (dev/data/fineweb.py) is a pool of
processes that encode document by document, and one that collects; nanoGPT's (data/openwebtext/prepare.py) maps over the
documents with processes, and copies to a memory map. Of each, the time for next to no text is taken off. Programs run
in turns; what counts is the median. Memory is the largest sum over all processes of one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common import arguments, finish, show
from gpt.corpus.executor import cores
from gpt.corpus.recipes.python import texts
from gpt.text.tokenizer import END_OF_TEXT

FORMATS, PROGRAMS = ("txt", "jsonl", "parquet"), ("gpt prepare", "llm.c", "nanoGPT")
POLL_SECONDS = 0.05
PEER = """
import json, multiprocessing, os, sys
import numpy as np, tiktoken

way, path, out = sys.argv[1:]
encoding = tiktoken.get_encoding("gpt2")

def documents():
    if path.endswith(".jsonl"):
        with open(path) as lines:
            for line in lines:
                yield json.loads(line)["text"]
    elif path.endswith(".parquet"):
        from pyarrow.parquet import ParquetFile
        for batch in ParquetFile(path).iter_batches(columns=["text"]):
            yield from batch.column(0).to_pylist()
    else:
        with open(path) as file:
            yield from file.read().split("\\n<|endoftext|>\\n")

def tokenize(text):
    ids = [encoding.eot_token]
    ids.extend(encoding.encode_ordinary(text))
    return np.array(ids).astype(np.uint16)

if __name__ == "__main__":
    processes = max(1, len(os.sched_getaffinity(0)))
    with multiprocessing.Pool(processes) as pool:
        if way == "llm.c":
            shard, count, number = np.empty(100_000_000, dtype=np.uint16), 0, 0

            def write():
                header = np.zeros(256, dtype=np.int32)
                header[:3] = 20240520, 1, count
                with open(f"{out}_{number:06d}.bin", "wb") as file:
                    file.write(header.tobytes())
                    file.write(shard[:count].tobytes())

            for ids in pool.imap(tokenize, documents(), chunksize=16):
                fits = min(len(ids), len(shard) - count)
                shard[count : count + fits] = ids[:fits]
                count += fits
                if fits < len(ids):
                    write()
                    count, number = len(ids) - fits, number + 1
                    shard[:count] = ids[fits:]
            write()
        else:
            found = pool.map(tokenize, list(documents()))
            ids = np.memmap(f"{out}.bin", dtype=np.uint16, mode="w+", shape=(sum(map(len, found)),))
            place = 0
            for batch in np.array_split(np.arange(len(found)), min(1024, len(found))):
                joined = np.concatenate([found[i] for i in batch])
                ids[place : place + len(joined)] = joined
                place += len(joined)
            ids.flush()
"""


@cache
def library_words() -> list[str]:
    """List words of Python's library, each as often as it occurs there."""
    return " ".join(text for _, text in texts()).split()[:2_000_000]


def documents(size: int) -> Iterator[list[str]]:
    """Yield documents, many at a time, of about so many characters in all."""
    rng, words, done = np.random.default_rng(size), library_words(), 0
    while done < size:
        counts = rng.integers(50, 800, 1000)
        some = [" ".join(words[i] for i in rng.integers(len(words), size=count)) for count in counts]
        some = some[: max(2, int(1000 * (size - done) / sum(map(len, some))) + 1)]
        yield some
        done += sum(map(len, some))


def as_plain_text(some: list[str]) -> str:
    """Write documents as the recipe `files` reads them from one file."""
    return "".join(f"{text}\n{END_OF_TEXT}\n" for text in some)


def written(directory: Path, size: int) -> dict[str, Path]:
    """About so many bytes of text, in one file of each format."""
    import pyarrow
    from pyarrow import parquet

    files = {format: directory / f"{size}.{format}" for format in FORMATS}
    schema = pyarrow.schema([("text", pyarrow.string())])
    with (
        open(files["txt"], "w", encoding="utf-8") as plain,
        open(files["jsonl"], "w", encoding="utf-8") as lines,
        parquet.ParquetWriter(files["parquet"], schema) as table,
    ):
        for some in documents(size):
            plain.write(as_plain_text(some))
            lines.write("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in some))
            table.write_batch(pyarrow.record_batch([some], schema=schema))
    return files


def commands(directory: Path, file: Path) -> dict[str, list[str]]:
    """The programs, by name."""
    peer = directory / "peer.py"
    peer.write_text(PEER)
    field = [] if file.suffix == ".txt" else ["--field", "text"]
    ours = ["-m", "gpt", "prepare", "files", "--input", str(file), "--name", "ours", "--tokenizer", "gpt2", *field]
    found = {"gpt prepare": [*ours, "--out", str(directory / "ours"), "--replace"]}  # nothing of before is used
    return found | {way: [str(peer), way, str(file), str(directory / way)] for way in ("llm.c", "nanoGPT")}


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds, and the largest memory in MB: the sum of what is resident in all processes."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    while process.poll() is None:
        peak = max(peak, sum(_resident(process.pid)))
        time.sleep(POLL_SECONDS)
    assert process.stderr is not None
    said = process.stderr.read()
    if process.returncode:
        raise SystemExit(said.decode(errors="replace"))
    return time.perf_counter() - start, peak / 1e6


def _resident(session: int) -> Iterator[int]:
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == session:
            yield int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def tiktoken_rate(file: Path, size: int) -> float:
    """Megabytes per second that tiktoken alone encodes, on one core, of documents in memory."""
    import tiktoken

    encoding, done = tiktoken.get_encoding("gpt2"), 0
    documents = file.read_text(encoding="utf-8").split(f"\n{END_OF_TEXT}\n")
    start = time.perf_counter()
    for text in documents:
        encoding.encode_ordinary(text)
        done += len(text.encode())
        if done > min(size, 20_000_000):
            break
    return done / 1e6 / (time.perf_counter() - start)


def figures(size: int, runs: list[tuple[float, float, float]], bound: float) -> dict[str, float | None]:
    """What runs come to, (seconds, peak in MB, seconds for next to no text) each; none for less than a second."""
    seconds, memory, nothing = map(median, zip(*runs, strict=True))
    rate = size / 1e6 / (seconds - nothing) if seconds > nothing + 1 else None
    return {"mb_per_s": rate, "of_tiktoken_on_all_cores": rate and rate / bound, "peak_mb": memory}


def main() -> None:
    options = arguments(__doc__, peer=False, runs=3, megabytes="10,100,1000", programs=",".join(PROGRAMS))
    sizes = [int(number) * 1_000_000 for number in str(options.megabytes).split(",")]
    result: dict[str, object] = {"cores": cores()}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        small = written(directory, 20_000)
        for size in sizes:
            files = written(directory, size)
            for format, file in files.items():
                found: dict[str, list[tuple[float, float, float]]] = {}
                alone = []
                for _ in range(options.runs):
                    alone.append(tiktoken_rate(files["txt"], size))
                    for program in str(options.programs).split(","):
                        nothing = measured(commands(directory, small[format])[program])[0]
                        runs = found.setdefault(program, [])
                        runs.append((*measured(commands(directory, file)[program]), nothing))
                bound = median(alone) * cores()
                rows = {program: figures(size, runs, bound) for program, runs in found.items()}
                result[f"{size // 1_000_000} MB {format}"] = rows | {"tiktoken_mb_per_s_core": median(alone)}
                show(f"{size // 1_000_000} MB {format}: " + json.dumps(result[f"{size // 1_000_000} MB {format}"]))
                for file_ in directory.glob("*.bin"):
                    file_.unlink()
    finish("preparing", "cpu", result)


if __name__ == "__main__":
    main()
