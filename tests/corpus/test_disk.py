"""Room on the disk, which is compared with what the text will take before anything is read."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from gpt.corpus import disk, pipeline
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.disk import warn_of_little_room
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import Texts

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("inputs", "there", "needed"),
    [
        ([("a.txt", 10_000_000)], 0, "21.5 MB"),
        ([("a.txt", 10_000_000)], 1_500_000, "20.0 MB"),
        ([("a.jsonl.GZ", 10_000_000), ("b.txt", 0)], 0, "64.5 MB"),
        ([("a.parquet", 10_000_000)], 0, "64.5 MB"),
        ([("a.txt", 9_000)], 0, None),
        ([("a.txt", 10_000_000)], 30_000_000, None),
    ],
)
def test_what_will_be_needed_is_compared_with_what_is_free(tmp_path, monkeypatch, said, inputs, there, needed):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 1_000_000))
    with open(tmp_path / "x.texts", "wb") as file:
        file.truncate(there)
    warn_of_little_room(tmp_path, inputs)
    if needed is None:
        assert not said
    else:
        (line,) = said
        assert line.startswith(f"{tmp_path.parent}: about {needed} are needed there")
        assert "and 1.0 MB are free" in line


def test_what_another_job_renames_meanwhile_is_passed_over(tmp_path, monkeypatch, said):
    (tmp_path / "there.texts").write_bytes(bytes(1000))
    (tmp_path / "result").touch()
    honest = Path.stat

    def stat(path, **options):
        found = honest(path, **options)
        if path.name == "result":
            path.unlink()
        return found

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr("os.walk", lambda _: [(tmp_path, [], ["gone.result", "there.texts", "result"])])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    warn_of_little_room(tmp_path, [("a.txt", 10_000_000)])
    assert "about 21.5 MB are needed" in said[0]


def test_it_is_said_before_anything_is_read(tmp_path, monkeypatch, said):
    monkeypatch.setattr(pipeline, "LEAST_TO_KEEP", 0)
    monkeypatch.setattr(disk, "TAKEN", 1e15)
    prepare(Texts({str(n): f"{n} words " * 99 for n in range(30)}), SplitByContent(), "bytes", tmp_path / "d", {})
    assert said[0].startswith(f"{tmp_path}: about ")
