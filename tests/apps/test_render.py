import json
import math

import pytest

from gpt.apps.render import bits, heading, in_order, print_json, print_scores, print_text, score_lines, totals
from gpt.generation.completion import Completion
from gpt.generation.score import TokenScore, TopLogprob

SCORES = [
    TokenScore(1, "a\n", None),
    TokenScore(2, "b", -math.log(2), [TopLogprob(2, "b", -math.log(2)), TopLogprob(3, "é", -math.log(4))]),
    TokenScore(3, "[red]", 0.0),
]


def events(*steps):
    """(number, text, finished) as events, each sample with one continuation that grows."""
    results = {}
    for number, text, finished in steps:
        result = results.setdefault(number, Completion(f"prompt {number // 2}"))
        result.text += text
        result.finish_reason = "stop" if finished else ""
        yield number, text, result


MIXED = [(0, "a", 0), (1, "x", 0), (1, "y", 1), (0, "b", 0), (2, "p", 1), (0, "c", 1), (3, "q", 0), (3, "r", 1)]


def test_events_come_in_order_and_as_soon_as_they_can():
    seen = [(number, text) for number, text, _ in in_order(events(*MIXED))]
    assert seen == [(0, "a"), (0, "b"), (0, "c"), (1, "xy"), (2, "p"), (3, "q"), (3, "r")]


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
    print_text(events(*MIXED), prompts=2, samples=2, echo=False)
    assert capsys.readouterr().out == (
        "--- prompt 1 of 2, sample 1 of 2 ---\nabc\n--- prompt 1 of 2, sample 2 of 2 ---\nxy\n"
        "--- prompt 2 of 2, sample 1 of 2 ---\np\n--- prompt 2 of 2, sample 2 of 2 ---\nqr\n"
    )
    print_text(events((0, "a", 1)), prompts=1, samples=1, echo=True)
    assert capsys.readouterr().out == "prompt 0a\n"


def test_json_has_what_was_asked_for(capsys):
    print_json(events(*MIXED), scored=False, echo=False)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["abc", "xy", "p", "qr"]
    assert set(lines[0]) == {"prompt", "text", "ids", "finish_reason", "tokens_per_second"}
    result = Completion("p", "t", finish_reason="stop", tokens=SCORES, prompt_tokens=SCORES[:1])
    print_json([(0, "t", result)], scored=True, echo=True)
    line = json.loads(capsys.readouterr().out)
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
    found = totals(SCORES, "a\nb[red]")
    assert found["tokens"] == 2
    assert found["bits"] == pytest.approx(1.0)
    assert found["bits_per_byte"] == pytest.approx(1 / 6)
    assert found["perplexity"] == pytest.approx(math.sqrt(2))
    assert score_lines(SCORES, "a\nb[red]")[0] == "2 tokens, 6 bytes, 1.00 bits"
    assert totals(SCORES[:1], "a\n")["perplexity"] == 1.0
