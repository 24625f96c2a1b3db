import random

import pytest
import torch

from gpt.config import OptimizerConfig
from gpt.training.schedule import decay_start, lr_multiplier

CONFIG = OptimizerConfig(min_lr_ratio=0.1, warmup_steps=10)


def test_warmup_rises_linearly_and_does_not_begin_at_zero():
    rates = [lr_multiplier(step, 100, CONFIG) for step in range(10)]
    assert rates == pytest.approx([0.1 * (step + 1) for step in range(10)])


def test_the_decay_is_torchs_cosine():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.1)
    for step in range(9, 100):
        assert lr_multiplier(step, 100, CONFIG) == pytest.approx(reference.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        reference.step()


def test_the_last_step_has_the_final_rate():
    assert lr_multiplier(99, 100, CONFIG) == pytest.approx(0.1)
    assert lr_multiplier(0, 1, OptimizerConfig(warmup_steps=0)) == pytest.approx(0.1)


def test_a_short_run_warms_up_over_half_of_its_steps_and_still_comes_down():
    rates = [lr_multiplier(step, 6, CONFIG) for step in range(6)]
    assert max(rates) == rates[2] == pytest.approx(1.0)
    assert rates[5] == pytest.approx(0.1)


def test_wsd_is_stable_and_then_comes_down_in_a_straight_line():
    config = OptimizerConfig(schedule="wsd", decay_ratio=0.4, min_lr_ratio=0.1, warmup_steps=10)
    rates = [lr_multiplier(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10:60] == [1.0] * 50
    assert rates[60:] == pytest.approx([1 - 0.9 * (step + 1) / 40 for step in range(40)])


def test_wsd_with_no_decay_or_nothing_else():
    stable = OptimizerConfig(schedule="wsd", decay_ratio=0.0, warmup_steps=0)
    assert {lr_multiplier(step, 10, stable) for step in range(10)} == {1.0}
    falling = OptimizerConfig(schedule="wsd", decay_ratio=1.0, warmup_steps=2, min_lr_ratio=0.0)
    assert [lr_multiplier(step, 6, falling) for step in range(6)] == pytest.approx([0.5, 1, 0.8, 0.6, 0.4, 0.2])


def random_settings(rng):
    return OptimizerConfig(
        schedule=rng.choice(["cosine", "wsd"]),
        decay_ratio=rng.choice([0.0, 0.01, 0.2, 0.5, 1.0, rng.random()]),
        min_lr_ratio=rng.choice([0.0, 0.0, 0.1, 1.0, rng.random()]),
        warmup_steps=rng.choice([0, 1, 5, 100]),
    )


def test_every_step_moves_something_and_the_last_ends_where_the_schedule_says():
    """Also for a single step, for a decay that rounds to no step, and for a final rate of 0."""
    rng = random.Random(0)
    for _ in range(2000):
        config, steps = random_settings(rng), rng.choice([1, 2, 3, 7, 30, 211])
        rates = [lr_multiplier(step, steps, config) for step in range(steps)]
        assert all(0 < rate <= 1 for rate in rates)
        start, warmup = decay_start(steps, config), min(config.warmup_steps, steps // 2)
        assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
        if config.min_lr_ratio:
            stable = config.schedule == "wsd" and config.decay_ratio == 0
            assert rates[-1] == pytest.approx(1.0 if stable else config.min_lr_ratio)
        elif config.schedule == "cosine" or config.decay_ratio:  # the last step is the last but one on the way to 0
            assert lr_multiplier(steps, steps, config) == pytest.approx(0, abs=1e-12)
        assert all(rate == 1 for rate in rates[warmup:start])
        if start < steps and config.min_lr_ratio < 1:
            assert rates[start] < 1


def test_the_straight_line_to_zero_falls_by_the_same_at_each_step():
    config = OptimizerConfig(schedule="wsd", decay_ratio=0.4, min_lr_ratio=0.0, warmup_steps=10)
    assert decay_start(100, config) == 60
    rates = [lr_multiplier(step, 100, config) for step in range(59, 101)]
    assert rates == pytest.approx([1 - i / 41 for i in range(42)])


def test_the_cosine_to_zero_is_torchs_with_one_step_more():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=91)
    config = OptimizerConfig(min_lr_ratio=0.0, warmup_steps=10)
    for step in range(9, 100):
        assert lr_multiplier(step, 100, config) == pytest.approx(reference.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        reference.step()
