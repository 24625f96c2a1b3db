import itertools
from dataclasses import replace
from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import VARIANTS, exact, variant

from gpt import GPT, Engine, InputError, ModelConfig, Request, SamplingConfig, generate
from gpt.generation.sampling import sample, sample_generator
from gpt.generation.truncation import truncate, truncate_prompt

PROMPT = [5, 17, 200, 3]
PROMPTS = [[5, 17, 200, 3], [9], list(range(30)), [40, 41], [5, 17, 200, 3]]
SETTINGS = SamplingConfig(max_tokens=22, temperature=0.9, top_k=30, seed=5)


@pytest.fixture
def model():
    return exact("gpt2")


def uncached(model, prompt, sampling, i=0):
    """The ids of sample i by a full pass over all that is visible for every new one."""
    generator, context_length = sample_generator(sampling.seed, i), model.config.context_length
    drawn, context_ids = [], list(prompt)
    if len(context_ids) > context_length:
        context_ids = truncate_prompt(context_ids, context_length, sampling.overflow)
    for _ in range(sampling.max_tokens):
        if len(context_ids) > context_length:
            context_ids = truncate(context_ids, context_length, sampling.overflow)
        logits = model(torch.tensor([context_ids]))[:, -1]
        token = sample(logits, sampling, [generator], [torch.tensor([*prompt, *drawn])]).item()
        drawn.append(token)
        context_ids.append(token)
    return drawn


def continued(model, prompts, sampling, samples=1, **options):
    """The requests of all prompts and samples, done."""
    engine = Engine(model, **{} | options)
    requests = [engine.submit(prompt, sampling, i) for prompt in prompts for i in range(samples)]
    for _ in engine.run():
        assert len(engine.scheduler.running) <= engine.max_batch
    return requests


def ids_of(requests):
    return [request.output_ids for request in requests]


@cache
def expected_of(sampling):
    """Two samples of each prompt."""
    return [uncached(exact("gpt2"), prompt, sampling, i) for prompt in PROMPTS for i in range(2)]


@torch.no_grad()
@pytest.mark.parametrize("max_batch", [1, 3, 16])
@pytest.mark.parametrize(
    "sampling",
    [
        replace(SETTINGS, temperature=0),
        SETTINGS,
        replace(SETTINGS, top_p=0.8, repetition_penalty=1.4),
        replace(SETTINGS, min_p=0.1, overflow="keep-prefix"),
    ],
)
def test_what_is_drawn_is_that_of_full_passes(model, max_batch, sampling):
    """Prompts of different lengths, among them equal ones, through caches and beyond the context."""
    assert ids_of(continued(model, PROMPTS, sampling, samples=2, max_batch=max_batch)) == expected_of(sampling)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_draws_the_ids_of_full_passes(name):
    model = exact(name)
    expected = [uncached(model, prompt, SETTINGS) for prompt in PROMPTS]
    assert ids_of(continued(model, PROMPTS, SETTINGS, max_batch=3)) == expected


@pytest.mark.usefixtures("several_threads")
def test_a_sample_is_the_same_in_any_order_and_company(model):
    whole = ids_of(continued(model, PROMPTS, SETTINGS, samples=3))
    assert len({tuple(ids) for ids in whole}) == 12  # the last prompt is the first one again
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 31):
        parts = ids_of(continued(model, [PROMPTS[j] for j in order], SETTINGS, samples=3, max_batch=4))
        for place, j in enumerate(order):
            assert parts[3 * place : 3 * place + 3] == whole[3 * j : 3 * j + 3]


def test_requests_of_different_settings_go_together(model):
    kinds = [SETTINGS, replace(SETTINGS, temperature=0, max_tokens=7), replace(SETTINGS, top_k=3, seed=8)]
    engine = Engine(model)
    requests = [engine.submit(PROMPT, kind) for kind in kinds]
    list(engine.run())
    for request, kind in zip(requests, kinds, strict=True):
        assert request.output_ids == ids_of(continued(model, [PROMPT], kind))[0]
        assert request.finish_reason == "length"


