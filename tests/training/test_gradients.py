import math
from dataclasses import replace

import pytest
import torch

from gpt.training.optimizer import clip_gradients, unscale_gradients


def test_the_norm_is_over_all_gradients_and_undoes_the_scale(model):
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 8
    expected = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in model.parameters())) / 8
    assert unscale_gradients(model, scale=8.0) == pytest.approx(expected, rel=1e-5)
    clip_gradients(model, 0.0, expected)
    assert unscale_gradients(model, scale=1.0) == pytest.approx(expected, rel=1e-5)
    clip_gradients(model, 0.5, expected)
    assert unscale_gradients(model, scale=1.0) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e15, 1e18, 1e19, 1e20, 1e30, 1e37])
@pytest.mark.parametrize("limit", [0.5, 30.0, 1e25])
def test_every_finite_gradient_has_a_norm_and_is_clipped_to_the_limit(model, size, limit):
    """Also where float32 cannot hold its squares; beside float64."""
    torch.manual_seed(1)
    wanted = [torch.randn_like(parameter, dtype=torch.float64) * size for parameter in model.parameters()]
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        parameter.grad = gradient.float()
    expected = math.sqrt(sum(float((gradient**2).sum()) for gradient in wanted))
    norm = unscale_gradients(model, scale=1.0)
    assert norm == pytest.approx(expected, rel=1e-4)
    clip_gradients(model, limit, norm)
    factor = min(1.0, limit / expected)
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad.double(), gradient * factor, rtol=1e-3, atol=1e-37)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("others", [1.0, 1e30])
def test_a_gradient_that_is_not_finite_has_no_finite_norm(model, value, others):
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, others)
    next(model.parameters()).grad[0, 0] = value
    assert not math.isfinite(unscale_gradients(model, scale=1.0))


def test_a_step_whose_squares_overflow_is_clipped_and_learns(make_training, tiny_config):
    """Its gradient is that of a usual step times 1e20, so that clipped it is the same."""
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    usual, large = (make_training(config, name) for name in ("usual", "large"))
    for parameter in large.model.parameters():
        parameter.register_hook(lambda gradient: gradient * 1e20)
    one, two = usual.step(), large.step()
    assert "skipped" not in two
    assert two["gradient_norm"] == pytest.approx(one["gradient_norm"] * 1e20, rel=1e-4)
    for parameter, other in zip(usual.model.parameters(), large.model.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-3, atol=1e-5)


def test_without_clipping_what_adamw_cannot_square_is_skipped(make_training, tiny_config):
    config = replace(tiny_config, optimizer=replace(tiny_config.optimizer, gradient_clip=0.0))
    training = make_training(config)
    for parameter in training.model.parameters():
        parameter.register_hook(lambda gradient: gradient * 1e20)
    assert "cannot be squared in float32, and `optimizer.gradient_clip` is 0" in training.step()["skipped"]
