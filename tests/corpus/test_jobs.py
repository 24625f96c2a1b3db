"""Jobs that share the work: what the others do when one fails, or is not there."""

from pathlib import Path

import pytest

from gpt.corpus import jobs, slices
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.jobs import begin_job, wait_for
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import TextFiles
from gpt.errors import InputError


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job of three, of which the others have ended or were never begun."""
    monkeypatch.setattr(jobs, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(slices, "LEAST_BYTES", 1 << 10)
    (tmp_path / "notes").mkdir()
    for number in range(9):
        (tmp_path / "notes" / f"{number}.txt").write_text(f"{number} words " * 200)

    def run(part, kind=TextFiles):
        return prepare(
            kind([tmp_path / "notes"]), SplitByContent(), "bytes", tmp_path / "d", {"name": "files"}, part=(part, 3)
        )

    return run


class Failing(TextFiles):
    def parts(self):
        raise InputError("no disk here")


def test_the_others_end_with_the_name_of_a_job_that_has_failed_and_why(job, tmp_path):
    with pytest.raises(InputError, match="^no disk here$"):
        job(3, Failing)
    (tmp_path / ".d.work" / "failed-1").write_text("another reason")
    with pytest.raises(InputError, match="part 1 of 3, for which this one waits, has failed: another reason; what is"):
        job(2)
    (tmp_path / ".d.work" / "failed-1").unlink()
    with pytest.raises(InputError, match="part 3 of 3, for which this one waits, has failed: no disk here; what is"):
        job(2)
    left = sorted(path.name for path in (tmp_path / ".d.work").glob("failed-*"))
    assert left == ["failed-3"]  # of which all is the cause
    begin_job(tmp_path / ".d.work", 3)
    assert not [*(tmp_path / ".d.work").glob("failed-*")]


def test_a_job_that_is_not_there_is_waited_for_and_named(tmp_path, monkeypatch, said):
    monkeypatch.setattr(jobs, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    missing = iter([{2, 3}, {2, 3}, {3}, set()])
    wait_for(tmp_path, 8, lambda: next(missing))
    assert said == ["still waiting for other jobs, part 2, 3 of 8: begin again what was killed"]


def test_a_job_that_fails_late_has_as_long_to_be_begun_again(tmp_path, monkeypatch):
    """However long the others have waited; and that it was just begun again harms nothing."""
    clock, failed = [0.0], tmp_path / "failed-2"
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(jobs.time, "sleep", lambda _: None)

    def lacking():
        clock[0] += 200.0
        if clock[0] in (1000.0, 1600.0):
            failed.write_text(f"no disk at {clock[0]}")
        if clock[0] == 1400.0:
            failed.unlink()
        return {2}

    with pytest.raises(InputError, match="part 2 of 3, for which this one waits, has failed: no disk at 1600"):
        wait_for(tmp_path, 3, lacking)
    assert clock[0] == 2000.0
    clock[0] = 0.0
    honest = Path.stat

    def stat(path, **options):
        found = honest(path, **options)
        if path == failed:
            path.unlink()
        return found

    monkeypatch.setattr(Path, "stat", stat)
    missing = iter([{2}, {2}, set()])
    wait_for(tmp_path, 3, lambda: next(missing))
    assert not failed.exists()


def test_what_fails_early_does_not_take_the_results_of_others(job, tmp_path):
    with pytest.raises(InputError, match="no disk here"):
        job(2, Failing)
    assert (tmp_path / ".d.work" / "failed-2").read_text() == "no disk here"
