"""Stages: what is done once stays done, in this process or in others, some of which are killed."""

from concurrent.futures import Executor, Future
from pathlib import Path

import pytest
from stage_work import always_killed, failing, killed_at_first, square

from gpt.corpus.stages import Stages, Task, digest
from gpt.errors import InputError
from gpt.log import Progress


def tasks(tmp_path, count=7):
    return [Task(digest(number), f"task {number}", (number, tmp_path / "calls")) for number in range(count)]


def results(tmp_path, work, workers=1, count=7):
    (tmp_path / "work").mkdir(exist_ok=True)
    with Stages(tmp_path / "work", Progress(), str(workers)) as stages:
        found = list(stages.run("testing", work, tasks(tmp_path, count)))
    assert all(Path(f"{place}.text").read_text() == str(number) for number, (place, _) in enumerate(found))
    return [result["square"] for _, result in found]


def calls(tmp_path):
    return sorted(map(int, (tmp_path / "calls").read_text().split()))


def test_results_come_in_order_and_nothing_is_done_twice(tmp_path):
    assert results(tmp_path, square) == [number**2 for number in range(7)]
    assert results(tmp_path, square, count=9) == [number**2 for number in range(9)]
    assert calls(tmp_path) == list(range(9))


def test_the_files_of_each_result_lie_by_themselves(tmp_path):
    """To bring them to the disk, nobody need look through those of all others."""
    results(tmp_path, square)
    assert len([path for path in (tmp_path / "work").iterdir() if path.is_file()]) == 7
    folders = [path for path in (tmp_path / "work").iterdir() if path.name.startswith("square-") and path.is_dir()]
    assert [[file.name for file in folder.iterdir()] for folder in folders] == [["slice.text"]] * 7


def test_after_a_failure_what_was_done_is_there(tmp_path):
    with pytest.raises(InputError, match="three"):
        results(tmp_path, failing)
    assert calls(tmp_path) == [0, 1, 2]
    (tmp_path / "calls").unlink()
    with pytest.raises(InputError, match="three"):
        results(tmp_path, failing)
    assert not (tmp_path / "calls").exists()


def restarted(monkeypatch):
    """Let the machine be one that was started a minute ago."""
    monkeypatch.setattr("psutil.boot_time", lambda: 1e9)


def test_after_a_restart_of_the_machine_nothing_is_believed_that_was_not_waited_for(tmp_path, monkeypatch):
    results(tmp_path, square)
    for number, content in enumerate(["", "\0\0", "{}", '{"started": "x"}']):  # what a loss of power left of them
        [*(tmp_path / "work").glob("square-*.json")][number].write_text(content)
    results(tmp_path, square)
    assert len(calls(tmp_path)) == 7 + 4
    restarted(monkeypatch)
    assert results(tmp_path, square) == [number**2 for number in range(7)]
    assert len(calls(tmp_path)) == 7 + 4 + 7


def test_results_that_one_machine_wrote_are_not_believed_once_others_join(tmp_path):
    results(tmp_path, square)
    with Stages(tmp_path / "work", Progress(), part=(1, 2)) as stages:
        assert [*stages.run("testing", square, tasks(tmp_path)[:1])]
    assert calls(tmp_path) == sorted([*range(7), 0])


def test_what_reached_the_disk_outlives_a_restart_of_the_machine(tmp_path, monkeypatch):
    """Some results were brought there before the process was killed."""
    synced, own = [], []
    monkeypatch.setattr("gpt.corpus.disk.sync", lambda file: synced.append(str(file)))
    (tmp_path / "work").mkdir()
    with Stages(tmp_path / "work", Progress()) as stages:
        stages.keep()
        for place, _ in stages.run("testing", square, tasks(tmp_path, 3)):
            own.append(f"{place}.text")
        stages._keeper.close()  # which is with the last one, or has the first ones yet to do
    kept = [name for name in own if name in synced]
    restarted(monkeypatch)
    assert results(tmp_path, square) == [number**2 for number in range(7)]
    assert len(calls(tmp_path)) == 7 + 3 - len(kept)
    assert kept


def test_what_was_still_to_be_brought_to_the_disk_at_a_kill_is_so_later(tmp_path, monkeypatch):
    """No matter that nothing is left to be done."""
    results(tmp_path, square)
    with Stages(tmp_path / "work", Progress()) as stages:
        stages.keep()
        stages._keeper._pool.shutdown(wait=True)
    restarted(monkeypatch)
    results(tmp_path, square)
    assert calls(tmp_path) == [*range(7)]


def test_what_a_part_of_a_killed_run_found_out_by_itself_is_gone(tmp_path):
    """Such as the record of a split, which another recipe does not write in its place."""
    for _ in range(2):
        with Stages(tmp_path, Progress()) as stages:
            assert not [*stages.own.iterdir()]
            (stages.own / "split.json").write_text("{}")


def test_what_other_machines_share_is_on_the_disk_before_it_counts_and_outlives_a_restart(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("gpt.corpus.disk.sync", lambda file: synced.append(file.name))
    results(tmp_path, square)
    assert not synced
    (tmp_path / "calls").unlink()
    (tmp_path / "shared").mkdir()
    for _ in range(2):
        restarted(monkeypatch)
        with Stages(tmp_path / "shared", Progress(), part=(1, 2)) as stages:
            running = stages.run("testing", square, tasks(tmp_path)[:1])
            assert [result for _, result in running] == [{"square": 0}]
    assert calls(tmp_path) == [0]
    assert [name[:5] for name in sorted(synced)] == ["resul", "share", "slice", "squar"]  # files and directories


def test_a_cluster_that_was_lost_is_let_go_and_asked_for_again(tmp_path, monkeypatch):
    """Such as one whose scheduler was begun anew, which knows nothing of what it had to do."""
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    pools = []

    class Pool(Executor):
        def __init__(self, workers, directory):
            assert not any(pool.open for pool in pools)
            pools.append(self)
            self.open = True

        def submit(self, call, *arguments):
            future = Future()
            if len(pools) == 1:
                future.set_exception(distributed.client.FutureCancelledError("key", "lost"))
            else:
                future.set_result(call(*arguments))
            return future

        def shutdown(self, **_):
            self.open = False

    monkeypatch.setattr("gpt.corpus.stages.open_executor", Pool)
    assert results(tmp_path, square, "dask://here:1") == [number**2 for number in range(7)]
    assert [pool.open for pool in pools] == [False, False]


@pytest.mark.process
def test_a_killed_worker_is_replaced_and_its_task_repeated(tmp_path):
    assert results(tmp_path, killed_at_first, workers=2) == [number**2 for number in range(7)]
    assert set(calls(tmp_path)) == set(range(7))


@pytest.mark.process
def test_workers_that_are_always_killed_are_given_up_with_advice(tmp_path):
    with pytest.raises(
        InputError, match="a worker was killed 3 times while one of these was in work: task 0, task 1; .* fewer"
    ):
        results(tmp_path, always_killed, workers=2)


@pytest.mark.process
def test_an_error_in_a_worker_is_the_callers(tmp_path):
    with pytest.raises(InputError, match="three"):
        results(tmp_path, failing, workers=2)


def test_digests_tell_values_apart_and_are_alike_everywhere():
    assert len({digest(1), digest("1"), digest([1]), digest(1, 1), digest(None)}) == 5
    assert digest(frozenset({"b", "a"}), {"x": 1, "y": 2}) == digest(["a", "b"], {"y": 2, "x": 1})
