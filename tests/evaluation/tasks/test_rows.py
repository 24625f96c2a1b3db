"""Prompts, held against what lm-evaluation-harness's formulas give by hand; test_harness_tasks.py asks it itself."""

import pytest

from gpt.evaluation.tasks.rows import KINDS, OWN

HELLASWAG = {
    "activity_label": "Roof shingle removal",
    "ctx_a": "A man is sitting on a roof. [header] He",
    "ctx_b": "he Then [title] stands  up",
    "endings": [" climbs [step] down.", "eats.", "sings.", "is  gone. "],
    "label": "2",
}
ARC = {
    "question": "Which is hot?",
    "choices": {"text": ["ice", "fire"], "label": ["1", "2"]},
    "answerKey": "2",
}
PIQA = {"goal": "dry a cup", "sol1": "with a towel", "sol2": "with water", "label": 1}


def read(name, **fields):
    return KINDS[name].read(fields)


def test_hellaswag_is_cleaned_and_its_second_context_capitalized():
    row = read("hellaswag", **HELLASWAG)
    assert row.context == "Roof shingle removal: A man is sitting on a roof. He He then. stands up"
    assert row.endings == (" climbs down.", " eats.", " sings.", " is gone.")
    assert (row.label, row.choices[2]) == (2, "sings.")


def test_a_double_space_is_made_single_once():
    """The harness replaces pairs in one sweep: of three spaces two are left."""
    row = read("hellaswag", **HELLASWAG | {"ctx_a": "a   b"})
    assert "a  b" in row.context


def test_lambada_predicts_what_follows_the_last_space():
    row = read("lambada", text='He said,\n"Well  done," and  left')
    assert (row.context, row.endings) == ('He said,\n"Well  done," and ', (" left",))
    assert read("lambada", text="word").endings == (" word",)
    assert read("lambada", text="word").context == ""


@pytest.mark.parametrize(
    "fields",
    [
        ARC,
        {
            "question": {
                "stem": "Which is hot?",
                "choices": [{"text": "ice", "label": "1"}, {"text": "fire", "label": "2"}],
            },
            "answerKey": "2",
        },
    ],
)
def test_arc_is_read_in_both_of_its_forms(fields):
    row = read("arc-easy", **fields)
    assert (row.context, row.endings, row.label) == ("Question: Which is hot?\nAnswer:", (" ice", " fire"), 1)


def test_piqa_asks_like_arc():
    row = read("piqa", **PIQA)
    expected = ("Question: dry a cup\nAnswer:", (" with a towel", " with water"), 1)
    assert (row.context, row.endings, row.label) == expected


def test_blimp_scores_whole_sentences_after_a_space():
    row = read("blimp", sentence_good="Cats sleep.", sentence_bad="Cats sleeps.", UID="agreement")
    assert (row.context, row.endings, row.label, row.group) == ("", (" Cats sleep.", " Cats sleeps."), 0, "agreement")


@pytest.mark.parametrize(
    ("fields", "endings"),
    [
        ({"context": "2+2=", "choices": ["4", "5"], "label": 0}, (" 4", " 5")),
        ({"context": "2+2= ", "choices": ["4", "5"], "label": 0}, ("4", "5")),
        ({"context": "2+2=", "choices": [" 4", " 5"], "label": 0}, (" 4", " 5")),
        ({"context": "2+2=", "choices": ["4", "5"], "label": 0, "delimiter": ""}, ("4", "5")),
        ({"context": "2+2=", "continuation": "4"}, ("4",)),
    ],
)
def test_own_rows_get_a_space_unless_one_is_there(fields, endings):
    assert OWN.read(fields).endings == endings


@pytest.mark.parametrize(
    ("name", "fields", "complaint"),
    [
        ("hellaswag", {}, "no field 'activity_label'; its own are: none"),
        ("hellaswag", HELLASWAG | {"label": ""}, "no 'label'; those of test splits are mostly secret"),
        ("hellaswag", HELLASWAG | {"label": 4}, "'label' is 4; it must be a number from 0 to 3"),
        ("hellaswag", HELLASWAG | {"label": True}, "'label' is True"),
        ("hellaswag", HELLASWAG | {"endings": ["a"]}, "at least two texts"),
        ("hellaswag", HELLASWAG | {"ctx_b": None}, "'ctx_b' is no text"),
        ("lambada", {"text": "ends with a space "}, "ends without a word"),
        ("arc-easy", ARC | {"answerKey": "C"}, "'answerKey' 'C' is not among the labels"),
        ("arc-easy", ARC | {"choices": ["a"]}, "no 'choices' with their"),
        ("arc-easy", ARC | {"question": 3}, "no field 'question'"),
        ("piqa", {**PIQA, "sol1": ""}, "none of them empty"),
        ("piqa", {name: PIQA[name] for name in ("goal", "sol1", "sol2")}, "no 'label'"),
        ("blimp", {"sentence_good": "a", "sentence_bad": "b"}, "no field 'UID'"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(name, fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        KINDS[name].read(fields)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"context": "a"}, "either 'choices' and 'label', or a 'continuation'"),
        ({"context": "a", "choices": ["b", "c"], "continuation": "b"}, "either"),
        ({"context": "a", "continuation": ""}, "'continuation' is empty"),
        ({"context": "a", "choices": ["b", ""], "label": 0}, "none of them empty"),
        ({"choices": ["b", "c"], "label": 0}, "no field 'context'; its own are: choices, label"),
    ],
)
def test_what_is_wrong_with_a_row_of_ones_own_is_said(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        OWN.read(fields)
