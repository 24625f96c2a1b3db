"""Short versions of the campaigns of reliability/."""

import random

import pytest

from gpt.tracking.jsonl import read_metrics
from reliability.disks import damages, full_disks
from reliability.one_process import Campaign, Process
from reliability.ranks import dead_ranks, two_launchers

pytestmark = pytest.mark.process


def all_survived(*rows):
    return all(row.survived == row.tried > 0 for row in rows)


def test_kills_and_signals(dataset, tmp_path):
    campaign = Campaign(dataset, tmp_path / "campaign", 40, ("--model.n-layer", "1"))
    assert all_survived(*campaign.kills(2, random.Random(1)))
    assert all_survived(campaign.signals(2, random.Random(3)))


@pytest.mark.slow
def test_kills_of_a_training_of_adapters(dataset, tmp_path):
    """Their dropout included, which each step draws anew."""
    assert Process(dataset, tmp_path / "base", "--steps", "4").end() == 0
    adapters = ("--init-from", str(tmp_path / "base"), "--lora.rank", "4", "--lora.dropout", "0.2")
    campaign = Campaign(dataset, tmp_path / "campaign", 24, (*adapters, "--optimizer.name", "adamw"))
    assert all("lora_" in name for name in campaign.expected)
    assert all_survived(*campaign.kills(2, random.Random(4)))


def test_damaged_files(tiny_config, dataset, tmp_path):
    assert all_survived(damages(tiny_config, dataset, tmp_path, 24, random.Random(2)))


def test_full_disks(tiny_config, dataset, tmp_path, monkeypatch):
    assert all_survived(full_disks(tiny_config, dataset, tmp_path, 4, monkeypatch))


@pytest.mark.slow
def test_dead_ranks(dataset, tmp_path):
    assert all_survived(dead_ranks(dataset, tmp_path, 1, 60, random.Random(5)))


def test_two_launchers_with_a_rendezvous_have_the_losses_of_one_process(dataset, tmp_path):
    two_launchers(dataset, tmp_path)
    one, two = (read_metrics(tmp_path / name) for name in ("one-node", "two-nodes"))
    assert [record["batch_hash"] for record in one] == [record["batch_hash"] for record in two]
    losses = [[record["train_loss"] for record in records] for records in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) == 10
