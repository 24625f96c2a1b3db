"""What is drawn with guesses is what is drawn without, to the last bit, however often they are right."""

import copy
import itertools
import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import SHAPE, variant

from gpt import GPT, Engine, SamplingConfig, Tokenizer
from gpt.generation.completion import TextEngine
from gpt.generation.lookups import LONGEST, MOST, Corpus, TextLookup
from gpt.generation.scheduler import Request
from gpt.generation.speculation import REMEMBERED, Speculation
from gpt.model.batch_invariant import BatchInvariant
from gpt.model.prepack import can_prepack, prepack

needs_packing = pytest.mark.skipif(
    not can_prepack(GPT(SHAPE)) or "fbgemm" not in torch.backends.quantized.supported_engines,
    reason="needs oneDNN, and FBGEMM for rounded weights",
)
PROMPTS = [[5, 17, 200, 3] * 3, [9], list(range(30)), [40, 41], [5, 17, 200, 3], [1, 2] * 10]
SETTINGS = [
    SamplingConfig(temperature=0),
    SamplingConfig(temperature=0.3, seed=1),
    SamplingConfig(temperature=1.5, top_k=3, seed=2),
    SamplingConfig(top_p=0.5, min_p=0.1, repetition_penalty=1.3, seed=3),
    SamplingConfig(temperature=0, repetition_penalty=1.2, overflow="keep-prefix"),
]


def packed(name, dtype=torch.float32):
    model = copy.deepcopy(variant(name))
    prepack(model, dtype)
    return model.requires_grad_(False)


class Steady:
    """A clock by which guesses are found at once, and each step takes as long as any other, so that all are worth a
    try. It is asked before they are looked for, then, and after they were read."""

    def __init__(self):
        self.asked = 0

    def __call__(self):
        self.asked += 1
        return float(self.asked // 3)


class Knows:
    """Guesses by texts that are known, and is wrong at each `wrong`-th id of them."""

    def __init__(self, texts, wrong=0):
        self.texts, self.wrong = texts, wrong

    def __call__(self, ids):
        for text in self.texts:
            if text[: len(ids)] == ids:
                following = range(len(ids), min(len(text), len(ids) + MOST))
                return [(text[i] + (self.wrong > 0 and i % self.wrong == 0)) % 257 for i in following], LONGEST
        return [], 0


def drawn(engine, sampling, prompts=PROMPTS, cancelled=()):
    """All that is told of each request's tokens; some are cancelled after a few."""
    requests = [engine.submit(prompt, sampling, i, top_logprobs=2) for i, prompt in enumerate(prompts)]
    found = defaultdict(list)
    for token in engine.run():
        found[token.request].append((token.id, token.logprob, token.top_logprobs))
        if requests.index(token.request) in cancelled and len(found[token.request]) == 4:
            engine.finish(token.request, "cancelled")
    return [(found[request], request.output_ids, request.finish_reason) for request in requests]


def engine_with(model, batch, guesser=TextLookup):
    engine = Engine(model, batch, end_of_text=11)
    engine.runner.speculation = Speculation(None, guesser, Steady())
    return engine


# ---- the same text ----


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("name", ["gpt2", "modern"])
def test_texts_are_the_same_whether_guesses_are_right_never_always_or_in_part(name, dtype):
    """Beyond the context, in batches of any size, with an end-of-text, and some cancelled midway."""
    model, shares = packed(name, dtype), set()
    for number, (settings, batch) in enumerate(zip(SETTINGS, (1, 2, 3, 8, 16), strict=True)):
        sampling = replace(settings, max_tokens=24)
        cancelled = {1, 3} if number % 2 else set()
        expected = drawn(Engine(model, batch, end_of_text=11, speculative=False), sampling, cancelled=cancelled)
        texts = [prompt + ids for prompt, (_, ids, _) in zip(PROMPTS, expected, strict=True)]
        for wrong in (0, 1, 3):
            engine = engine_with(model, batch, lambda texts=texts, wrong=wrong: Knows(texts, wrong))
            assert drawn(engine, sampling, cancelled=cancelled) == expected
            speculation = engine.runner.speculation
            assert speculation.guessed > 0
            shares.add("never" if not speculation.right else "partly" if wrong else "always")
            assert speculation.guessers == speculation.texts == engine.runner.caches == engine.runner.blocks == {}
        engine = engine_with(model, batch)
        assert drawn(engine, sampling, cancelled=cancelled) == expected
    assert shares == {"never", "partly", "always"}


@needs_packing
def test_guesses_that_are_right_spare_steps():
    model, sampling = packed("gpt2"), SamplingConfig(max_tokens=33, temperature=0)
    [(_, ids, _)] = drawn(Engine(model, 1, speculative=False), sampling, [[9]])
    engine = engine_with(model, 1, lambda: Knows([[9, *ids]]))
    reads = []
    forward = type(model).forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "forward", lambda *args, **named: reads.append(1) or forward(*args, **named))
        drawn(engine, sampling, [[9]])
    assert len(reads) <= 11  # the prompt, and what is read before guesses are trusted