def test_a_request_can_come_and_go_while_others_run(model):
    alone = ids_of(continued(model, PROMPTS, SETTINGS))
    engine = Engine(model, max_batch=2)
    first, second, third = (engine.submit(prompt, SETTINGS) for prompt in PROMPTS[:3])
    for _ in range(10):
        engine.step()
    assert (engine.scheduler.running, list(engine.scheduler.waiting)) == ([first, second], [third])
    engine.finish(second, "cancelled")
    assert second.finish_reason == "cancelled"
    assert second not in engine.runner.caches
    before = list(second.output_ids)
    fourth = engine.submit(PROMPTS[3], SETTINGS)
    engine.finish(fourth, "cancelled")
    fifth = engine.submit(PROMPTS[4], SETTINGS)
    tokens = list(engine.run())
    assert second.output_ids == before == alone[1][: len(before)]
    assert [first.output_ids, third.output_ids, fourth.output_ids, fifth.output_ids] == [
        alone[0],
        alone[2],
        [],
        alone[4],
    ]
    assert not any(token.request in (second, fourth) for token in tokens)
    engine.finish(first, "cancelled")
    assert first.finish_reason == "length"
    assert engine.step() == []


def test_memory_is_given_back(model):
    """No cache outlives its request, and none is larger than its request can need."""
    engine = Engine(model)
    requests = [engine.submit(PROMPT, replace(SETTINGS, max_tokens=n)) for n in (3, 10)]
    for _ in range(3):
        engine.step()
    assert [engine.runner.caches[request].block.capacity for request in requests] == [4 + 2, 4 + 9]
    list(engine.run())
    assert engine.runner.caches == {}
    assert engine.runner._newest is None


@pytest.mark.parametrize("trainable", [True, False])  # if not, what a step makes are inference tensors
def test_memory_of_prompts_read_together_is_given_back_as_they_end(model, trainable):
    """And the others go on as if nothing was."""
    model.requires_grad_(trainable)
    sampling = replace(SETTINGS, max_tokens=30)
    prompts = [[5, 17, 200, i] for i in range(8)]
    alone = ids_of(continued(model, prompts, sampling))
    engine = Engine(model)
    requests = [engine.submit(prompt, sampling) for prompt in prompts]
    for _ in range(5):
        engine.step()
    sizes = []
    for request in requests[1:7]:
        engine.finish(request, "cancelled")
        sizes.append({engine.runner.caches[request].block.sequences for request in engine.scheduler.running})
        engine.step()
    assert sizes == [{8}, {8}, {8}, {4}, {4}, {2}]
    list(engine.run())
    assert ids_of([requests[0], requests[7]]) == [alone[0], alone[7]]
    assert engine.runner.blocks == {}


def test_a_step_that_fails_leaves_nothing_half_done(model, monkeypatch):
    engine = Engine(model)
    requests = [engine.submit(prompt, SETTINGS) for prompt in PROMPTS]
    engine.step()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GPT, "forward", mock.Mock(side_effect=KeyboardInterrupt))
        engine.step()
    assert engine.scheduler.running == []
    assert [request.finish_reason for request in requests] == ["cancelled", "cancelled", "", "", ""]
    assert engine.runner.blocks == {}
    list(engine.run())
    assert requests[2].output_ids == ids_of(continued(model, PROMPTS[2:3], SETTINGS))[0]


def test_what_is_cancelled_while_others_are_looked_at_does_not_come(model):
    engine = Engine(model)
    requests = [engine.submit([1, 2, i], SETTINGS) for i in range(3)]
    seen = []
    for token in engine.run():
        seen.append(token.request)
        engine.finish(requests[2], "cancelled")
    assert requests[2] not in seen


def test_equal_prompts_are_read_once(model, monkeypatch):
    read, forward = [], GPT.forward
    monkeypatch.setattr(
        GPT, "forward", lambda self, ids, *rest, **more: read.append(ids.shape) or forward(self, ids, *rest, **more)
    )
    continued(model, [PROMPT], replace(SETTINGS, max_tokens=2), samples=5)
    assert [tuple(shape) for shape in read] == [(1, 4), (5, 1)]


