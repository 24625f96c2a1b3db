import json
import math

import pytest

from gpt import Request, SamplingConfig
from gpt.apps.render import Totals, bits, heading, print_json, print_score_json, print_scores, print_text
from gpt.generation.completion import Completion
from gpt.generation.score import TokenScore, TopLogprob

SCORES = [
    TokenScore(1, "a\n", None),
    TokenScore(2, "b", -math.log(2), [TopLogprob(2, "b", -math.log(2)), TopLogprob(3, "é", -math.log(4))]),
    TokenScore(3, "[red]", 0.0),
]


def completion(number, text="", finish_reason="", **scores):
    request = Request([1], SamplingConfig(), seed=7, sample=number % 2, output_ids=[2], finish_reason=finish_reason)
    return Completion(f"prompt {number // 2}", request, text, **scores)


def events(*steps):
    """(number, text, finished) as events, each sample with one continuation that grows."""
    results = {}
    for number, text, finished in steps:
        result = results.setdefault(number, completion(number))
        result.text += text
        result.request.finish_reason = "stop" if finished else ""
        yield number, text, result


ORDERED = [(0, "a", 0), (0, "b", 0), (0, "c", 1), (1, "xy", 1), (2, "p", 1), (3, "q", 0), (3, "r", 1)]


@pytest.mark.parametrize(
    ("number", "prompts", "samples", "expected"),
    [
        (0, 1, 1, ""),
        (0, 1, 2, ""),
        (1, 1, 2, "--- sample 2 of 2 ---\n"),
        (0, 3, 1, "--- prompt 1 of 3 ---\n"),
        (5, 3, 2, "--- prompt 3 of 3, sample 2 of 2 ---\n"),
    ],
)
def test_headings_tell_samples_apart(number, prompts, samples, expected):
    assert heading(number, prompts, samples) == expected


def test_texts_are_printed_one_after_the_other(capsys):
    print_text(events(*ORDERED), prompts=2, samples=2, echo=False)
    assert capsys.readouterr().out == (
        "--- prompt 1 of 2, sample 1 of 2 ---\nabc\n--- prompt 1 of 2, sample 2 of 2 ---\nxy\n"
        "--- prompt 2 of 2, sample 1 of 2 ---\np\n--- prompt 2 of 2, sample 2 of 2 ---\nqr\n"
    )
    print_text(events((0, "a", 1)), prompts=1, samples=1, echo=True)
    assert capsys.readouterr().out == "prompt 0a\n"


def test_it_is_said_of_a_sample_that_shows_nothing_what_it_is(capsys, said):
    print_text(events((0, " \n\u2003", 1), (1, "", 1), (2, " a ", 1)), prompts=1, samples=3, echo=False)
    assert said == [r"it has only white space: ' \n\u2003'", "it has no text: the model ended at once"]
    assert capsys.readouterr().out.startswith(" \n\u2003\n--- sample 2 of 3 ---\n\n")


def test_json_has_what_was_asked_for_and_what_draws_it_again(capsys):
    print_json(events(*ORDERED), "runs/x, step 3", scored=False, echo=False)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["abc", "xy", "p", "qr"]
    drawn = [(line["run"], line["seed"], line["sample"]) for line in lines]
    assert drawn == [("runs/x, step 3", 7, i % 2) for i in range(4)]
    keys = {"run", "prompt", "seed", "sample", "text", "ids", "finish_reason", "tokens_per_second"}
    assert set(lines[0]) == keys
    result = completion(0, "t", "stop", tokens=SCORES, prompt_tokens=SCORES[:1])
    print_json([(0, "t", result)], "x", scored=True, echo=True)
    line = json.loads(capsys.readouterr().out)
    assert set(line) == keys | {"prompt_tokens", "tokens"}
    assert line["prompt_tokens"] == [{"id": 1, "text": "a\n", "logprob": None, "top_logprobs": []}]
    assert line["tokens"][1]["top_logprobs"][1] == {"id": 3, "text": "é", "logprob": -math.log(4)}


def test_scores_are_a_line_for_each_token(capsys):
    print_scores(SCORES, unit=bits)
    assert capsys.readouterr().out.splitlines() == [
        "       -  'a\\n'",
        "   1.000  'b'  'b' 1.000  'é' 2.000",
        "   0.000  '[red]'",
    ]


def test_totals_are_sums_over_what_was_scored():
    totals = Totals(len(b"a\nb[red]"))
    assert list(totals.count(SCORES)) == SCORES
    found = totals.figures()
    assert found["tokens"] == 2
    assert found["bits"] == pytest.approx(1.0)
    assert found["bits_per_byte"] == pytest.approx(1 / 6)
    assert found["perplexity"] == pytest.approx(math.sqrt(2))
    assert totals.lines()[0] == "2 tokens, 6 bytes, 1.00 bits"
    assert Totals(2).figures()["perplexity"] == 1.0


def test_scores_are_one_object_of_json_printed_as_they_come(capsys):
    for scores in (SCORES, []):
        totals = Totals(8)
        print_score_json(iter(scores), totals, 'a "run"')
        found = json.loads(capsys.readouterr().out)
        assert found.pop("run") == 'a "run"'
        assert [score["text"] for score in found.pop("scores")] == [score.text for score in scores]
        assert found == totals.figures()

    def watched():
        yield SCORES[0]
        assert capsys.readouterr().out.endswith('"top_logprobs": []}')
        yield SCORES[1]

    print_score_json(watched(), Totals(8), "a run")
