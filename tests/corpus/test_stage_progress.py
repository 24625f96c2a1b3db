"""The line of a preparation: what it says of a stage, by numbers that are given; and that it is measured."""

import gzip
import json
import time
from collections import Counter

import pytest

from gpt.corpus import pipeline, slices
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.executor import NOTED, timed
from gpt.corpus.pipeline import prepare
from gpt.corpus.reading import read_slice
from gpt.corpus.sources import TextFiles, Texts
from gpt.corpus.stage_progress import LIMITS, StageProgress, limit, share_kept
from gpt.corpus.stages import Stages, Task
from gpt.corpus.writer import write_slice
from gpt.log import Progress


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""

    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_a_stage_that_has_begun_says_how_much_there_is():
    assert str(StageProgress("reading", 7, 10**6, Counter())) == "reading: 0 of 7 slices"


def test_speed_time_left_share_and_limit_are_those_of_what_is_done(clock):
    """A quarter of the bytes took 20 seconds, so three quarters take 60."""
    noted = Counter(slices=2, bytes=50_000_000, documents=900, kept=450, left_out=500, unread=50)
    noted.update(disk=1.0, parsing=9.0)
    stage = StageProgress("reading", 4, 200_000_000, Counter(), noted, start=80.0)
    assert str(stage) == (
        "reading: 2 of 4 slices, 1:00 left, 2.5 MB/s, 900 documents, 50% kept, limited by parsing (90%)"
    )


def test_tokens_are_counted_where_there_are_some_and_documents_are_those_of_the_corpus(clock):
    counts = Counter(documents=1_000, kept=1_000, repeated=250)
    noted = Counter(slices=1, bytes=10, tokens=30_000_000, tokenizing=3, parsing=1)
    assert str(StageProgress("encoding", 2, 20, counts, noted, start=90.0)) == (
        "encoding: 1 of 2 slices, 0:10 left, 0.0 MB/s, 3.00 million tokens/s, 1,000 documents, 75% kept, limited by "
        "tokenizing (75%)"
    )


def test_what_was_not_measured_is_not_said():
    assert limit(Counter()) == ""
    assert limit(Counter(slices=3)) == ""
    assert share_kept(Counter()) == 0


def test_seconds_are_noted_once_on_the_innermost_that_they_are_spent_on(clock, monkeypatch):
    monkeypatch.setattr(NOTED, "seconds", Counter(), raising=False)

    def wait(seconds):
        clock.now += seconds

    def inner():
        wait(2)
        timed("disk", wait, 5)
        timed("tokenizing", wait, 11)
        with pytest.raises(ZeroDivisionError):
            timed("disk", failing)
        return "found"

    def failing():
        wait(1)
        return 1 / 0

    assert timed("parsing", inner) == "found"
    assert dict(NOTED.seconds) == {"disk": 6, "tokenizing": 11, "parsing": 2}


def working(place, seconds, clock):
    clock.now += 1
    timed("tokenizing", lambda: setattr(clock, "now", clock.now + seconds))
    return {"documents": 10, "kept": 8, "left_out": 2, "shards": [{"tokens": 40}, {"tokens": 2}]}


def test_what_tasks_note_is_summed_and_is_in_no_file(tmp_path, clock):
    (tmp_path / "work").mkdir()
    tasks = [Task(str(number), "", (number, clock), 1000) for number in range(3)]
    seen = []

    class Seen(Progress):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            seen.extend([value] if name == "doing" and value else [])

    with Stages(tmp_path / "work", Seen()) as running:
        list(running.run("encoding", working, tasks))
    assert running.spent == {
        "tokenizing": 3, "parsing": 3, "slices": 3, "bytes": 3000, "documents": 30, "kept": 24, "left_out": 6,
        "tokens": 126,
    }  # fmt: skip
    assert str(seen[0]).startswith("encoding: 3 of 3 slices, 0:00 left, ")
    for file in (tmp_path / "work").glob("*.json"):
        found = json.loads(file.read_text())
        assert found.keys() == {"place", "result", "started"}  # of the machine
        assert found["result"].keys() == {"documents", "kept", "left_out", "shards"}


def test_what_was_there_before_is_said_and_its_documents_are_counted(tmp_path, clock, said):
    (tmp_path / "work").mkdir()
    tasks = [Task(str(number), "", (number, clock), 1000) for number in range(9)]
    progress = Progress()
    with Stages(tmp_path / "work", progress) as first:
        list(first.run("reading", working, tasks[:4]))
        list(first.run("reading", working, tasks[:5]))  # the same process has no word on its own results
    assert said == []
    with Stages(tmp_path / "work", progress) as second:
        list(second.run("reading", working, tasks))
    assert said == ["reading: 5 of 9 slices were there from before"]
    assert second.spent["slices"] == 4
    assert "90 documents, 80% kept" in str(progress.doing)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl"])
def test_reading_a_file_is_spent_on_the_disk(tmp_path, monkeypatch, name):
    """And unpacking it; with a clock that moves whenever it is looked at, what is noted is how often it was read."""
    monkeypatch.setattr(time, "perf_counter", iter(range(10**6)).__next__)
    content = (json.dumps({"text": "some text " * 500}) + "\n").encode() * 600
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    source = TextFiles([tmp_path / name], field="text" if name == "a.jsonl" else None)
    (tmp_path / "work").mkdir()
    with Stages(tmp_path / "work", Progress()) as running:
        task = Task("x", "", (source, source.parts(), pipeline.Filters()), 1)
        list(running.run("reading", read_slice, [task]))
    assert running.spent["disk"] >= 3
    assert running.spent["parsing"] >= 1
    assert running.spent["kept"] == (600 if name == "a.jsonl" else 1)


def test_encoding_is_spent_on_tokenizing(tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "LEAST_BYTES", 1 << 14)
    noted = []
    run = Stages.run

    def spying(self, doing, work, tasks):
        yield from run(self, doing, work, tasks)
        noted.append((work, self.spent["tokenizing"]))

    monkeypatch.setattr(Stages, "run", spying)
    monkeypatch.setattr(time, "perf_counter", iter(range(10**6)).__next__)
    texts = {str(number): f"{number} words of a text " * 100 for number in range(20)}
    prepare(Texts(texts), SplitByContent(), "bytes", tmp_path / "d", {})
    *before, (work, seconds) = noted
    assert work is write_slice
    assert seconds >= 1
    assert {seconds for _, seconds in before} == {0}


def test_timings_are_in_no_file_of_the_dataset(tmp_path, clock):
    texts = {str(number): f"{number} words of a text " * 100 for number in range(20)}
    prepare(Texts(texts), SplitByContent(), "bytes", tmp_path / "d", {})
    for file in (tmp_path / "d").glob("*.json"):
        assert not [on for on in LIMITS if f'"{on}"' in file.read_text()], file
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
