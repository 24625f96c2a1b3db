import pytest
import torch

from gpt import GPT, InputError, ModelConfig, SamplingConfig, generate
from gpt.generation.engine import generate_batch
from gpt.generation.sampling import sample, sample_generators

PROMPT = [5, 17, 200, 3]


def uncached(model, prompt, samples, sampling):
    """The same continuations by a full pass over all tokens for every new one."""
    generators = sample_generators(sampling.seed, samples)
    tokens = torch.tensor([prompt] * samples)
    for _ in range(sampling.max_tokens):
        logits = model(tokens)[:, -1]
        drawn = sample(logits, sampling.temperature, sampling.top_k, generators)
        tokens = torch.cat([tokens, drawn[:, None]], dim=1)
    return tokens[:, len(prompt) :].tolist()


def batch(model, prompt, samples, sampling, **options):
    """Each sample's ids, up to its end."""
    steps = list(generate_batch(model, prompt, samples, sampling, **options))
    return [[step[i] for step in steps if step[i] is not None] for i in range(samples)]


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("temperature", [0, 0.9])
def test_cached_generation_draws_the_ids_of_uncached(model, samples, temperature):
    sampling = SamplingConfig(max_tokens=40, temperature=temperature, top_k=30, seed=5)
    assert batch(model, PROMPT, samples, sampling) == uncached(model, PROMPT, samples, sampling)


def test_sample_i_is_the_same_at_any_number_of_samples(model):
    sampling = SamplingConfig(max_tokens=40, seed=5)
    four = batch(model, PROMPT, 4, sampling)
    assert batch(model, PROMPT, 1, sampling) == four[:1]
    assert batch(model, PROMPT, 2, sampling) == four[:2]
    assert len({tuple(ids) for ids in four}) == 4


def test_generate_yields_ids_as_it_goes(model):
    options = {"max_tokens": 12, "temperature": 0.8, "top_k": 50, "seed": 5}
    ids = generate(model, PROMPT, **options)
    first = next(ids)
    assert isinstance(first, int)
    assert [[first, *ids]] == batch(model, PROMPT, 1, SamplingConfig(**options))


def test_a_seed_repeats_and_no_seed_does_not(model):
    assert list(generate(model, PROMPT, seed=1)) == list(generate(model, PROMPT, seed=1))
    assert list(generate(model, PROMPT, seed=1)) != list(generate(model, PROMPT, seed=2))
    assert list(generate(model, PROMPT)) != list(generate(model, PROMPT))


def test_top_k_above_the_vocabulary_means_all(model):
    assert list(generate(model, PROMPT, top_k=10**6, seed=1)) == list(generate(model, PROMPT, top_k=257, seed=1))


def test_end_of_text_ends_a_sample_and_is_not_yielded(model):
    sampling = SamplingConfig(max_tokens=40, seed=5)
    whole = batch(model, PROMPT, 4, sampling)
    end = whole[1][7]
    expected = [ids[: ids.index(end)] if end in ids else ids for ids in whole]
    assert batch(model, PROMPT, 4, sampling, end_of_text=end) == expected
    assert list(generate(model, PROMPT, max_tokens=40, seed=5, end_of_text=whole[0][0])) == []


def test_ids_that_only_pad_the_vocabulary_are_never_drawn(model):
    drawn = set(generate(model, PROMPT, max_tokens=200, temperature=5.0, top_k=1000, seed=1, notify=lambda _: None))
    assert max(drawn) >= 200
    options = {"max_tokens": 200, "temperature": 5.0, "top_k": 1000, "seed": 1, "notify": lambda _: None}
    assert max(generate(model, PROMPT, vocab_size=200, **options)) < 200


def test_a_full_context_drops_the_oldest_half_and_says_so_once(model):
    """Against uncached windows: 48 positions, then the newest 24 and on to 48 again."""
    said = []
    drawn = batch(model, PROMPT, 2, SamplingConfig(max_tokens=120, seed=5), notify=said.append)
    assert len(said) == 1
    assert "oldest half" in said[0]
    assert [len(ids) for ids in drawn] == [120, 120]
    generators = sample_generators(5, 2)
    tokens = torch.tensor([PROMPT, PROMPT])
    result = [[], []]
    for _ in range(120):
        if tokens.size(1) > 48:
            tokens = tokens[:, -24:]
        new = sample(model(tokens)[:, -1], 0.8, 50, generators)
        tokens = torch.cat([tokens, new[:, None]], dim=1)
        for row, token in zip(result, new.tolist(), strict=True):
            row.append(token)
    assert drawn == result


def test_a_prompt_longer_than_the_context_keeps_its_end(model):
    said = []
    prompt = [i % 257 for i in range(100)]
    options = {"max_tokens": 5, "seed": 1, "notify": said.append}
    assert list(generate(model, prompt, **options)) == list(generate(model, prompt[-48:], **options))
    assert "the prompt has 100 tokens and the model sees 48" in said[0]


def test_a_context_of_one_works():
    model = GPT(ModelConfig(n_layer=1, n_head=1, width=8, context=1, vocab_size=10)).eval()
    assert len(list(generate(model, [1], max_tokens=5, notify=lambda _: None))) == 5


@pytest.mark.parametrize(
    ("ids", "message"),
    [([], "at least one token"), ([[1, 2]], "flat sequence"), ([257], "from 257 to 257"), ([-1, 5], "from -1 to 5")],
)
def test_bad_prompts_are_refused(model, ids, message):
    with pytest.raises(InputError, match=message):
        next(generate(model, ids))


@pytest.mark.parametrize("options", [{"temperature": -0.1}, {"top_k": 0}, {"max_tokens": 0}, {"seed": -1}])
def test_bad_settings_are_refused_by_name(model, options):
    with pytest.raises(InputError, match=next(iter(options))):
        next(generate(model, PROMPT, **options))


def test_broken_weights_are_an_error_and_no_crash(model):
    model.final_norm.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        next(generate(model, PROMPT))