def test_each_token_comes_with_its_logprob(model):
    engine = Engine(model)
    request = engine.submit(PROMPT, replace(SETTINGS, top_k=3), top_logprobs=4)
    ids = list(PROMPT)
    for token in engine.run():
        expected = model(torch.tensor([ids]))[0, -1].double().log_softmax(-1)
        assert token.logprob == pytest.approx(expected[token.id].item(), abs=1e-4)
        values, best = expected.topk(4)
        assert [id for id, _ in token.top_logprobs] == best.tolist()
        assert [value for _, value in token.top_logprobs] == pytest.approx(values.tolist(), abs=1e-4)
        ids.append(token.id)
    assert ids == PROMPT + request.output_ids


def test_generate_yields_ids_as_it_goes(model):
    options = {"max_tokens": 12, "temperature": 0.8, "top_k": 50, "seed": 5, "top_p": 0.9, "repetition_penalty": 1.1}
    ids = generate(model, PROMPT, **options)
    first = next(ids)
    assert isinstance(first, int)
    assert [[first, *ids]] == ids_of(continued(model, [PROMPT], SamplingConfig(**options)))


def test_a_seed_repeats_and_no_seed_does_not(model):
    def ids(seed=None):
        return list(generate(model, PROMPT, max_tokens=40, seed=seed))

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)
    assert ids() != ids()


def test_top_k_above_the_vocabulary_means_all(model):
    above, all_of_them = (list(generate(model, PROMPT, max_tokens=40, top_k=k, seed=1)) for k in (10**6, 257))
    assert above == all_of_them


def test_end_of_text_ends_a_sample_and_is_not_yielded(model):
    whole = ids_of(continued(model, [PROMPT], SETTINGS, samples=4))
    end = whole[1][7]
    expected = [ids[: ids.index(end)] if end in ids else ids for ids in whole]
    requests = continued(model, [PROMPT], SETTINGS, samples=4, end_of_text=end)
    assert ids_of(requests) == expected
    assert [request.finish_reason for request in requests] == ["stop" if end in ids else "length" for ids in whole]
    assert list(generate(model, PROMPT, **options_of(SETTINGS), end_of_text=whole[0][0])) == []


def options_of(sampling):
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "seed": sampling.seed,
    }


def test_ids_that_only_pad_the_vocabulary_are_never_drawn(model):
    options = {
        "max_tokens": 60,
        "temperature": 5.0,
        "top_k": 1000,
        "seed": 1,
    }
    assert max(generate(model, PROMPT, **options)) >= 200
    assert max(generate(model, PROMPT, vocab_size=200, **options)) < 200


@pytest.mark.parametrize(("overflow", "done"), [("slide", "oldest half"), ("keep-prefix", "first quarter stays")])
def test_a_full_context_is_dealt_with_as_asked_and_said_once(model, overflow, done, said):
    requests = continued(model, [PROMPT, PROMPT[:2]], replace(SETTINGS, max_tokens=120, overflow=overflow))
    assert [len(request.output_ids) for request in requests] == [120, 120]
    assert len(said) == 1
    assert "the context of 48 tokens is full" in said[0]
    assert done in said[0]


def test_overflow_can_be_refused_beforehand(model):
    fits = replace(SETTINGS, max_tokens=45, overflow="error")
    assert len(ids_of(continued(model, [PROMPT], fits))[0]) == 45
    with pytest.raises(InputError, match="`overflow` error: a prompt of 4 tokens and 46 new ones need 49 positions"):
        Engine(model).submit(PROMPT, replace(fits, max_tokens=46))


def test_a_prompt_longer_than_the_context_keeps_its_end(model, said):
    prompt = [i % 257 for i in range(100)]
    options = {
        "max_tokens": 5,
        "seed": 1,
    }
    assert list(generate(model, prompt, **options)) == list(generate(model, prompt[-48:], **options))
    assert said[0] == "the prompt has 100 tokens and the model sees 48: its last 48 are read"
    both_ends = prompt[:12] + prompt[-36:]
    kept = list(generate(model, prompt, overflow="keep-prefix", **options))
    assert any("its first 12 and its last 36 are read" in message for message in said)
    assert kept == list(generate(model, both_ends, overflow="keep-prefix", **options))


