from dataclasses import replace

import pytest
import torch
from helpers import SHAPE, exact, needs_compiler

from gpt import GPT, Engine, InputError, SamplingConfig
from gpt.generation.runner import CompiledRunner
from gpt.model import cache

PROMPTS = [[5, 17, 200, 3], [9], list(range(30)), [40, 41], [5, 17, 200, 3]]


def engines(name):
    """One that decodes through caches, and one through slots; fewer places than requests."""
    return [Engine(exact(name), max_batch=3, compiled=compiled) for compiled in (False, True)]


def submit_all(engine):
    sampling = SamplingConfig(max_tokens=60, seed=5)
    return [engine.submit(prompt, sampling, i) for i, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("name", ["gpt2", "modern"])
def test_slots_draw_the_ids_of_caches_and_are_given_back(name, monkeypatch):
    """Without the compiler, which must not change what is computed; beyond the context."""
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    drawn = []
    for engine in engines(name):
        requests = submit_all(engine)
        for _ in range(20):
            engine.step()
        engine.finish(requests[1], "cancelled")
        list(engine.run())
        drawn.append([request.output_ids for request in requests])
    assert drawn[0] == drawn[1]
    assert isinstance(engine.runner, CompiledRunner)
    assert sorted(engine.runner.free) == [0, 1, 2]
    assert engine.runner.slot_of == {}


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", ["gpt2", "modern"])
def test_the_compiled_program_draws_the_ids_of_caches(name):
    drawn = []
    for engine in engines(name):
        requests = submit_all(engine)
        list(engine.run())
        drawn.append([request.output_ids for request in requests])
    assert drawn[0] == drawn[1]
    assert engine.runner.step.graphs == 1  # the context is shorter than the shortest bucket
    assert not engine.runner.step.recompilations


def test_each_length_of_each_of_many_engines_is_compiled_once(dynamo, monkeypatch):
    """By Dynamo, which keeps eight programs of one code at the most, and runs the others uncompiled."""
    monkeypatch.setattr(cache, "SMALLEST_BUCKET", 8)
    model = GPT(replace(SHAPE, n_layer=1, context_length=32)).eval()
    for _ in range(3):
        engine = Engine(model, max_batch=3, compiled=True)
        submit_all(engine)
        list(engine.run())
        assert engine.runner.step.graphs == 3  # 8, 16 and the context's 32
        assert not engine.runner.step.recompilations


def test_an_engine_without_a_compiler_is_an_error_before_anything_is_drawn(no_compiler):
    with pytest.raises(InputError, match="torch.compile does not work here .*; or leave `compile` out"):
        engines("gpt2")


def test_a_compiler_that_fails_midway_is_a_sentence(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    _, engine = engines("gpt2")
    monkeypatch.setattr(torch, "compile", lambda model, **_: raises(RuntimeError("it broke")))
    _, engine = engines("gpt2")
    submit_all(engine)
    with pytest.raises(InputError, match="torch.compile does not work here .*it broke"):
        list(engine.run())
    assert engine.scheduler.running == []


def raises(error):
    def call(*_):
        raise error

    return call
