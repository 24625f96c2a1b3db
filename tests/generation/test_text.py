import pytest

from gpt import InputError, SamplingConfig, Tokenizer
from gpt.generation import text as text_module
from gpt.generation.text import StopWatcher, continue_text, opening_ids


@pytest.fixture
def tokenizer():
    return Tokenizer.utf8_bytes()


@pytest.fixture
def scripted(monkeypatch):
    """Replaces the engine by fixed samples: lists of ids, ended early where a list is shorter than the longest."""

    def script(*samples):
        def engine(model, ids, count, sampling, end_of_text, vocab_size, notify):
            longest = max(map(len, samples))
            for t in range(longest):
                yield [ids[t] if t < len(ids) else None for ids in samples]

        monkeypatch.setattr(text_module, "generate_batch", engine)

    return script


def test_an_empty_prompt_begins_a_document_or_with_the_first_id():
    text = Tokenizer.char("ab\n", end_of_text=False)
    assert opening_ids(text, "") == text.encode("\n")
    assert opening_ids(Tokenizer.char("ab", end_of_text=False), "") == [0]


def run(tokenizer, samples, max_tokens, stops=()):
    printed, results = [""] * samples, {}
    for i, text, result in continue_text(None, tokenizer, "x", SamplingConfig(max_tokens=max_tokens), samples, stops):
        printed[i] += text
        results[i] = result
    assert printed == [results[i].text for i in range(samples)]
    return [results[i] for i in range(samples)]


def test_text_ids_and_reason_of_a_sample_that_reaches_its_length(tokenizer, scripted):
    scripted(list(b"hello"))
    (result,) = run(tokenizer, 1, 5)
    assert (result.text, result.ids, result.finish_reason) == ("hello", list(b"hello"), "length")
    assert result.tokens_per_second > 0


def test_end_of_text_is_a_stop(tokenizer, scripted):
    scripted(list(b"hello"), list(b"hi"))
    long, short = run(tokenizer, 2, 5)
    assert (long.text, long.finish_reason) == ("hello", "length")
    assert (short.text, short.finish_reason, short.ids) == ("hi", "stop", list(b"hi"))
    scripted(list(b"hell"))
    assert run(tokenizer, 1, 5)[0].finish_reason == "stop"


@pytest.mark.parametrize("stops", [("END",), ("nothing", "END"), ("END", "ENDING")])
def test_a_stop_text_ends_the_sample_and_no_part_of_it_is_shown(tokenizer, scripted, stops):
    scripted(list(b"one EN two END three"))
    (result,) = run(tokenizer, 1, 50, stops)
    assert (result.text, result.finish_reason) == ("one EN two ", "stop")
    assert bytes(result.ids) == b"one EN two END"


def test_a_stop_text_stops_one_sample_of_several(tokenizer, scripted):
    scripted(list(b"ab.cdef"), list(b"abcd.ef"))
    first, second = run(tokenizer, 2, 7, (".",))
    assert (first.text, second.text) == ("ab", "abcd")


def test_the_beginning_of_a_stop_text_is_shown_if_nothing_follows(tokenizer, scripted):
    scripted(list(b"one EN"))
    (result,) = run(tokenizer, 1, 6, ("END",))
    assert (result.text, result.finish_reason) == ("one EN", "length")


def test_characters_are_whole_and_an_unfinished_one_is_marked(tokenizer, scripted):
    scripted(list("é🙂".encode())[:-1])
    (result,) = run(tokenizer, 1, 5)
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
def test_the_watcher_holds_back_what_could_become_a_stop_text(pieces, stops, shown):
    watcher = StopWatcher(stops)
    assert [watcher.push(piece)[0] for piece in pieces] == shown


def test_an_empty_stop_text_is_refused():
    with pytest.raises(InputError, match="at least one character"):
        StopWatcher(["a", ""])


def test_an_empty_prompt_begins_a_document(tokenizer):
    assert opening_ids(tokenizer, "") == [256]
    assert opening_ids(tokenizer, "ab") == [97, 98]
    assert opening_ids(Tokenizer.char("a\n", end_of_text=False), "") == [0]


def test_with_a_real_model_the_text_is_the_decoded_ids(model, tokenizer):
    for _, _, result in continue_text(model, tokenizer, "ab", SamplingConfig(max_tokens=30, seed=3), samples=2):
        last = result
    assert last.text == tokenizer.decode(last.ids)
    assert len(last.ids) == 30