def test_a_context_of_one_works():
    model = GPT(ModelConfig(n_layer=1, n_head=1, n_embd=8, context_length=1, vocab_size=10)).eval()
    for overflow in ("slide", "keep-prefix"):
        assert len(list(generate(model, [1], max_tokens=5, overflow=overflow))) == 5


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "at least one token"),
        ([[1, 2]], "flat sequence"),
        ([257], "from 257 to 257"),
        ([-1, 5], "from -1 to 5"),
        ("def ", "the prompt is text, and the engine reads token ids: encode it, by tokenizer.encode"),
        (b"def ", "the prompt is text"),
        (["def"], "must be a flat sequence of token ids"),
        (None, "must be a flat sequence of token ids"),
        ([1.5], "at least one token id; it is of the shape .* and of float32"),
    ],
)
def test_bad_prompts_are_refused(model, ids, message):
    with pytest.raises(InputError, match=message):
        next(generate(model, ids))


def test_ids_may_be_of_any_type_of_whole_numbers(model):
    plain = [*generate(model, [1, 2], max_tokens=3, seed=1)]
    for ids in (torch.tensor([1, 2], dtype=torch.uint8), np.array([1, 2], dtype=np.uint16)):
        assert [*generate(model, ids, max_tokens=3, seed=1)] == plain


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"top_k": 0},
        {"max_tokens": 0},
        {"seed": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"overflow": "forget"},
    ],
)
def test_bad_settings_are_refused_by_name(model, options):
    with pytest.raises(InputError, match=next(iter(options))):
        next(generate(model, PROMPT, **options))


def test_an_engine_needs_room_for_one(model):
    with pytest.raises(InputError, match="max_batch is 0; it must be at least 1"):
        Engine(model, max_batch=0)


def test_broken_weights_are_an_error_and_no_crash(model):
    model.final_norm.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        next(generate(model, PROMPT))


def test_waiting_requests_are_small_and_leave_the_queue_without_a_look_at_the_others(monkeypatch):
    compared = 0

    def equal(self, other):
        nonlocal compared
        compared += 1
        return self is other

    monkeypatch.setattr(Request, "__eq__", equal)
    engine = Engine(variant("gpt2"), max_batch=2)
    requests = [engine.submit([1, 2], SamplingConfig(max_tokens=3, seed=1)) for _ in range(1000)]
    engine.step()
    assert not any("generator" in vars(request) for request in requests[2:])  # the largest part of them
    for request in reversed(requests):
        engine.finish(request, "cancelled")
    assert not engine.scheduler.waiting and not engine.scheduler.running
    assert compared < 5000  # a few each, and not as many as wait


def test_long_prompts_and_tokens_take_turns():
    """No sequence waits for all the prompts that there is place for."""
    model = variant("gpt2")
    engine = Engine(model, max_batch=8)
    first = engine.submit([1] * 10, SamplingConfig(max_tokens=30, seed=1))
    engine.step()
    for i in range(7):
        engine.submit(list(range(40 + i)), SamplingConfig(max_tokens=30, seed=i))
    engine.scheduler.prompt_tokens, waited = 100, []
    while engine.scheduler.waiting:
        before = len(first.output_ids)
        engine.step()
        waited.append(len(first.output_ids) == before)
    assert waited.count(True) == 7
    assert "".join("p" if wait else "t" for wait in waited).find("pppp") == -1


def test_requests_and_tokens_are_shown_in_a_line(model):
    engine = Engine(model)
    request = engine.submit(PROMPT, SETTINGS)
    assert repr(request) == "Request(4 prompt ids, 0 new ones, waiting)"
    (token,) = engine.step()
    assert repr(request) == "Request(4 prompt ids, 1 new ones, running)"
    assert repr(token) == f"Token(id={token.id}, logprob=None, top_logprobs=())"
    engine.finish(request, "stop")
    engine.finish(request, "cancelled")
    assert repr(request) == "Request(4 prompt ids, 1 new ones, stop)"
