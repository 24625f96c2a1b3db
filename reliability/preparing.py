"""Preparations that are killed at random moments, and go on: what they write is what an undisturbed one writes."""

import contextlib
import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from processes import Script

from reliability.common import Row

WORDS = 5000
PROGRAM = """
import sys
from pathlib import Path
from gpt.corpus import pipeline, slices
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.sources import TextFiles

if __name__ == "__main__":
    slices.LEAST_BYTES, pipeline.LEAST_FOR_WORKERS, pipeline.LEAST_TO_KEEP = 1 << 14, 0, 0
    source, out, workers = TextFiles([Path("texts")]), Path(sys.argv[1]), sys.argv[2]
    pipeline.prepare(source, SplitByContent(), "bpe:300", out, {"name": "files"}, workers=workers)
"""


def write_texts(directory: Path, count: int = 200) -> None:
    """Files of random words, some of which are copies of others, with a header or without."""
    rng, texts = random.Random(0), []
    (directory / "texts").mkdir()
    (directory / "prepare.py").write_text(PROGRAM)
    for number in range(count):
        text = " ".join(f"word{rng.randrange(WORDS)}" for _ in range(rng.randrange(50, 400)))
        if number % 20 == 7:
            text = texts[number // 2]
        if number % 20 == 8:
            text = f"A header\n\n{texts[number // 2]}"
        texts.append(text)
        (directory / "texts" / f"{number:04}.txt").write_text(text)


def hashes(dataset: Path) -> dict[str, str]:
    """The SHA-256 of every file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(dataset.iterdir())}


def killed_preparations(directory: Path, workers: str, count: int, rng: random.Random) -> Row:
    """Kill -9 that many preparations; each is begun anew until it is whole."""
    row, number = Row(f"kill -9 of a preparation, workers {workers.partition(':')[0]}"), 0
    longest = undisturbed(directory, "undisturbed", workers)
    expected = hashes(directory / "undisturbed")
    while row.tried < count:
        number += 1
        out, killed = directory / f"killed-{number}", 0
        while True:
            program = Script(directory / "prepare.py", out.name, workers, cwd=directory)
            if killed < 3 and row.tried + killed < count:
                time.sleep(rng.uniform(0, longest))
            else:
                program.process.join()
            if program.process.is_alive():
                os.kill(program.process.pid, signal.SIGKILL)
            code = program.end()
            assert code in (0, -signal.SIGKILL), program.said()
            killed += code != 0
            program.output.unlink(missing_ok=True)
            if code == 0:
                break
        for _ in range(killed):
            row.count(hashes(out) == expected)
        assert not [path for path in directory.iterdir() if path.name.endswith((".work", ".partial"))]
    return row


def undisturbed(directory: Path, name: str, workers: str) -> float:
    """Prepare without a kill; return how long it took."""
    start = time.monotonic()
    program = Script(directory / "prepare.py", name, workers, cwd=directory)
    assert program.end() == 0, program.said()
    program.output.unlink()
    return time.monotonic() - start


def killed_workers(directory: Path, count: int, rng: random.Random) -> Row:
    """Kill -9 that many workers of Dask clusters, up to three in each preparation, which is not begun anew for that."""
    from distributed import Client

    row, number = Row("kill -9 of a Dask worker in a preparation"), 0
    longest = undisturbed(directory, "undisturbed", "1")
    expected = hashes(directory / "undisturbed")
    while row.tried < count:
        number += 1
        out, killed = directory / f"worker-{number}", 0
        with cluster() as workers, Client(workers.replace("dask://", "tcp://"), set_as_default=False) as client:
            program = Script(directory / "prepare.py", out.name, workers, cwd=directory)
            for _ in range(min(3, count - row.tried)):
                program.process.join(rng.uniform(0, longest))
                pids = sorted(client.run(os.getpid).values())  # none while all are begun anew
                if program.process.is_alive() and pids:
                    os.kill(rng.choice(pids), signal.SIGKILL)
                    killed += 1
            assert program.end() == 0, program.said()
        program.output.unlink()
        for _ in range(killed):
            row.count(hashes(out) == expected)
    return row


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """A Dask cluster of two workers on this machine; its address, as `--workers` has it."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, protocol="tcp"
    ) as running:
        yield running.scheduler_address.replace("tcp://", "dask://")
