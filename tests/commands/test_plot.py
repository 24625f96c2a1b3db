"""`gpt plot`, as a person calls it."""

import json
from dataclasses import replace

import pytest
from helpers import run_gpt

from gpt.commands import plot as module
from gpt.tracking.jsonl import read_metrics


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, in place of a picture."""
    calls = []
    monkeypatch.setattr(module, "draw_curves", lambda curves, labels, to: calls.append((curves, labels, to)))
    return calls


@pytest.fixture
def runs(finished, tiny_config, tmp_path):
    (tmp_path / "runs").mkdir()
    return [finished(tiny_config, "runs/one"), finished(replace(tiny_config, seed=1), "runs/two")]


def test_runs_are_drawn_by_name_and_as_text(runs, tmp_path):
    output = run_gpt(tmp_path, "plot", "one", "two")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "validation loss (nats per token)" in output
    assert output.splitlines()[-2:] == ["a  runs/one", "b  runs/two"]


def test_points_are_those_that_were_recorded(runs, tmp_path, drawn):
    run_gpt(tmp_path, "plot", *runs, "--to", tmp_path / "all.svg")
    (curves, labels, to) = drawn[0]
    for curve, run in zip(curves, runs, strict=True):
        evaluated = [record for record in read_metrics(run) if "val_loss" in record]
        assert curve.x == [record["step"] for record in evaluated]
        assert curve.y == [record["val_loss"] for record in evaluated]
        assert curve.half_widths == [record["val_loss_ci95"] for record in evaluated]
    assert (labels[0], to) == ("step", tmp_path / "all.svg")


@pytest.mark.parametrize("axis", ["step", "tokens", "time", "epoch"])
def test_what_it_is_drawn_over(runs, tmp_path, drawn, axis):
    run_gpt(tmp_path, "plot", runs[0], "--x", axis, "--metric", "train_loss")
    last = read_metrics(runs[0])[-1]
    expected = {"step": 30, "tokens": 30 * 192, "time": last["elapsed_s"], "epoch": last["epoch"]}
    assert drawn[0][0][0].x[-1] == expected[axis]


def test_a_file_of_records_is_drawn_beside_a_run_in_bits_per_byte(runs, tmp_path, drawn):
    file = tmp_path / "reference.jsonl"
    file.write_text(
        "".join(json.dumps({"step": step, "val_bits_per_byte": 9.0 / (1 + step)}) + "\n" for step in (1, 5))
    )
    run_gpt(tmp_path, "plot", runs[0], file)
    assert drawn[0][1][1] == "validation, bits per byte"
    assert drawn[0][0][1].y == [4.5, 1.5]
    run_gpt(tmp_path, "plot", runs[0] / "metrics.jsonl", "--metric", "train_loss", "--x", "tokens")
    assert drawn[1][0][0].x[-1] == 30 * 192
    said = run_gpt(tmp_path, "plot", file, "--metric", "val_bits_per_byte", "--x", "tokens", code=2)
    assert "--x tokens: " in said and "does not say it; it has steps" in said


def test_what_is_not_finite_is_left_out(tmp_path, drawn):
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"step": 1, "train_loss": null}\n{"step": 2, "train_loss": 3.5}\n\n{"step": 3}\n'
        '{"step": 4, "train_loss": "?"}\n'
    )
    run_gpt(tmp_path, "plot", file, "--metric", "train_loss")
    assert (drawn[0][0][0].x, drawn[0][0][0].y) == ([2], [3.5])


def test_what_is_no_number_that_can_be_drawn_is_left_out(tmp_path, drawn):
    """Others' files may have anything; a line that is being written is not whole."""
    lines = ['"a"', "NaN", "1e308", "-1e308", "1" + "0" * 400, '2, "loss_ci95": "x"', '3, "loss_ci95": -1']
    lines = [f'{{"step": {step}, "elapsed_s": {step}, "loss": {line}}}' for step, line in enumerate(lines)]
    lines += [
        '{"step": 9, "elapsed_s": NaN, "loss": 4}',
        '{"step": 10, "elapsed_s": "x", "loss": 5}',
        '{"step": 11,',
    ]
    (tmp_path / "log").write_text("\n".join(lines))
    run_gpt(tmp_path, "plot", "log", "--metric", "loss")
    run_gpt(tmp_path, "plot", "log", "--metric", "loss", "--x", "time")
    curves = [one[0][0] for one in drawn]
    assert [(each.x, each.y) for each in curves] == [([5, 6, 9, 10], [2, 3, 4, 5]), ([5, 6], [2, 3])]
    assert curves[0].half_widths == [0, 0, 0, 0]
    (tmp_path / "log").write_text('{"step": 1, "loss": NaN}')
    assert "--metric loss: log has no number of it" in run_gpt(tmp_path, "plot", "log", "--metric", "loss", code=2)


def test_mistakes_are_named(runs, tmp_path):
    def refused(*arguments):
        said = run_gpt(tmp_path, "plot", *arguments, code=2)
        assert not (tmp_path / "curves.png").exists()
        return said

    assert "is neither a run nor a file of records" in refused("nothing")
    assert "has no such figure; did you mean 'val_loss'?" in refused(runs[0], "--metric", "vall_loss")
    assert "ends in .png or .svg or .pdf" in refused(runs[0], "--to", "curves.txt")
    assert "cannot be written (No such file or directory)" in refused(runs[0], "--to", "no/such/curves.png")
    for content in ("text", "[1]\n", '{"loss": 1}\n', '{"step": "one"}\n', "\x00"):
        (tmp_path / "notes").write_text(content)
        assert "notes: is no file of records, which has a JSON object with a step" in refused("notes")
    assert "name from 1 to 26 runs" in refused()


def test_a_run_of_an_earlier_version_has_no_tokens_in_its_records(runs, tmp_path, drawn):
    records = [{k: v for k, v in record.items() if k != "tokens"} for record in read_metrics(runs[0])]
    (runs[0] / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    run_gpt(tmp_path, "plot", runs[0], "--x", "tokens", "--metric", "train_loss")
    assert drawn[0][0][0].x[-1] == 30 * 192