@needs_packing
def test_memory_that_moves_takes_along_what_was_read_ahead():
    """When the second of two that were prefilled together ends, the first still has guesses that were read."""
    model, prompts = packed("gpt2"), [[9, 8], [7, 6]]
    sampling = SamplingConfig(max_tokens=24, seed=4)
    expected = drawn(Engine(model, 2, speculative=False), sampling, prompts)
    texts = [prompt + ids for prompt, (_, ids, _) in zip(prompts, expected, strict=True)]
    engine = engine_with(model, 2, lambda: Knows(texts))
    requests = [engine.submit(prompt, sampling, i) for i, prompt in enumerate(prompts)]
    while not engine.runner.caches.get(requests[0]) or engine.runner.caches[requests[0]].ahead < 2:
        engine.step()
    block = engine.runner.caches[requests[0]].block
    engine.finish(requests[1], "cancelled")
    assert engine.runner.caches[requests[0]].block is not block
    list(engine.run())
    assert requests[0].output_ids == expected[0][1]


@needs_packing
def test_a_stop_text_ends_a_text_at_the_same_token():
    tokenizer = Tokenizer.utf8_bytes()
    model = packed("gpt2")
    sampling = SamplingConfig(max_tokens=40, seed=1, temperature=1.0)

    def complete(engine, stops):
        *_, (_, _, result) = engine.complete(["ab"], sampling, stops=stops, top_logprobs=0)
        return result.text, result.ids, result.finish_reason, [token.logprob for token in result.tokens]

    text, ids, *_ = complete(TextEngine(model, tokenizer, 1, speculative=False), ())
    stops = [text[10:12]]
    expected = complete(TextEngine(model, tokenizer, 1, speculative=False), stops)
    assert expected[2] == "stop"
    engine = TextEngine(model, tokenizer, 1)
    engine.runner.speculation = Speculation(None, lambda: Knows([tokenizer.encode("ab") + ids]), Steady())
    assert complete(engine, stops) == expected
    assert engine.runner.speculation.right > 0


def test_where_bits_are_not_kept_nothing_is_guessed(monkeypatch):
    def guesses(model, tokens=100, **options):
        engine = Engine(model, **options)
        engine.submit([1], SamplingConfig(max_tokens=tokens))
        return engine.runner.speculation is not None

    assert not guesses(variant("gpt2"))  # it was not prepacked
    if can_prepack(variant("gpt2")):
        model = packed("gpt2")
        assert guesses(model)
        assert not guesses(model, tokens=10)
        assert not guesses(model, speculative=False)
        monkeypatch.setattr(BatchInvariant, "keeps_bits", False)
        assert not guesses(model)


@needs_packing
def test_a_corpus_makes_guesses_too_and_is_begun_when_it_pays():
    """Sorted in a thread; the text that is drawn stands in it."""
    model, sampling = packed("gpt2"), SamplingConfig(max_tokens=40, seed=6)
    [(_, ids, _)] = expected = drawn(Engine(model, 1, speculative=False), sampling, [[9, 8]])
    corpus = Corpus(lambda: np.array([3, 9, 8, *ids]), patience=5.0)
    engine = Engine(model, 1, speculative=False)
    engine.runner.speculation = Speculation(corpus, clock=Steady())
    counts = []
    for _ in range(3):
        assert drawn(engine, sampling, [[9, 8]]) == expected
        counts.append(engine.runner.speculation.right)
        if corpus.thread:
            corpus.thread.join()
    assert counts[1] > counts[0]
    assert Corpus(lambda: np.array([], dtype=np.int64))([1, 2]) == ([], 0)


# ---- how many are worth it ----


