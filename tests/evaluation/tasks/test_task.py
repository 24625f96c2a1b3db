import json
import random

import pytest

from gpt import InputError
from gpt.evaluation.tasks.rows import KINDS, OWN
from gpt.evaluation.tasks.task import read_task, with_shots


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def asked(tmp_path):
    """A task of eight questions."""
    rows = [{"goal": f"goal {i}", "sol1": f"do {i}", "sol2": f"leave {i}", "label": i % 2} for i in range(8)]
    return read_task(KINDS["piqa"], written(tmp_path / "asked.jsonl", rows))


def test_examples_are_drawn_by_one_generator_from_the_other_rows(asked):
    found, generator = with_shots(asked, 2, seed=7), random.Random(7)
    for number, row in enumerate(found.rows):
        drawn = [i for i in generator.sample(range(8), 3) if i != number][:2]
        examples = "".join(f"Question: goal {i}\nAnswer: {('do', 'leave')[i % 2]} {i}\n\n" for i in drawn)
        assert row.context == f"{examples}Question: goal {number}\nAnswer:"
    assert found.protocol == "lm-eval piqa 1.0, 2-shot (seed 7, from its other rows)"
    assert with_shots(asked, 2, seed=8).rows != found.rows


def test_a_row_is_never_its_own_example_even_if_it_stands_there_twice(tmp_path):
    rows = [{"context": name, "choices": ["yes", "no"], "label": 0} for name in "aaab"]
    task = read_task(OWN, written(tmp_path / "twice.jsonl", rows))
    assert {row.context for row in with_shots(task, 1).rows[:3]} == {"b yes\n\na"}
    with pytest.raises(InputError, match="`shots` is 2; .*twice.jsonl has 1 other rows"):
        with_shots(task, 2)


def test_examples_of_another_file_are_drawn_as_the_harness_does(asked, tmp_path):
    """Where a task has no test split it draws one more, and leaves that out."""
    rows = [{"goal": f"train {i}", "sol1": "x", "sol2": "y", "label": 0} for i in range(30)]
    pool = read_task(KINDS["piqa"], written(tmp_path / "train.jsonl", rows))
    found, generator = with_shots(asked, 3, 1, pool), random.Random(1)
    for row in found.rows:
        drawn = generator.sample(range(30), 4)[:3]
        assert row.context.startswith("".join(f"Question: train {i}\nAnswer: x\n\n" for i in drawn))
    assert f"from {tmp_path / 'train.jsonl'}, SHA-256 {pool.files[0][1]}" in found.protocol
    own, other = (
        read_task(
            OWN, written(tmp_path / "own.jsonl", [{"context": f"{name}{i}", "continuation": "z"} for i in range(9)])
        )
        for name in "ab"
    )
    generator = random.Random(1)
    for row in with_shots(own, 3, 1, other).rows:
        assert row.context.startswith("".join(f"b{i}z\n\n" for i in generator.sample(range(9), 3)))


def test_the_words_of_lambadas_examples_have_two_spaces_before_them_as_in_the_harness(tmp_path):
    task = read_task(KINDS["lambada"], written(tmp_path / "a.jsonl", [{"text": "one two"}, {"text": "three four"}]))
    assert with_shots(task, 1).rows[0].context == "three  four\n\none"


@pytest.mark.parametrize(
    ("shots", "complaint"),
    [(0, "it must be at least 1"), (8, "`shots` is 8; .*asked.jsonl has 8 rows to draw from")],
)
def test_examples_that_cannot_be_drawn_are_refused(asked, shots, complaint):
    with pytest.raises(InputError, match=complaint):
        with_shots(asked, shots)


def test_whole_sentences_have_no_examples(tmp_path):
    rows = [{"sentence_good": "a", "sentence_bad": "b", "UID": "c"}] * 3
    task = read_task(KINDS["blimp"], written(tmp_path / "a.jsonl", rows))
    with pytest.raises(InputError, match="there are no examples before them"):
        with_shots(task, 1)


def test_a_bad_row_is_named_by_file_and_line(tmp_path):
    path = written(tmp_path / "a.jsonl", [{"text": "a b"}, {"txt": "a b"}])
    with pytest.raises(InputError, match="a.jsonl, line 2: is not a row of lambada: it has no field 'text'"):
        read_task(KINDS["lambada"], path)
    rows = [{"context": "a", "continuation": "b"}, {"context": "a", "choices": ["b", "c"], "label": 0}]
    with pytest.raises(InputError, match="line 2: rows with choices and rows with a continuation need a file each"):
        read_task(OWN, written(tmp_path / "b.jsonl", rows))
    with pytest.raises(InputError, match="has no row"):
        read_task(OWN, written(tmp_path / "c.jsonl", []))
