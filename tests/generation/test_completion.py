import sys
from functools import partial
from itertools import islice

import pytest
import torch
from helpers import variant

from gpt import InputError, SamplingConfig, TextEngine, Tokenizer
from gpt.generation.completion import StopStrings, opening_ids


@pytest.fixture
def tokenizer():
    return Tokenizer.utf8_bytes()


class ScriptedEngine(TextEngine):
    """Draws fixed ids, one list for each request in turn; one that is shorter than max_tokens ends by end-of-text."""

    def __init__(self, tokenizer, *scripts):
        super().__init__(variant("gpt2"), tokenizer)
        self.scripts = {}
        self.left = list(scripts)
        self.sample = self.draw_next

    def submit(self, *arguments):
        request = super().submit(*arguments)
        self.scripts[request.generator] = iter([*self.left.pop(0), self.tokenizer.end_of_text])
        return request

    def draw_next(self, logits, sampling, generators, seen):
        return torch.tensor([next(self.scripts[generator]) for generator in generators])


@pytest.fixture
def scripted(tokenizer):
    """The results of fixed ids of one prompt's samples, held against what was yielded in pieces."""

    def run(scripts, max_tokens, stops=()):
        engine, samples = ScriptedEngine(tokenizer, *scripts), len(scripts)
        printed, results = [""] * samples, {}
        sampling = SamplingConfig(max_tokens=max_tokens, seed=1)
        for i, text, result in engine.complete(["x"], sampling, samples, stops):
            printed[i] += text
            results[i] = result
        assert printed == [results[i].text for i in range(samples)]
        assert engine.scheduler.is_idle
        assert engine.streams == engine.runner.caches == {}
        return [results[i] for i in range(samples)]

    return run


def test_an_empty_prompt_begins_a_document_or_with_the_first_id():
    text = Tokenizer.char("ab\n", end_of_text=False)
    assert opening_ids(text, "") == text.encode("\n")
    assert opening_ids(Tokenizer.char("ab", end_of_text=False), "") == [0]


def test_text_ids_and_reason_of_a_sample_that_reaches_its_length(scripted):
    (result,) = scripted([b"hello"], 5)
    assert (result.text, result.ids, result.finish_reason) == ("hello", list(b"hello"), "length")
    assert result.tokens_per_second > 0


def test_end_of_text_is_a_stop(scripted):
    long, short = scripted([b"hello", b"hi"], 5)
    assert (long.text, long.finish_reason) == ("hello", "length")
    assert (short.text, short.finish_reason, short.ids) == ("hi", "stop", list(b"hi"))
    assert scripted([b"hell"], 5)[0].finish_reason == "stop"


@pytest.mark.parametrize("stops", [("END",), ("nothing", "END"), ("END", "ENDING")])
def test_a_stop_text_ends_the_sample_and_no_part_of_it_is_shown(scripted, stops):
    (result,) = scripted([b"one EN two END three"], 50, stops)
    assert (result.text, result.finish_reason) == ("one EN two ", "stop")
    assert bytes(result.ids) == b"one EN two END"


def test_the_request_owns_the_reason_and_a_stop_text_is_one(scripted, tokenizer):
    """Also where the token that completes it is the last one, or where an unfinished character does."""
    for script, max_tokens, stop, text in (
        (b"one END", 50, "END", "one "),
        (b"one END", 7, "END", "one "),
        ("é".encode()[:1], 1, "\ufffd", ""),
        ("é".encode()[:1], 9, "\ufffd", ""),
    ):
        (result,) = scripted([script], max_tokens, (stop,))
        assert (result.text, result.request.finish_reason) == (text, "stop")
        assert result.ids == result.request.output_ids == list(script)
    engine = ScriptedEngine(tokenizer, b"abcdef")
    events = engine.complete(["x"], SamplingConfig(max_tokens=6))
    _, _, result = next(events)
    events.close()
    assert result.finish_reason == "cancelled"


def test_samples_come_one_after_the_other_and_each_as_soon_as_it_can(tokenizer):
    engine = ScriptedEngine(tokenizer, b"abcdef", b"x", b"ABC")
    events = engine.complete(["p"], SamplingConfig(max_tokens=6), samples=3)
    assert [(i, text, result.finish_reason) for i, text, result in events] == [
        *((0, letter, "") for letter in "abcde"),
        (0, "f", "length"),
        (1, "x", "stop"),  # it ended long before
        (2, "ABC", "stop"),
    ]


