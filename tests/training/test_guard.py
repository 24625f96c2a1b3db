import math
import random
from statistics import fmean, pstdev

import pytest
import torch

from gpt.training.guard import GradientGuard, LossScale, diverged_at, first_not_finite


def filled(skip_spikes=True, norms=128):
    guard = GradientGuard(skip_spikes)
    rng = random.Random(0)
    accepted = [rng.gauss(1.0, 0.1) for _ in range(norms)]
    for norm in accepted:
        assert guard.judge(2.0, norm) is None
    return guard, accepted


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_what_is_not_finite_is_skipped_and_counted(loss, norm):
    guard, accepted = filled(skip_spikes=False)
    assert "not finite" in guard.judge(loss, norm)
    assert "not finite" in guard.judge(loss, norm)
    assert guard.skipped_in_a_row == 2
    assert list(guard.accepted) == accepted
    assert guard.judge(1.0, 1.0) is None
    assert guard.skipped_in_a_row == 0


def test_a_spike_is_more_than_six_deviations_above_the_last_128(accepted_shift=1e-6):
    guard, accepted = filled()
    limit = fmean(accepted) + 6 * pstdev(accepted)
    assert "6.0 standard deviations above the usual" in guard.judge(2.0, limit + accepted_shift)
    assert guard.judge(2.0, limit - accepted_shift) is None
    assert len(guard.accepted) == 128


def test_the_window_must_be_full_and_a_fall_is_no_spike():
    guard, _ = filled(norms=127)
    assert guard.judge(2.0, 1e6) is None
    guard, _ = filled()
    assert guard.judge(2.0, 0.0) is None
    guard, _ = filled(skip_spikes=False)
    assert guard.judge(2.0, 1e6) is None


def test_a_skipped_norm_does_not_widen_the_window():
    guard, _ = filled()
    assert all(guard.judge(2.0, 50.0) for _ in range(5))


def test_the_state_comes_back():
    guard, accepted = filled()
    guard.judge(math.nan, 1.0)
    again = GradientGuard(True)
    again.load_state_dict(guard.state_dict())
    assert (list(again.accepted), again.skipped_in_a_row) == (accepted, 1)
    assert again.judge(2.0, 50.0) == guard.judge(2.0, 50.0)


def test_divergence_names_the_newest_checkpoint_from_before_the_sick_weights(tmp_path):
    """Steps 5, 6 and 7 were skipped: the weights of step 4 gave no finite loss, be they saved or not."""
    assert "nothing was saved yet" in str(diverged_at(7, tmp_path))
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    assert "none of its checkpoints is from before that" in str(diverged_at(7, tmp_path))
    (tmp_path / "checkpoints" / "step-00000003").mkdir()
    said = str(diverged_at(7, tmp_path))
    assert "step-00000003, is from before that: go on from it with `resume` `from_step` 3" in said


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_tensor_that_is_not_finite_is_named(value):
    tensors = {"a": torch.ones(3), "b": torch.tensor([[1.0, value]]), "c": torch.tensor([value])}
    assert first_not_finite(tensors) == "b"
    assert first_not_finite({"a": torch.full((2,), 3e38)}) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_float16_is_scaled(dtype):
    scale = LossScale(dtype)
    assert scale.value == 1
    assert not scale.lower()
    for _ in range(5000):
        scale.accept()
    assert scale.value == 1


def test_the_scale_is_halved_down_to_one_and_doubled_after_2000_steps():
    scale = LossScale(torch.float16)
    halvings = 0
    while scale.lower():
        halvings += 1
    assert (halvings, scale.value) == (16, 1.0)
    for _ in range(1999):
        scale.accept()
    assert scale.value == 1
    scale.accept()
    assert scale.value == 2
    again = LossScale(torch.float16)
    again.load_state_dict(scale.state_dict())
    assert again.state_dict() == scale.state_dict()
    single = LossScale(torch.float32)
    single.load_state_dict(scale.state_dict())  # of a run that is resumed in another precision
    assert single.value == 1
    half = LossScale(torch.float16)
    half.load_state_dict(single.state_dict())
    assert half.value == 2.0**16
