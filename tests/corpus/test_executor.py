import contextlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import python_text, run_here
from instruction_files import files_of, lines_of

from gpt.corpus import executor, pipeline, slices
from gpt.corpus.executor import Cluster, Execution, cores, open_executor, worker_count
from gpt.errors import InputError


def test_workers_are_a_number_all_or_a_cluster():
    assert [worker_count(workers) for workers in ("1", "8", "all", "dask://host:8786")] == [1, 8, cores(), 0]
    assert 1 <= cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("workers", ["0", "-1", "", "two", "1.5", "dask://", "tcp://host:1", "99999", "²"])
def test_anything_else_is_refused(workers):
    with pytest.raises(InputError, match="`workers` .*give a number of processes, all for one a processor, or dask://"):
        worker_count(workers)


def test_a_cluster_that_is_not_there_is_said(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

    def unreachable(*_, **__):
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", unreachable)
    with pytest.raises(InputError, match=r"`workers` dask://127.0.0.1:1: there is no Dask scheduler \(timed out\)"):
        open_executor("dask://127.0.0.1:1", tmp_path)


def test_without_dask_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(InputError, match=r"needs Dask .*pip install 'gpt\[cluster\]'"):
        open_executor("dask://127.0.0.1:1", tmp_path)


def test_a_part_is_one_of_many():
    assert Execution(part="3/8").numbers() == (3, 8)
    for text in ("0/8", "9/8", "3", "a/b", "1/0", "-1/3"):
        with pytest.raises(InputError, match="`part` .*: give I/N"):
            Execution(part=text).numbers()


def test_a_worker_of_a_cluster_that_was_begun_later_works_where_the_first_process_does(tmp_path, monkeypatch):
    """Such as one in place of a dead one, which nobody has asked what it has."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with ThreadPoolExecutor(1) as pool:
        cluster = Cluster(SimpleNamespace(submit=lambda call, pure: pool.submit(call)))
        pool.submit(os.chdir, tmp_path).result()
        monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "here")
        assert cluster.submit(os.getcwd).result() == str(tmp_path / "here")
        versions = iter("ab")
        monkeypatch.setattr(executor, "greeting_of", lambda word: [next(versions)])
        with pytest.raises(InputError, match="a worker of the cluster has b, where this process has a; give all the"):
            cluster.submit(os.getcwd).result()


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({}, None),
        ({"b": OSError("in <TCP (closed)>: Stream is closed")}, None),  # it died while it was asked
        (
            {"b": ImportError("No module named 'gpt'")},
            r"the worker b cannot answer \(No module named 'gpt'\); give all",
        ),
        ({"a": OSError("closed")}, "the cluster has no worker yet"),
    ],
)
def test_workers_are_asked_what_they_have_and_dead_ones_are_not_waited_for(tmp_path, others, reason):
    def run(ask, *arguments, on_error):
        assert on_error == "return"
        return {"a": ask(*arguments)} | others

    expected = pytest.raises(InputError, match=reason) if reason else contextlib.nullcontext()
    with expected:
        executor._shake_hands(run, "dask://here:1", tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.process
def test_a_dask_cluster_writes_the_same_bytes_of_texts_and_of_examples(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    monkeypatch.setattr(slices, "LEAST_BYTES", 4096)
    monkeypatch.setattr(pipeline, "LEAST_FOR_WORKERS", 0)
    (tmp_path / "notes").mkdir()
    for number in range(10):
        (tmp_path / "notes" / f"{number}.txt").write_text(python_text()[3000 * number :][:3000])
    (tmp_path / "a.jsonl").write_text("\n".join(lines_of(200)))
    commands = {"files": ("files", "--input", "notes"), "examples": ("instruct", "--input", "a.jsonl")}

    def prepared(kind, place, workers, code=0):
        options = ("--tokenizer", "bytes", "--name", f"{kind}-{place}", "--workers", workers)
        said = run_here("data/prepare.py", *commands[kind], *options, cwd=tmp_path, code=code)
        return said if code else files_of(tmp_path / "data" / f"{kind}-{place}")

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, protocol="tcp"
    ) as cluster:
        workers = cluster.scheduler_address.replace("tcp://", "dask://")
        for kind in commands:
            together = prepared(kind, "together", workers)
            assert len([name for name in together if name.startswith("train-")]) > 2
            assert together == prepared(kind, "alone", "1")
        monkeypatch.setattr("importlib.metadata.version", lambda name: "another")
        said = prepared("files", "other", workers, code=2)
        assert re.search(r"the worker tcp.* has another version of this program: .* another", said)
