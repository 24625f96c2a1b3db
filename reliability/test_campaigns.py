"""The campaigns in full: hundreds of faults. Their table is printed at the end."""

import contextlib
import random

import pytest

from gpt.tracking.jsonl import read_metrics
from reliability.common import STEPS, Row
from reliability.disks import damages, full_disks
from reliability.one_process import Campaign
from reliability.preparing import cluster, killed_preparations, killed_workers, write_texts
from reliability.ranks import changing_numbers, dead_ranks, hung_ranks, signals_to_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TABLE_ROWS: list[Row] = []


def all_survived(*rows: Row) -> bool:
    TABLE_ROWS.extend(rows)
    return all(row.survived == row.tried > 0 for row in rows)


@pytest.fixture(scope="module")
def campaign(dataset, tmp_path_factory):
    return Campaign(dataset, tmp_path_factory.mktemp("campaign"))


def test_kills(campaign):
    assert all_survived(*campaign.kills(200, random.Random(1)))


def test_damaged_files(tiny_config, dataset, tmp_path):
    assert all_survived(damages(tiny_config, dataset, tmp_path, 300, random.Random(2)))


def test_full_disks(tiny_config, dataset, tmp_path, monkeypatch):
    assert all_survived(full_disks(tiny_config, dataset, tmp_path, 20, monkeypatch))


def test_signals(campaign):
    assert all_survived(campaign.signals(50, random.Random(3)))


def test_signals_to_ranks(dataset, tmp_path):
    assert all_survived(signals_to_ranks(dataset, tmp_path, 12, random.Random(4)))


def test_dead_ranks(dataset, tmp_path):
    assert all_survived(dead_ranks(dataset, tmp_path, 20, STEPS, random.Random(5)))


def test_hung_ranks(dataset, tmp_path):
    assert all_survived(hung_ranks(dataset, tmp_path, 4, random.Random(6)))


@pytest.mark.parametrize("workers", ["1", "4", "a cluster"])
def test_killed_preparations(tmp_path, workers):
    write_texts(tmp_path)
    with cluster() if workers == "a cluster" else contextlib.nullcontext(workers) as given:
        assert all_survived(killed_preparations(tmp_path, given, 50, random.Random(7)))


def test_killed_workers_of_a_cluster(tmp_path):
    write_texts(tmp_path)
    assert all_survived(killed_workers(tmp_path, 50, random.Random(8)))


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
