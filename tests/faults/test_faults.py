"""Short versions of the campaigns, in every run of the tests, and the long ones, which `make faults` runs."""

import random

import pytest
from campaigns import (
    STEPS,
    Row,
    changing_numbers,
    damages,
    dead_ranks,
    full_disks,
    hung_ranks,
    kills,
    reference,
    signals,
    signals_to_ranks,
    two_launchers,
)

from gpt.tracking.jsonl import read_metrics

pytestmark = pytest.mark.process

TABLE_ROWS: list[Row] = []

slow = pytest.mark.slow
no_limit = pytest.mark.timeout(3600)


def all_survived(*rows: Row) -> bool:
    TABLE_ROWS.extend(rows)
    return all(row.survived == row.tried > 0 for row in rows)


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """The directory of an undisturbed run of one process, and its weights."""
    directory = tmp_path_factory.mktemp("reference")
    return directory / "undisturbed", reference(dataset, directory)


@no_limit
@pytest.mark.parametrize("count", [4, pytest.param(200, marks=slow)])
def test_kills(dataset, undisturbed, tmp_path, count):
    assert all_survived(*kills(dataset, tmp_path, undisturbed[1], count, random.Random(1)))


@no_limit
@pytest.mark.parametrize("count", [24, pytest.param(300, marks=slow)])
def test_damaged_files(tiny_config, dataset, tmp_path, count):
    assert all_survived(damages(tiny_config, dataset, tmp_path, count, random.Random(2)))


@no_limit
@pytest.mark.parametrize("points", [4, pytest.param(20, marks=slow)])
def test_full_disks(tiny_config, dataset, tmp_path, monkeypatch, points):
    assert all_survived(full_disks(tiny_config, dataset, tmp_path, points, monkeypatch))


@no_limit
@pytest.mark.parametrize("count", [3, pytest.param(50, marks=slow)])
def test_signals(dataset, undisturbed, tmp_path, count):
    assert all_survived(signals(dataset, tmp_path, undisturbed[1], count, random.Random(3)))


@no_limit
@slow
def test_signals_to_ranks(dataset, tmp_path):
    assert all_survived(signals_to_ranks(dataset, tmp_path, 12, random.Random(4)))


@no_limit
@pytest.mark.parametrize(("count", "steps"), [(1, 60), pytest.param(20, STEPS, marks=slow)])
def test_dead_ranks(dataset, tmp_path, count, steps):
    assert all_survived(dead_ranks(dataset, tmp_path, count, steps, random.Random(5)))


def test_two_launchers_with_a_rendezvous_have_the_losses_of_one_process(dataset, tmp_path):
    two_launchers(dataset, tmp_path)
    one, two = (read_metrics(tmp_path / name) for name in ("one-node", "two-nodes"))
    assert [record["batch_hash"] for record in one] == [record["batch_hash"] for record in two]
    losses = [[record["train_loss"] for record in records[:50]] for records in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@no_limit
@slow
def test_a_run_changes_its_number_of_processes_and_reads_the_same_batches(dataset, tmp_path):
    """4, 1, 2 and 4 processes over 500 steps and more than three epochs, against one process that is undisturbed."""
    (tmp_path / "one").mkdir()
    changing_numbers(dataset, tmp_path, [4, 1, 2, 4])
    changing_numbers(dataset, tmp_path / "one", [1])
    one, several = (read_metrics(run / "changing") for run in (tmp_path / "one", tmp_path))
    assert [record["batch_hash"] for record in one] == [record["batch_hash"] for record in several]
    assert len({record["batch_hash"] for record in one}) == 500
    assert 3 * dataset.train.tokens < 500 * 384
    losses = [[record["train_loss"] for record in records[:50]] for records in (one, several)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    losses = [[record["train_loss"] for record in records] for records in (one, several)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)  # rounding grows over hundreds of steps


@no_limit
@slow
def test_hung_ranks(dataset, tmp_path):
    assert all_survived(hung_ranks(dataset, tmp_path, 4, random.Random(6)))
