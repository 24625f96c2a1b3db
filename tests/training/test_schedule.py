import pytest
import torch

from gpt.config import OptimizerConfig
from gpt.training.schedule import learning_rate

CONFIG = OptimizerConfig(learning_rate=1e-3, final_learning_rate=0.1, warmup_steps=10)


def test_warmup_rises_linearly_and_does_not_begin_at_zero():
    rates = [learning_rate(step, 100, CONFIG) for step in range(10)]
    assert rates == pytest.approx([1e-4 * (step + 1) for step in range(10)])


def test_the_decay_is_torchs_cosine():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=1e-4)
    for step in range(9, 100):
        assert learning_rate(step, 100, CONFIG) == pytest.approx(reference.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        reference.step()


def test_the_last_step_has_the_final_rate():
    assert learning_rate(99, 100, CONFIG) == pytest.approx(1e-4)
    assert learning_rate(0, 1, OptimizerConfig(learning_rate=1.0, warmup_steps=0)) == pytest.approx(0.1)


def test_a_short_run_warms_up_over_half_of_its_steps_and_still_comes_down():
    rates = [learning_rate(step, 6, CONFIG) for step in range(6)]
    assert max(rates) == rates[2] == pytest.approx(1e-3)
    assert rates[5] == pytest.approx(1e-4)