def test_without_a_seed_each_prompt_gets_one_that_repeats_it(model, tokenizer):
    first, second, other, _ = everything(model, tokenizer, ["ab", "ab"], SamplingConfig(max_tokens=9), samples=2)
    assert first.request.seed == second.request.seed != other.request.seed
    assert (first.request.sample, second.request.sample) == (0, 1)
    seed = second.request.seed
    again = everything(model, tokenizer, ["ab"], SamplingConfig(max_tokens=9, seed=seed), samples=2)
    assert [result.ids for result in again] == [first.ids, second.ids]


def test_a_stop_text_stops_one_sample_of_several(scripted):
    first, second = scripted([b"ab.cdef", b"abcd.ef"], 7, (".",))
    assert (first.text, second.text) == ("ab", "abcd")


def test_the_beginning_of_a_stop_text_is_shown_if_nothing_follows(scripted):
    (result,) = scripted([b"one EN"], 6, ("END",))
    assert (result.text, result.finish_reason) == ("one EN", "length")


def test_characters_are_whole_and_an_unfinished_one_is_marked(scripted, tokenizer):
    (result,) = scripted(["é🙂".encode()[:-1]], 5)
    assert result.text == "é\ufffd"
    assert result.text == tokenizer.decode(result.ids)


@pytest.mark.parametrize(
    ("pieces", "stops", "shown"),
    [
        (["a", "b", "c"], ["abd"], ["", "", "abc"]),
        (["aab"], ["ab"], ["a"]),
        (["aa", "ab"], ["aab"], ["", "a"]),
        (["xab"], ["ab", "x"], [""]),
        (["a\n", "\n"], ["\n\n"], ["a", ""]),
    ],
)
def test_stop_strings_hold_back_what_could_become_a_stop_text(pieces, stops, shown):
    strings = StopStrings(stops)
    assert [strings.push(piece)[0] for piece in pieces] == shown


def test_an_empty_stop_text_is_refused():
    with pytest.raises(InputError, match="at least one character"):
        StopStrings(["a", ""])


def test_an_empty_prompt_begins_a_document(tokenizer):
    assert opening_ids(tokenizer, "") == [256]
    assert opening_ids(tokenizer, "ab") == [97, 98]
    assert opening_ids(Tokenizer.char("a\n", end_of_text=False), "") == [0]


def everything(model, tokenizer, prompts, sampling, **options):
    """The finished continuations in order."""
    engine = TextEngine(model, tokenizer)
    results = {}
    for number, _, result in engine.complete(prompts, sampling, **options):
        results[number] = result
    assert engine.scheduler.is_idle and not engine.streams
    return [results[number] for number in range(len(results))]


def test_with_a_real_model_the_text_is_the_decoded_ids(model, tokenizer):
    first, second = everything(model, tokenizer, ["ab"], SamplingConfig(max_tokens=30, seed=3), samples=2)
    for result in (first, second):
        assert result.text == tokenizer.decode(result.ids)
        assert result.prompt == "ab"
    assert len(first.ids) == 30
    assert first.ids != second.ids


def test_prompts_are_numbered_and_their_texts_are_those_of_each_alone(model, tokenizer):
    prompts, sampling = ["ab", "", "a longer one", "ab"], SamplingConfig(max_tokens=20, seed=3)
    together = everything(model, tokenizer, prompts, sampling, samples=2)
    assert [result.prompt for result in together] == [prompt for prompt in prompts for _ in range(2)]
    for j, prompt in enumerate(prompts):
        alone = everything(model, tokenizer, [prompt], sampling, samples=2)
        assert [result.ids for result in alone] == [result.ids for result in together[2 * j : 2 * j + 2]]


def test_tokens_and_prompt_are_scored_on_request(model, tokenizer):
    sampling = SamplingConfig(max_tokens=9, seed=3)
    (plain,) = everything(model, tokenizer, ["abc"], sampling)
    assert plain.tokens == plain.prompt_tokens == []
    (scored,) = everything(model, tokenizer, ["abc"], sampling, top_logprobs=3, echo=True)
    assert scored.ids == plain.ids == [token.id for token in scored.tokens]
    assert "".join(token.text for token in scored.prompt_tokens) == "abc"
    logarithms = model(torch.tensor([[*b"abc", *scored.ids]]))[0].double().log_softmax(-1)
    for t, token in enumerate([*scored.prompt_tokens, *scored.tokens]):
        if t == 0:
            assert token.logprob is None
            continue
        assert token.logprob == pytest.approx(logarithms[t - 1, token.id].item(), abs=1e-4)
        assert [other.id for other in token.top_logprobs] == logarithms[t - 1].topk(3).indices.tolist()


