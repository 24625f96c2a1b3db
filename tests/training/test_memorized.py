"""What a fine-tuning says at its end of what it has learned."""

import re
from dataclasses import replace
from unittest import mock

import pytest
from helpers import run_gpt

from gpt import InputError
from gpt.evaluation.memorization import Evidence, Memorization
from gpt.evaluation.passages import MOST, Passages
from gpt.runs.load import load_run
from gpt.training import memorized
from gpt.training.memorized import SECONDS, SHARE, memorized_rows, passages_in_time
from gpt.training.state import TrainState


@pytest.fixture(scope="module")
def tuned(undisturbed, tiny_shape):
    """A finished run that began with the weights of another."""
    return undisturbed(replace(tiny_shape, init_from=str(undisturbed(tiny_shape).run), steps=6, seed=2))


def test_a_fine_tuning_ends_with_the_sentence_of_gpt_memorized(tuned, capsys, monkeypatch):
    monkeypatch.setattr(memorized, "passages_in_time", lambda *_: MOST)  # however busy the machine is
    capsys.readouterr()
    tuned.report()
    output = capsys.readouterr().out
    row = re.search(r"^memorized +(.*)$", output, re.MULTILINE)[1].rstrip()
    told = run_gpt(tuned.run.parent, "memorized", "--run", tuned.run, "--samples", 0)
    first = told.splitlines()[1]
    assert first.startswith(row)  # and there the last checkpoint is compared with the best
    assert re.search(r"^ +gained -?0\.\d{3} on training and -?0\.\d{3} on validation text", output, re.MULTILINE)
    assert f"more: gpt memorized --run {tuned.run}" in output
    assert "learned by heart" in output


def test_a_training_from_scratch_says_nothing_of_it(finished, make_training, tiny_config, capsys):
    finished(tiny_config, "run")
    make_training(tiny_config, "run", resume=True).report()
    output = capsys.readouterr().out
    assert "learned by heart" in output
    assert not re.search(r"^memorized ", output, re.MULTILINE)


def rows(tuned, state=None):
    return memorized_rows(tuned.run, tuned.config, state or tuned.state, load_run(tuned.run), tuned.validation.dataset)


@pytest.mark.parametrize("error", [InputError("it is gone"), OSError(5, "Input/output error"), MemoryError()])
def test_what_cannot_be_told_is_said_in_its_row(tuned, monkeypatch, error):
    monkeypatch.setattr(memorized, "beginning", mock.Mock(side_effect=error))
    more = f"gpt memorized --run {tuned.run}"
    assert rows(tuned) == [("memorized", f"not known ({error or 'out of memory'}); {more}")]


def test_other_errors_are_none_of_its_business(tuned, monkeypatch):
    monkeypatch.setattr(memorized, "beginning", mock.Mock(side_effect=KeyError("x")))
    with pytest.raises(KeyError):
        rows(tuned)


def test_it_takes_a_small_part_of_the_time(tuned, tiny_config, monkeypatch):
    config = replace(tiny_config, batch_tokens=3200)
    slow, slower = (TrainState(step=100, elapsed_s=seconds) for seconds in (2400.0, 240_000.0))
    # 320,000 tokens in 2,400 s, forward alone three times as fast: 400 a second. 5 % of the time are 120 s.
    assert passages_in_time(slow, config, 100) == 120 * 400 // 400
    assert passages_in_time(TrainState(step=100, elapsed_s=1.0), config, 100) == MOST
    assert passages_in_time(slower, config, 100) == 120  # of a training that is longer, no more are read
    assert (SECONDS, SHARE) == (5.0, 0.05)
    for length, least in ((100, 16), (20, 80)):
        assert passages_in_time(TrainState(step=1, elapsed_s=100.0), tiny_config, length) == least
    asked, honest = [], Passages.__init__
    monkeypatch.setattr(Passages, "__init__", lambda *given: asked.append(given[5]) or honest(*given))
    tokens_per_s = tuned.config.batch_tokens * 100
    rows(
        tuned, TrainState(step=100, elapsed_s=3 * tokens_per_s / (4 * 100 * 20) * 5)
    )  # 2,000 tokens of each split in time
    assert asked == [2000 // (tiny_config.model.context_length + 1)]


def test_few_passages_of_a_text_that_has_more_are_not_said_to_be_too_little_text(tuned, monkeypatch):
    monkeypatch.setattr(memorized, "passages_in_time", lambda *_: 1)
    more = f"gpt memorized --run {tuned.run}"
    assert rows(tuned) == [
        ("memorized", f"not known by 1 and 1 passages, as many as a short look takes; {more} reads up to 1,000")
    ]


def test_validation_text_that_is_no_new_text_is_said_also_by_few_passages(tuned, monkeypatch):
    monkeypatch.setattr(memorized, "passages_in_time", lambda *_: 1)
    alike = Evidence(on_training=True, on_new=True, own=None, verbatim=False, overfitted=False, alike=True)
    monkeypatch.setattr(Memorization, "evidence", alike)
    assert "that is no new text. Take what is like the training text out of validation" in rows(tuned)[0][1]
