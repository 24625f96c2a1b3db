import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper

from gpt.generation.sampling import probabilities, sample, sample_generators


def random_logits(B=4, V=100):
    return torch.randn(B, V, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [1, 5, 99, 100, 1000])
def test_probabilities_are_those_of_transformers(temperature, top_k):
    logits = random_logits()
    scores = TopKLogitsWarper(top_k)(None, TemperatureLogitsWarper(temperature)(None, logits.double()))
    torch.testing.assert_close(probabilities(logits, temperature, top_k), scores.softmax(-1), atol=1e-6, rtol=1e-6)


def test_draws_follow_the_probabilities():
    """10,000 draws of 8 ids against their probabilities (chi-squared, 7 degrees of freedom, p = 1e-4)."""
    logits = random_logits(1, 8)
    (generator,) = sample_generators(0, 1)
    draws = torch.cat([sample(logits, 1.0, 8, [generator]) for _ in range(10_000)])
    expected = probabilities(logits, 1.0, 8)[0] * 10_000
    assert ((torch.bincount(draws, minlength=8) - expected) ** 2 / expected).sum() < 29.9


def test_ids_outside_the_top_k_are_never_drawn():
    logits = random_logits(1, 50)
    allowed = set(logits[0].topk(5).indices.tolist())
    (generator,) = sample_generators(0, 1)
    drawn = {int(sample(logits, 5.0, 5, [generator])) for _ in range(2000)}
    assert drawn == allowed


def test_temperature_zero_takes_the_likeliest():
    logits = random_logits()
    assert sample(logits, 0, 50, []).tolist() == logits.argmax(-1).tolist()


def test_the_smallest_and_largest_draws_stay_inside(monkeypatch):
    logits = torch.full((1, 6), -torch.inf)
    logits[0, 2:4] = 0.0
    for uniform, expected in ((0.0, 2), (0.4999, 2), (0.5, 3), (1 - 2**-53, 3), (1.0, 3)):
        monkeypatch.setattr(torch, "rand", lambda *_, u=uniform, **__: torch.tensor([u], dtype=torch.float64))
        assert sample(logits, 1.0, 6, sample_generators(0, 1)).item() == expected


def test_a_row_is_the_same_at_any_batch_size():
    logits = random_logits(8, 1000)
    together = sample(logits, 1.0, 200, sample_generators(7, 8))
    alone = [sample(logits[i : i + 1], 1.0, 200, [sample_generators(7, 8)[i]]).item() for i in range(8)]
    assert together.tolist() == alone


def test_samples_and_seeds_draw_different_numbers():
    draws = {torch.rand(1, generator=g).item() for seed in range(20) for g in sample_generators(seed, 20)}
    assert len(draws) == 400
