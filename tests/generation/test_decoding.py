import pytest
import torch
from helpers import exact

from gpt import Engine, SamplingConfig
from gpt.generation.decoding import CompiledDecoder

PROMPTS = [[5, 17, 200, 3], [9], list(range(30)), [40, 41], [5, 17, 200, 3]]


def engines(name):
    """One that decodes through caches, and one through slots; fewer places than requests."""
    return [Engine(exact(name), max_batch=3, compiled=compiled, notify=lambda _: None) for compiled in (False, True)]


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
        engine.cancel(requests[1])
        list(engine.run())
        drawn.append([request.drawn for request in requests])
    assert drawn[0] == drawn[1]
    assert isinstance(engine.decoder, CompiledDecoder)
    assert sorted(engine.decoder.free) == [0, 1, 2]
    assert engine.decoder.place == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "modern"])
def test_the_compiled_program_draws_the_ids_of_caches(name):
    drawn = []
    for engine in engines(name):
        requests = submit_all(engine)
        list(engine.run())
        drawn.append([request.drawn for request in requests])
    assert drawn[0] == drawn[1]