def speculation(seconds, right, tokens=400, requests=1):
    """Go on with a text that always repeats itself, whose guesses are right with a chance; steps of N rows take
    `seconds(N)`. Give the number of guesses at each step."""
    numbers, made = random.Random(1), Speculation(None, lambda: lambda _: ([0] * MOST, LONGEST))
    some = [Request([1], SamplingConfig(), 0) for _ in range(requests)]
    counts, drawn_tokens = [], 0
    while drawn_tokens < tokens:
        guesses = made.guesses(some, [MOST] * requests)
        counts.append(sum(map(len, guesses)))
        made.took(requests + counts[-1], seconds(requests + counts[-1]), counts[-1], 0.0)
        for request, ids in zip(some, guesses, strict=True):
            for _ in ids:
                drawn_tokens += 1
                hit = numbers.random() < right
                made.judged(request, hit)
                if not hit:
                    break
            drawn_tokens += 1
    return counts


def test_guesses_grow_in_number_while_they_are_right_and_rows_cost_little():
    assert speculation(lambda rows: 1 + 0.02 * rows, 1.0)[-5:] == [15] * 5
    assert max(speculation(lambda rows: 1 + 0.02 * rows, 0.5)[20:]) <= 7
    assert set(speculation(lambda rows: rows, 0.5)[-20:]) == {0}  # each row takes as long as a step


def test_guesses_that_are_never_right_cost_at_most_a_fiftieth():
    for row in (0.02, 0.05, 0.1, 0.3):
        counts = speculation(lambda rows, row=row: 1 + row * rows, 0.0, tokens=3000)
        more = sum(count * row for count in counts) / (len(counts) * (1 + row))
        assert more < 0.02
        assert any(counts[-1000:])  # they are tried again, now and then


def test_looking_for_guesses_that_are_never_right_costs_at_most_a_fiftieth():
    """Even where it takes half as long as a step, such as of a small model; when they are right, it pays at once."""
    looked = []

    def guesser():
        return lambda _: looked.append(1) or ([0] * MOST, LONGEST)

    made, request, counts = Speculation(None, guesser), Request([1], SamplingConfig(), 0), []
    for right in (False, True):
        looked.clear()
        for _ in range(2000):
            before = len(looked)
            [ids] = made.guesses([request], [MOST])
            made.took(1 + len(ids), 1 + 0.01 * len(ids), len(ids), 0.5 * (len(looked) - before))
            for _ in ids if right else ids[:1]:
                made.judged(request, right)
        counts.append(len(looked))
    assert 10 < counts[0] < 0.02 / 0.5 * 2000
    assert counts[1] > 1500


def test_what_is_looked_up_of_a_long_prompt_is_its_newest_part_and_is_not_copied_at_each_step():
    request, texts = Request(list(range(50_000)), SamplingConfig(), 0), []
    made = Speculation(None, lambda: lambda text: texts.append(text) or ([], 0), lambda: 0.0)
    for id in range(8):
        made.guesses([request], [MOST])
        made.took(1, 1.0, 0, 0.0)
        request.output_ids.append(id)
    request.output_ids += [8, 9]
    made.guesses([request], [MOST])
    assert len(texts) == 5  # the times of some steps without guesses come first
    assert texts[-1] == [*range(50_000 - REMEMBERED, 50_000), *range(10)]
    assert all(text is texts[0] for text in texts)
    assert request.prompt == list(range(50_000))
    made.forget(request)
    assert not made.texts


@needs_packing
def test_a_text_that_outgrows_the_context_is_not_gone_through_again():
    """What is known of it serves until its request ends, though its positions are read again."""
    made = []

    def guesser():
        made.append(TextLookup())
        return made[-1]

    engine = engine_with(packed("gpt2"), 1, guesser)
    [(_, ids, _)] = drawn(engine, SamplingConfig(max_tokens=120, temperature=0), [[9]])
    assert len(ids) > SHAPE.context_length
    assert len(made) == 1
    assert engine.runner.speculation.texts == {}


def test_several_requests_share_the_rows_of_a_step():
    for requests, tokens in itertools.product((2, 3, 8), (300,)):
        counts = speculation(lambda rows: 1 + 0.01 * rows, 0.9, tokens, requests)
        assert {count + requests for count in counts if count} <= {4, 8, 16}
        assert counts[-1] + requests == 16
    assert not any(speculation(lambda rows: 1 + 0.01 * rows, 0.9, 300, requests=9))
