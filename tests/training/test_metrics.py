import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gpt import InputError
from gpt.training.metrics import MetricsFile, WandbLog, draw_losses, read_metrics


def record(step):
    return {"step": step, "train_loss": 1.0 / step}


def write(run, steps, after=0):
    metrics = MetricsFile(run, after)
    for step in steps:
        metrics.write(record(step))
    metrics.close()


def test_each_record_is_a_line_of_json_at_once(tmp_path):
    metrics = MetricsFile(tmp_path, 0)
    metrics.write(record(1))
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "train_loss": 1.0}\n'
    metrics.close()


def test_going_on_removes_later_steps_and_a_torn_line(tmp_path):
    write(tmp_path, range(1, 10))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 10, "tra')
    write(tmp_path, range(6, 8), after=5)
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_damaged_line_in_the_middle_is_refused_by_number(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train_loss": 2}\nrubbish\n[]\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train_loss": 2}\n[]\n')
    assert [r["step"] for r in read_metrics(tmp_path)] == [1]


def test_the_picture_is_a_png(trained_run):
    path = draw_losses(trained_run)
    assert path.name == "loss.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_wandb_is_neither_imported_nor_used_when_disabled(tiny_config, tmp_path):
    code = "import sys, train, sample; assert 'wandb' not in sys.modules and 'matplotlib' not in sys.modules"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
    log = WandbLog(tiny_config, tmp_path, "kept")
    log.write(record(1))
    log.close()
    assert log.run_id == "kept"


class FakeRun:
    id = "abc"

    def __init__(self):
        self.logged = []

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.logged.append("finished")


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_wandb_gets_every_record_and_always_an_explicit_mode(tiny_config, tmp_path, monkeypatch, mode):
    import wandb

    fake, arguments = FakeRun(), {}
    monkeypatch.setattr(wandb, "init", lambda **given: arguments.update(given) or fake)
    log = WandbLog(replace(tiny_config, wandb=mode), tmp_path, "before")
    log.write(record(1))
    log.close()
    assert (arguments["mode"], arguments["id"], log.run_id) == (mode, "before", "abc")
    json.dumps(arguments["config"])
    assert fake.logged == [(1, {"train_loss": 1.0}), "finished"]


def test_without_a_login_wandb_is_an_error_and_no_question(tiny_config, tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.UsageError("api_key not configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(InputError, match="--wandb online: api_key not configured .*offline"):
        WandbLog(replace(tiny_config, wandb="online"), tmp_path, None)


def test_wandb_offline_writes_a_run(tiny_config, tmp_path):
    """The real library, without a network."""
    log = WandbLog(replace(tiny_config, wandb="offline"), tmp_path, None)
    log.write(record(1))
    log.close()
    assert log.run_id
    assert list(tmp_path.glob("wandb/offline-run-*"))
