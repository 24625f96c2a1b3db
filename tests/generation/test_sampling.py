import math

import pytest
import torch
from helpers import transformers

from gpt import SamplingConfig
from gpt.generation.sampling import candidates, draw_logprob, sample, sample_generator


def random_logits(B=4, V=100):
    return torch.randn(B, V, generator=torch.Generator().manual_seed(0)) * 3


def probabilities(logits, sampling, seen=()):
    """Those of the candidates, in their places: (B, V)."""
    ids, values = candidates(logits, sampling, seen)
    assert (ids.diff(dim=-1) > 0).all()
    return torch.zeros_like(logits, dtype=torch.float64).scatter(1, ids, values)


def theirs(logits, sampling, text):
    """By transformers' processors in the order in which it applies them: generation/utils.py,
    _get_logits_processor. `text` (B, T) is what precedes."""
    scores = transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(text, logits.double())
    scores = transformers.TemperatureLogitsWarper(float(sampling.temperature))(None, scores)
    scores = transformers.TopKLogitsWarper(sampling.top_k)(None, scores)
    scores = transformers.TopPLogitsWarper(float(sampling.top_p))(None, scores)
    return transformers.MinPLogitsWarper(float(sampling.min_p))(None, scores).softmax(-1)


@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [1, 5, 99, 100, 1000])
@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("repetition_penalty", [0.7, 1.0, 1.3])
def test_probabilities_are_those_of_transformers(temperature, top_k, top_p, min_p, repetition_penalty):
    sampling = SamplingConfig(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
    )
    logits, text = random_logits(), torch.randint(100, (4, 30), generator=torch.Generator().manual_seed(1))
    ours = probabilities(logits, sampling, list(text))
    torch.testing.assert_close(ours, theirs(logits, sampling, text), atol=1e-6, rtol=0)


@pytest.mark.parametrize("top_p", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("top_k", [3, 7, 20])
def test_equal_logits_are_kept_and_dropped_as_in_transformers(top_k, top_p):
    """As many of them; which ones is left to its sort, which is not stable. Here it is those of the higher ids."""
    logits = torch.randint(-2, 3, (50, 20), generator=torch.Generator().manual_seed(2)).float()
    sampling = SamplingConfig(temperature=0.9, top_k=top_k, top_p=top_p)
    ours, expected = probabilities(logits, sampling), theirs(logits, sampling, torch.zeros(50, 1, dtype=torch.int64))
    torch.testing.assert_close(ours.sort(-1).values, expected.sort(-1).values, atol=1e-6, rtol=0)
    for row, kept in zip(logits.tolist(), (ours > 0).tolist(), strict=True):
        for value in {row[i] for i in range(20) if kept[i]}:
            of_equals = [kept[i] for i in range(20) if row[i] == value]
            assert of_equals == sorted(of_equals)


def test_draws_follow_the_probabilities():
    """10,000 draws of 8 ids against their probabilities (chi-squared, 7 degrees of freedom, p = 1e-4)."""
    logits, sampling = random_logits(1, 8), SamplingConfig(temperature=1.0, top_k=8)
    generator = sample_generator(0, 0)
    draws = torch.cat([sample(logits, sampling, [generator]) for _ in range(10_000)])
    expected = probabilities(logits, sampling)[0] * 10_000
    assert ((torch.bincount(draws, minlength=8) - expected) ** 2 / expected).sum() < 29.9


def test_ids_outside_the_top_k_are_never_drawn():
    logits = random_logits(1, 50)
    allowed = set(logits[0].topk(5).indices.tolist())
    generator = sample_generator(0, 0)
    drawn = {int(sample(logits, SamplingConfig(temperature=5.0, top_k=5), [generator])) for _ in range(2000)}
    assert drawn == allowed


def test_temperature_zero_takes_the_likeliest_after_the_penalty():
    logits = random_logits()
    best = logits.argmax(-1)
    assert sample(logits, SamplingConfig(temperature=0), []).tolist() == best.tolist()
    apply_penalty = SamplingConfig(temperature=0, repetition_penalty=1000.0)
    second = logits.scatter(1, best[:, None], -torch.inf).argmax(-1)
    assert sample(logits, apply_penalty, [], list(best[:, None])).tolist() == second.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_settings_are_numbers_still_and_logits_stay_as_they_were(dtype):
    logits = random_logits().to(dtype)
    before, text = logits.clone(), list(torch.zeros(4, 1, dtype=torch.int64))
    for temperature, penalty in ((1e-308, 1.0), (1e-308, 1000.0), (1e300, 0.001)):
        sampling = SamplingConfig(temperature=temperature, repetition_penalty=penalty, top_p=0.9)
        assert candidates(logits, sampling, text)[1].sum(-1).allclose(torch.ones(4, dtype=torch.float64))
        assert torch.equal(logits, before)


def test_the_smallest_and_largest_draws_stay_inside(monkeypatch):
    logits = torch.full((1, 6), -torch.inf)
    logits[0, 2:4] = 0.0
    for uniform, expected in ((0.0, 2), (0.4999, 2), (0.5, 3), (1 - 2**-53, 3), (1.0, 3)):
        monkeypatch.setattr(torch, "rand", lambda *_, u=uniform, **__: torch.tensor([u], dtype=torch.float64))
        assert sample(logits, SamplingConfig(temperature=1.0, top_k=6), [sample_generator(0, 0)]).item() == expected


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize("options", [{}, {"top_k": 1000}, {"top_p": 0.9}, {"min_p": 0.02}])
def test_a_row_is_the_same_at_any_batch_size(options):
    logits, sampling = random_logits(8, 1000), SamplingConfig(**options)
    generators = [sample_generator(7, i) for i in range(8)]
    together = sample(logits, sampling, generators)
    alone = [sample(logits[i : i + 1], sampling, [sample_generator(7, i)]).item() for i in range(8)]
    assert together.tolist() == alone


def test_samples_and_seeds_draw_different_numbers():
    draws = {torch.rand(1, generator=sample_generator(seed, i)).item() for seed in range(20) for i in range(20)}
    assert len(draws) == 400


@pytest.mark.parametrize(
    "sampling", [SamplingConfig(), SamplingConfig(temperature=1.3, top_k=5, top_p=0.9, min_p=0.05)]
)
def test_how_likely_ids_are_drawn_is_the_product_of_the_probabilities(sampling):
    logits = random_logits(B=6)
    ids = torch.stack([probabilities(logits, sampling)[row].multinomial(1)[0] for row in range(6)])
    wanted = probabilities(logits, sampling)[range(6), ids].log().sum()
    assert draw_logprob(logits, ids, sampling) == pytest.approx(float(wanted))
    drawn = sum(
        torch.equal(sample(logits[:2], sampling, [sample_generator(i, 0), sample_generator(i, 1)]), ids[:2])
        for i in range(1000)
    )
    chance = math.exp(draw_logprob(logits[:2], ids[:2], sampling))
    assert abs(drawn / 1000 - chance) < 4 * math.sqrt(chance * (1 - chance) / 1000)
    ids[3] = logits[3].argmin()
    assert draw_logprob(logits, ids, sampling) == -math.inf


def test_what_is_among_the_likeliest_by_a_tie_may_be_drawn():
    logits = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])
    one = math.exp(draw_logprob(logits, torch.tensor([3]), SamplingConfig(temperature=1, top_k=2)))
    assert one == pytest.approx(math.e / (math.e**3 + 3 * math.e))
    assert draw_logprob(logits, torch.tensor([4]), SamplingConfig(temperature=1, top_k=2)) == -math.inf
