import re
from dataclasses import replace
from unittest import mock

import pytest

from gpt import InputError
from gpt.commands.train import _beginning
from gpt.training import summary as report_module


@pytest.fixture
def at_its_end(finished, make_training, tiny_config):
    """A finished training in a run of that name."""

    def make(name):
        finished(tiny_config, name)
        return make_training(tiny_config, name, resume=True)

    return make


@pytest.mark.parametrize("name", ["a$^$b", "price$5_$", "[red]loss[/]", "50 % of\nit"])
def test_a_run_of_any_name_ends_with_its_table_and_picture(at_its_end, capsys, name):
    training = at_its_end(name)
    training.report(draws=True)
    output = capsys.readouterr().out
    assert "best checkpoint" in output
    assert "could not be drawn" not in output
    assert (training.run / "loss.png").is_file()


@pytest.mark.parametrize("error", [ValueError("no such font"), OSError(28, "No space left on device"), KeyError("x")])
def test_a_picture_that_cannot_be_drawn_is_said_in_its_row(at_its_end, capsys, monkeypatch, error):
    def draw(_):
        raise error

    monkeypatch.setattr(report_module, "draw_losses", draw)
    at_its_end("run").report(draws=True)
    output = capsys.readouterr().out
    assert f"could not be drawn ({type(error).__name__}: " in output
    assert "best checkpoint" in output


@pytest.mark.parametrize("picture", ["elsewhere/loss.png", "could not be drawn (OSError: full)"])
def test_what_was_drawn_beside_the_training_is_not_drawn_again(at_its_end, capsys, monkeypatch, picture):
    def draw(_):
        raise AssertionError("drawn again")

    monkeypatch.setattr(report_module, "draw_losses", draw)
    monkeypatch.setattr(report_module.beside, "drawn", lambda: picture)
    training = at_its_end("run")
    (training.run / "baselines.json").unlink(missing_ok=True)
    training.report(draws=True)
    output = capsys.readouterr().out
    assert re.search(rf"^picture +{re.escape(picture)} *$", output, re.MULTILINE)
    assert "without a network" not in output  # where none could be measured beside


@pytest.mark.parametrize("error", [InputError("holds no usable checkpoint"), OSError(5, "Input/output error")])
def test_a_checkpoint_that_cannot_be_read_at_the_end_costs_the_sample_alone(
    at_its_end, capsys, monkeypatch, error, said
):
    def load(*_):
        raise error

    monkeypatch.setattr(report_module, "load_run", load)
    at_its_end("run").report()
    output = capsys.readouterr().out
    assert said == [str(error)]
    assert "trained" in output
    assert "(no sample: the best checkpoint could not be loaded" in output


@pytest.mark.parametrize("error", [InputError("a shard is gone"), OSError(5, "Input/output error"), MemoryError()])
def test_a_text_that_cannot_be_searched_at_the_end_costs_one_row(at_its_end, capsys, monkeypatch, error):
    monkeypatch.setattr(report_module, "find_copies", mock.Mock(side_effect=error))
    at_its_end("run").report()
    output = capsys.readouterr().out
    assert f"not known: the training text could not be searched ({error or 'out of memory'})" in output
    assert "best checkpoint" in output


def test_samples_that_stand_in_the_training_text_are_told_with_the_longest_stretch(at_its_end, capsys, monkeypatch):
    training, honest = at_its_end("run"), report_module.find_copies
    learned = training.dataset.train.read(0, 150)
    monkeypatch.setattr(report_module, "find_copies", lambda texts, *given: honest([learned, *texts[1:]], *given))
    training.report()
    output = capsys.readouterr().out
    assert re.search(r"1 of 6 samples hold 100\+ characters of it; the longest stretch .* has 1\d\d characters", output)


def test_records_that_cannot_be_read_at_the_end_cost_one_figure(at_its_end, capsys):
    training = at_its_end("run")
    training.state.last_validation_loss += 1
    lines = (training.run / "metrics.jsonl").read_text().splitlines()
    (training.run / "metrics.jsonl").write_text("\n".join([lines[0], "{", *lines[1:]]))
    training.report(draws=True)
    output = capsys.readouterr().out
    assert re.search(r"overfitted +yes: validation ended at [\d.]+; the best", output)
    assert "could not be drawn (InputError" in output


def test_ctrl_c_in_the_report_says_that_all_is_saved(at_its_end, monkeypatch):
    training = at_its_end("run")
    monkeypatch.setattr(report_module, "find_copies", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match="run is finished and saved"):
        training.report()


def test_a_complete_split_that_would_take_longer_than_the_training_is_left_out_and_said(
    make_training, tiny_config, capsys
):
    config = replace(tiny_config, steps=2, batch_tokens=64, evaluation=replace(tiny_config.evaluation, tokens=320))
    training = make_training(config)
    assert training.fit()
    assert training.state.complete_evaluation is None
    training.report()
    tokens = training.dataset.validation.tokens
    assert f"left out: its {tokens:,} tokens would take longer than the training; gpt eval" in capsys.readouterr().out


def first_line(training):
    return _beginning(training.run, training.trainer, training.state)


def test_the_first_line_says_what_memory_chose(make_training, tiny_config, monkeypatch):
    assert "at a time" not in first_line(make_training(tiny_config))
    monkeypatch.setattr("gpt.training.micro_batch.fitting_micro_batch", lambda *_: 2)
    said = first_line(make_training(replace(tiny_config, micro_batch_size="auto"), "chosen"))
    assert said.endswith("from step 0 to 30, 2 sequences at a time, chosen by `micro_batch_size` auto")
