from dataclasses import replace

import pytest
import torch

from gpt import ModelConfig, TrainConfig
from gpt.analysis.cost import flops_per_token
from gpt.distributed.world import World
from gpt.tracking.jsonl import read_metrics
from gpt.tracking.progress import progress_line
from gpt.training import utilization
from gpt.training.utilization import MEASURED_AT, MOST_MEASURED, Utilization

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=32, context_length=32, vocab_size=257)
TRUE = 1000 * flops_per_token(MODEL)  # of a device that could train on 1,000 tokens per second


@pytest.fixture
def measured(monkeypatch):
    """The speeds that are found, one after the other, and then the true one for ever; what was asked is counted."""
    speeds, asked = [], []

    def measured_peak_flops(*_):
        asked.append(1)
        return speeds.pop(0) if speeds else TRUE

    monkeypatch.setattr(utilization, "measured_peak_flops", measured_peak_flops)
    return speeds, asked


def shares(tokens_per_s, steps=40):
    follower = Utilization(TrainConfig(model=MODEL), World("cpu"), torch.float32)
    return [follower.share(tokens_per_s) for _ in range(steps)]


def test_the_share_is_known_once_the_device_is_warm(measured):
    found = shares(400)
    assert found[: MEASURED_AT[0] - 1] == [None] * (MEASURED_AT[0] - 1)
    assert found[MEASURED_AT[0] - 1 :] == pytest.approx([0.4] * (40 - MEASURED_AT[0] + 1))
    assert len(measured[1]) == len(MEASURED_AT)


def test_a_measurement_in_a_busy_moment_is_never_shown_and_made_again(measured):
    """Each of the first five finds a hundredth of the speed: what comes out above 1 is left out."""
    measured[0].extend([TRUE / 100] * 5)
    found = shares(400, steps=100)
    assert all(share is None or share == pytest.approx(0.4) for share in found)
    assert found[-1] == pytest.approx(0.4)
    assert len(measured[1]) == 6


def test_where_it_stays_above_1_it_is_left_out_and_not_measured_for_ever(measured):
    assert shares(2000, steps=1000) == [None] * 1000
    assert len(measured[1]) == MOST_MEASURED


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_matrix_speed_is_that_of_the_precision_that_is_trained_in(monkeypatch, as_if_it_rounds, precision):
    seen = []
    monkeypatch.setattr(
        utilization, "measured_peak_flops", lambda *_: seen.append(torch.backends.mkldnn.matmul.fp32_precision) or TRUE
    )
    before = torch.backends.mkldnn.matmul.fp32_precision
    follower = Utilization(TrainConfig(model=MODEL, float32_matmul_precision=precision), World("cpu"), torch.float32)
    for _ in range(MEASURED_AT[0]):
        follower.share(400)
    assert seen == ["bf16" if precision == "medium" else before]
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_a_run_whose_device_seems_slow_neither_shows_nor_records_more_than_1(make_training, tiny_config, monkeypatch):
    monkeypatch.setattr(utilization, "measured_peak_flops", lambda *_: 1.0)
    training = make_training(replace(tiny_config, evaluation=replace(tiny_config.evaluation, every=0)))
    training.fit()
    records = read_metrics(training.run)
    assert [record["mfu"] for record in records] == [None] * 30
    assert "MFU" not in progress_line(records[-1], 30, None, 0.0)


def test_products_that_memory_does_not_hold_end_no_training(measured, monkeypatch):
    """They are many times as large as a step of a small model needs; later there may be room."""
    results = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("std::bad_alloc"), TRUE]

    def measured_peak_flops(*_):
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(utilization, "measured_peak_flops", measured_peak_flops)
    found = shares(400, steps=MEASURED_AT[2])
    assert found[:-1] == [None] * (MEASURED_AT[2] - 1)
    assert found[-1] == pytest.approx(0.4)