def test_whoever_stops_listening_leaves_nothing_behind(model, tokenizer):
    engine = TextEngine(model, tokenizer)
    events = engine.complete(["a", "b"], SamplingConfig(max_tokens=50), samples=3)
    for _ in range(10):
        next(events)
    assert engine.scheduler.running
    events.close()
    assert engine.scheduler.is_idle and not engine.streams


def test_callers_can_share_an_engine_and_one_may_cancel(tokenizer):
    model, sampling = variant("gpt2"), SamplingConfig(max_tokens=12, seed=3)
    alone = [list(TextEngine(model, tokenizer).complete([text], sampling)) for text in ("a", "bc")]
    engine = TextEngine(model, tokenizer)
    first, second, third = (engine.complete([text], sampling) for text in ("a", "bc", "d"))
    begun = [next(first), next(second)]
    next(third)
    engine.finish(engine.scheduler.running[2], "cancelled")
    rest = [list(first), list(second)]
    for i in range(2):
        assert (begun[i][2].text, begun[i][2].ids) == (alone[i][-1][2].text, alone[i][-1][2].ids)
        assert "".join([begun[i][1], *(text for _, text, _ in rest[i])]) == alone[i][-1][2].text
    assert list(third)[-1][2].finish_reason == "cancelled"


HOSTILE = ["", " " * 60, "\0\x1b[2J\r", "\ud800\udfff", "<|endoftext|>" * 9, "a" * 5000, "\u202e\u0301é中😀", "\n\n"]


@pytest.mark.parametrize("overflow", ["slide", "keep-prefix"])
def test_any_prompt_is_continued(tokenizer, overflow):
    sampling = SamplingConfig(max_tokens=60, seed=3, overflow=overflow)
    results = everything(variant("gpt2"), tokenizer, HOSTILE, sampling, top_logprobs=2, echo=True)
    assert len(results) == len(HOSTILE)
    for result in results:
        assert result.finish_reason in ("stop", "length")
        assert 256 not in result.ids


MODULES = tuple(f"gpt.generation.{name}" for name in ("completion", "engine", "scheduler"))


def lines_executed(work, *modules):
    """How many lines of these modules were executed: work, as the machine's load cannot change it."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if frame.f_globals.get("__name__") not in modules:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_work_and_prompts_taken_depend_on_what_is_under_way_and_not_on_what_waits(tokenizer):
    model, sampling = variant("gpt2"), SamplingConfig(max_tokens=5, seed=3)

    def first_events(prompts):
        taken = 0

        def counted():
            nonlocal taken
            for prompt in prompts:
                taken += 1
                yield prompt

        engine = TextEngine(model, tokenizer, max_batch=4)
        events, numbers = engine.complete(counted(), sampling, samples=2), []
        for number, _, result in islice(events, 60):
            numbers += [number] if result.finish_reason else []
            assert len(engine.scheduler.waiting) <= 5
            assert 2 * taken <= len(numbers) + 2 * engine.max_batch + 2
        events.close()
        return numbers

    counts = []
    for prompts in (40, 10_000):
        texts = ["ab"] * prompts
        counts.append(lines_executed(partial(first_events, texts), *MODULES))
    assert counts[0] == counts[1]


def test_a_prompt_that_cannot_be_used_is_named_and_those_before_it_are_finished(tokenizer):
    model, sampling = variant("gpt2"), SamplingConfig(max_tokens=3, seed=3, overflow="error")
    engine = TextEngine(model, tokenizer, max_batch=2)
    finished = []
    with pytest.raises(InputError, match="prompt 10: `overflow` error"):
        for number, _, result in engine.complete(["a"] * 9 + ["a" * 99, "b"], sampling, samples=2):
            finished += [number] if result.finish_reason else []
    assert sorted(finished) == list(range(18))
    assert engine.scheduler.is_idle and not engine.streams
    with pytest.raises(InputError, match="^(?!prompt)"):
        list(engine.complete(["a" * 99], sampling))


def test_where_a_text_stops_does_not_depend_on_the_pieces_it_comes_in(rng):
    """The stop text that is complete first ends it, as it would one character at a time."""
    for _ in range(2000):
        stops = ["".join(rng.choice("ab") for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
        text = "".join(rng.choice("ab") for _ in range(8))
        shown = []
        for size in (1, 2, 3, 8):
            strings, through = StopStrings(stops), ""
            for start in range(0, 8, size):
                part, stopped = strings.push(text[start : start + size])
                through += part
                if stopped:
                    break
            shown.append((through, stopped))
        assert len(set(shown)) == 1, (stops, text, shown)
