"""`gpt runs`, as a person calls it: runs that are finished, stopped, in training, half-written and damaged."""

import csv
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from filelock import FileLock
from helpers import in_process

from gpt import Tokenizer
from gpt.__main__ import main as gpt_main
from gpt.runs import checkpoint
from gpt.runs.checkpoint import list_checkpoints
from gpt.runs.directory import LOCK, open_run


def call(home, *arguments, code=0):
    """What it prints to standard output, and to standard error."""
    actual, output, errors = in_process(lambda: gpt_main(["runs", *map(str, arguments)]), home)
    assert actual == code, output + errors
    return output, errors


@pytest.fixture
def make(tmp_path, tiny_config, monkeypatch):
    """Writes a run below runs/ as a training does, with a record and a checkpoint for each step of its losses."""
    monkeypatch.chdir(tmp_path)

    def write(name, losses, steps=30, state=None, **settings):
        config = replace(tiny_config, run_dir=Path("runs") / name, steps=steps, preset="nano", **settings)
        with open_run(config, Tokenizer.utf8_bytes(), False) as run:
            pass
        records = []
        for step, loss in losses.items():
            records.append(
                {"step": step, "train_loss": loss + 0.5, "tokens": step * 192, "elapsed_s": 1.5, "val_loss": loss}
            )
            last = {"step": step, "evaluation": {"loss": loss}, "unevaluated": None, **(state or {})}
            checkpoint.save(run, {"a": torch.ones(1)}, {}, last)
        (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return run

    return write


def rows(output):
    return {line.split()[0]: line for line in output.splitlines()}


def test_runs_are_listed_with_what_became_of_them(make, tmp_path):
    make("finished", {10: 3.0, 20: 2.0, 30: 2.5})
    make("stopped", {10: 3.25})
    make("patient", {10: 1.0, 20: 3.0}, state={"evaluations_since_best": 2}, early_stopping_patience=2)
    make("unevaluated", {30: 1.0}, state={"unevaluated": {"step": 30, "train_loss": 1.0, "tokens": 9}})
    make("unbegun", {})
    (tmp_path / "runs" / "notes").mkdir()
    output, errors = call(tmp_path)
    found = rows(output)
    assert list(found) == [
        "run",
        *(f"runs/{name}" for name in ("finished", "patient", "stopped", "unbegun", "unevaluated")),
    ]
    assert "nano    30/30  2.0000 at 20  finished  " in found["runs/finished"]
    assert "20/30  1.0000 at 10  finished" in found["runs/patient"]
    assert "10/30  3.2500 at 10  stopped" in found["runs/stopped"]
    assert "0/30" in found["runs/unbegun"] and "stopped" in found["runs/unbegun"]
    assert "stopped" in found["runs/unevaluated"]
    assert "runs/stopped stopped at step 10 of 30; go on with: " in errors
    assert "--run-dir runs/stopped --resume" in errors
    assert "finished" not in errors


def test_a_loss_on_other_data_is_not_the_best_of_what_the_run_goes_on_with(make, tmp_path):
    """Its newest checkpoint knows: after --allow-other-data it has forgotten the losses before."""
    make("elsewhere", {10: 1.0, 20: 2.0, 30: 2.5}, state={"best_step": 20, "best_validation_loss": 2.0})
    make("not-yet", {10: 1.0}, state={"best_step": None, "best_validation_loss": None})
    output, _ = call(tmp_path)
    assert "30/30  2.0000 at 20  finished" in rows(output)["runs/elsewhere"]
    [entry] = json.loads(call(tmp_path, "not-yet", "--json")[0])
    assert (entry["best_loss"], entry["best_step"], entry["best"]) == (None, None, None)


def test_a_run_in_training_is_told_by_its_lock(make, tmp_path):
    run = make("one", {10: 3.0})
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 12, "train_loss": 3.0}\n{"step": 13, "train_')  # being written at this moment
    with FileLock(run / LOCK):
        output, errors = call(tmp_path)
    assert "12/30" in rows(output)["runs/one"] and "training" in output
    assert errors == ""
    assert "stopped" in call(tmp_path)[0]
    with FileLock(run / LOCK).acquire(timeout=0):  # asking has not kept it
        pass


DAMAGES = {
    "config": (lambda run: (run / "config.json").write_text("{"), "config.json: cannot be read as a run's config"),
    "no config": (lambda run: (run / "config.json").unlink(), "config.json: cannot be read"),
    "version": (
        lambda run: (run / "config.json").write_text('{"format": "gpt-run", "version": 1, "config": {}}'),
        "is of version 1, and this program reads 2",
    ),
    "metrics": (lambda run: (run / "metrics.jsonl").write_text('no\n{"step": 1}\n'), "line 1: is no record"),
    "state": (
        lambda run: (list_checkpoints(run)[-1] / "state.json").write_text("{}"),
        "step-00000020/state.json: has 2 bytes",
    ),
    "manifest": (lambda run: (list_checkpoints(run)[-1] / "manifest.json").unlink(), "manifest.json: is missing"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_listed_with_what_is_wrong_and_hides_no_other(make, tmp_path, damage, said):
    make("whole", {30: 2.0})
    damage(make("broken", {10: 3.0, 20: 2.0}))
    output, errors = call(tmp_path)
    assert "damaged" in rows(output)["runs/broken"]
    assert "finished" in rows(output)["runs/whole"]
    assert "runs/broken is damaged: " in errors and said in errors
    entries = {entry["run"]: entry for entry in json.loads(call(tmp_path, "--json")[0])}
    assert said in entries["runs/broken"]["fault"]
    assert entries["runs/whole"]["fault"] is None
    call(tmp_path, "broken", "whole")  # compared as far as they can be read


def test_what_a_kill_left_half_written_is_no_damage(make, tmp_path):
    run = make("killed", {10: 3.0})
    (run / "checkpoints" / ".step-00000020.partial").mkdir()
    (run / "metrics.jsonl").open("a").write('{"step": 11, "tra')
    assert "10/30" in rows(call(tmp_path)[0])["runs/killed"]
    (tmp_path / "runs" / "begun").mkdir()
    (tmp_path / "runs" / "begun" / ".lock").touch()  # killed before it wrote anything else
    assert list(rows(call(tmp_path)[0])) == ["run", "runs/killed"]


def test_a_hugging_face_model_is_no_run(make, tmp_path):
    make("one", {30: 2.0})
    (tmp_path / "runs" / "exported").mkdir()
    (tmp_path / "runs" / "exported" / "config.json").write_text('{"model_type": "gpt2"}')
    assert list(rows(call(tmp_path)[0])) == ["run", "runs/one"]


def test_another_directory_is_listed_and_none_is_no_error(make, tmp_path):
    make("one", {30: 2.0})
    assert "runs/one" in call(tmp_path, "runs")[0]
    (tmp_path / "empty").mkdir()
    assert call(tmp_path, "empty") == ("", "there is no run under empty/; train one: gpt train\n")
    assert call(tmp_path, "empty", "--json")[0] == "[]\n"


def test_the_corpus_that_runs_were_trained_on_is_compared_where_they_say_it(make, tmp_path):
    make("one", {10: 3.0}, state={"corpus_fingerprint": "a1" * 32})
    make("two", {10: 4.0})
    (line,) = (line for line in call(tmp_path, "one", "two")[0].splitlines() if line.startswith("corpus"))
    assert line.split() == ["corpus", "fingerprint", "a1a1a1a1a1a1", "-"]
    entries = {entry["run"]: entry for entry in json.loads(call(tmp_path, "--json")[0])}
    assert [entries[f"runs/{name}"]["corpus_fingerprint"] for name in ("one", "two")] == ["a1" * 32, None]


def test_runs_are_compared_by_settings_that_differ_and_losses(make, tmp_path):
    make("one", {10: 3.0, 20: 2.0}, seed=1)
    make("two", {10: 4.0, 20: 4.5}, seed=2)
    output, errors = call(tmp_path, "one", "runs/two")
    table = {line[:22].strip(): line[22:].split() for line in output.splitlines()}
    assert table == {
        "": ["runs/one", "runs/two"],
        "seed": ["1", "2"],
        "state": ["stopped", "stopped"],
        "step": ["20", "20"],
        "best validation loss": ["2.0000", "4.0000"],
        "at step": ["20", "10"],
        "bits per byte": ["-", "-"],
        "newest training loss": ["2.5000", "5.0000"],
        "tokens": ["3840", "3840"],
        "seconds": ["1.5000", "1.5000"],
    }
    assert "runs/two stopped" in errors


def test_one_run_is_compared_with_its_preset(make, tmp_path):
    make("one", {30: 2.0}, seed=7)
    output, _ = call(tmp_path, "one")
    heading, empty, columns, *_ = output.splitlines()
    assert heading == "runs/one: settings that differ from its preset's, and what it has reached"
    assert (empty, columns.split()) == ("", ["preset", "nano", "runs/one"])
    assert [line.split() for line in output.splitlines() if line.startswith("seed")] == [["seed", "1337", "7"]]
    assert "2.0000" in output


def test_metrics_become_csv(make, tmp_path):
    make("one", {10: 3.0, 20: 2.0})
    two = make("two", {10: 4.0})
    (two / "metrics.jsonl").write_text('{"step": 10, "train_loss": null, "sample": "a, \\"b\\"\\nc"}\n')
    output, _ = call(tmp_path, "one", "two", "--csv")
    records = list(csv.DictReader(io.StringIO(output)))
    assert [(r["run"], r["step"], r["val_loss"]) for r in records] == [
        ("runs/one", "10", "3.0"),
        ("runs/one", "20", "2.0"),
        ("runs/two", "10", ""),
    ]
    assert "sample" not in records[2] and len(output.splitlines()) == 4  # a line each: a sample has many
    assert "error: --csv: name the runs" in call(tmp_path, "--csv", code=2)[1]


def test_a_mistyped_name_is_told(make, tmp_path):
    make("shakespeare", {30: 2.0})
    assert "no such run; did you mean runs/shakespeare?" in call(tmp_path, "shakespear", code=2)[1]
    assert "error: xyz: there is no such run\n" in call(tmp_path, "xyz", code=2)[1]


def test_a_name_does_not_steer_the_terminal(make, tmp_path):
    make("a\x1b[31m", {30: 2.0})
    assert "\x1b" not in call(tmp_path)[0]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_lock_that_may_not_be_opened_is_no_error(make, tmp_path):
    (make("one", {30: 2.0}) / LOCK).chmod(0)
    assert "finished" in call(tmp_path)[0]


def test_help_names_what_is_listed(tmp_path):
    with mock.patch.object(sys, "argv", ["gpt"]):
        assert "[RUN ...]" in call(tmp_path, "--help")[0]


def test_several_datasets_of_a_run_are_listed_and_compared_with_their_weights(make, tmp_path):
    make("mixed", {30: 2.0}, data=("data/a=0.7", "data/b=0.3"))
    make("single", {30: 3.0})
    assert "data/a=0.7 data/b=0.3" in call(tmp_path)[0]
    compared = call(tmp_path, "mixed", "single")[0]
    (row,) = (line for line in compared.splitlines() if line.startswith("data "))
    assert "data/a=0.7 data/b=0.3" in row
    entries = {Path(entry["run"]).name: entry for entry in json.loads(call(tmp_path, "--json")[0])}
    assert entries["mixed"]["config"]["data"] == ["data/a=0.7", "data/b=0.3"]
