"""Weights & Biases: a fake in its place, and the library itself without a network."""

import json
import os
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from gpt import InputError, TrainConfig
from gpt.runs.checkpoint import list_checkpoints
from gpt.tracking import wandb as wandb_sink
from gpt.tracking.jsonl import MetricsFile
from gpt.tracking.progress import ProgressDisplay
from gpt.tracking.tracking import Tracking
from gpt.tracking.wandb import WandbLog, log_checkpoint

SHOWN = {"gradient_norm": 1.0, "tokens_per_s": 1.0, "learning_rate": 1.0, "epoch": 0.0, "elapsed_s": 0.0}


def record(step):
    return {"step": step, "train_loss": 1.0 / step}


def test_wandb_is_neither_imported_nor_used_when_disabled(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # whoever imports it fails
    with Tracking(tmp_path, tiny_config, ProgressDisplay(1, quiet=True), 0, lambda: 0) as tracking:
        tracking.write(SHOWN | record(1))
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


class FakeRun:
    def __init__(self, fails_at=None):
        self.id, self.logged, self.fails_at, self.defined = "0a1b2c3d", [], fails_at, []

    def define_metric(self, name, step_metric=None):
        self.defined.append((name, step_metric))

    def log(self, values):
        if values["step"] == self.fails_at:
            raise ConnectionResetError("its process has gone\nand more of it")
        self.logged.append(values)

    def log_artifact(self, artifact, aliases):
        if self.fails_at == "artifact":
            raise OSError("no space there")
        self.logged.append((artifact, aliases))

    def finish(self):
        self.logged.append("finished")


@pytest.fixture
def fake_wandb(monkeypatch):
    """Takes the place of wandb.init: what it was given, and the run that it gives."""
    import wandb

    fake = SimpleNamespace(run=FakeRun(), given=[], errors=[])

    def init(**given):
        fake.given.append(given)
        if fake.errors:
            raise fake.errors.pop()
        return fake.run

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "login", lambda **_: "WANDB_API_KEY" in os.environ)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    return fake


def log_three(config, run):
    log = WandbLog(config, run, lambda: 0)  # what is left when training ends in order is told as well
    for step in (1, 2, 3):
        log.write(record(step))
    log.close()


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_wandb_gets_every_record_and_always_an_explicit_mode(tiny_config, tmp_path, fake_wandb, mode):
    log_three(replace(tiny_config, wandb=mode), tmp_path)
    (given,) = fake_wandb.given
    assert given["mode"] == mode
    json.dumps(given["config"])
    assert fake_wandb.run.logged == [*map(record, (1, 2, 3)), "finished"]
    assert fake_wandb.run.defined == [("step", None), ("*", "step")]


def test_wandb_is_told_of_a_step_once_it_is_saved(tiny_config, tmp_path, fake_wandb):
    """Killed after step 8, with 5 saved, and resumed: it never hears of the steps that were done again."""
    dead = WandbLog(replace(tiny_config, wandb="offline"), tmp_path, lambda: 5)
    for step in range(1, 9):
        dead.write(record(step))
    deadline = time.monotonic() + 30
    while len(fake_wandb.run.logged) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(3 * wandb_sink.WANDB_LOOKS)
    assert fake_wandb.run.logged == [record(step) for step in range(1, 6)]
    resumed = WandbLog(replace(tiny_config, wandb="offline"), tmp_path, lambda: 5)
    again = [{"step": step, "train_loss": 7.0} for step in range(6, 11)]
    for other in again:
        resumed.write(other)
    resumed.close()
    assert fake_wandb.run.logged == [*(record(step) for step in range(1, 6)), *again, "finished"]


def test_a_resumed_run_goes_on_with_the_same_wandb_run(tiny_config, tmp_path, fake_wandb):
    for _ in range(2):
        log_three(replace(tiny_config, wandb="offline"), tmp_path)
    (tmp_path / "other").mkdir()
    log_three(replace(tiny_config, wandb="offline"), tmp_path / "other")
    first, second, other = (given["id"] for given in fake_wandb.given)
    assert first == second != other


def test_wandb_that_fails_midway_is_said_once_and_harms_nothing(tiny_config, tmp_path, fake_wandb, said):
    fake_wandb.run.fails_at = 2
    log_three(replace(tiny_config, wandb="online"), tmp_path)
    assert fake_wandb.run.logged == [record(1)]
    assert said == ["wandb: its process has gone; training goes on without it"]


def test_a_network_that_is_gone_at_the_start_means_recording_offline(tiny_config, tmp_path, fake_wandb, said):
    import wandb

    fake_wandb.errors = [wandb.errors.CommError("cannot connect")]
    log_three(replace(tiny_config, wandb="online"), tmp_path)
    assert [given["mode"] for given in fake_wandb.given] == ["online", "offline"]
    assert fake_wandb.run.logged[-1] == "finished"
    assert len(said) == 1 and said[0].startswith(
        "wandb: cannot connect; recorded offline instead, upload with: wandb sync"
    )


def test_a_wandb_that_hangs_is_not_waited_for(tiny_config, tmp_path, fake_wandb, monkeypatch, said):
    monkeypatch.setattr(wandb_sink, "WANDB_ENDS", 1)
    released = threading.Event()
    fake_wandb.run.finish = released.wait
    start = time.monotonic()
    log = WandbLog(replace(tiny_config, wandb="online"), tmp_path, lambda: 0)
    log.write(record(1))
    assert time.monotonic() - start < 5  # importing it, and no more
    log.close()
    released.set()
    assert "did not finish in 1 s; upload with: wandb sync" in said[0]


def test_without_a_login_wandb_records_offline_and_asks_nothing(tiny_config, tmp_path, fake_wandb, monkeypatch, said):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    log_three(replace(tiny_config, wandb="online"), tmp_path)
    assert len(said) == 1 and said[0].startswith(
        "wandb: nobody is logged in (`wandb login` does that); recorded offline instead"
    )
    assert [given["mode"] for given in fake_wandb.given] == ["offline"]


@pytest.mark.process
def test_wandb_offline_writes_a_run(tiny_config, tmp_path, monkeypatch, said):
    """The real library, without a network; how long a busy machine takes for it is not the subject."""
    monkeypatch.setattr(wandb_sink, "WANDB_ENDS", 120)
    log = WandbLog(replace(tiny_config, wandb="offline"), tmp_path, lambda: 0)
    for step in (1, 2, 3):
        log.write(record(step) | ({"sample": "a text"} if step == 2 else {}))
    log.close()
    assert len(said) == 1 and "upload with: wandb sync" in said[0]
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 60  # its own process writes the file, and may not have come to it yet
    while len(read_wandb(file)[0]) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    logged, axes = read_wandb(file)
    table = logged[1].pop("samples.path", None)
    assert (tmp_path / "wandb" / "latest-run" / "files" / table).exists()
    plain = [{key: value for key, value in one.items() if not key.startswith("samples.")} for one in logged]
    assert plain == [record(step) for step in (1, 2, 3)]
    assert axes == {"step": None, "*": "step"}


def read_wandb(path):
    """What a file of wandb holds: the records that were logged, and the metrics that were defined with their axes."""
    from wandb.proto import wandb_internal_pb2 as proto

    content, entry, entries = path.read_bytes(), b"", []
    block = 32768  # LevelDB's log format, behind a header of 7 bytes: checksum, length, kind, and data within blocks
    position = 7
    while position + 7 <= len(content):
        if block - position % block < 7:
            position += block - position % block
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        entry += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            entries.append(proto.Record.FromString(entry))
            entry = b""
    logged = [
        {(item.key or ".".join(item.nested_key)): json.loads(item.value_json) for item in entry.history.item}
        for entry in entries
        if entry.HasField("history")
    ]
    axes = {m.name or m.glob_name: m.step_metric or None for e in entries if e.HasField("metric") for m in [e.metric]}
    return [{k: v for k, v in one.items() if not k.startswith("_")} for one in logged], axes


@pytest.mark.parametrize("torn", [b"", b"12ab", b"\xff\xfe\x00"])
def test_an_id_that_a_crash_has_torn_is_replaced(tiny_config, tmp_path, fake_wandb, torn):
    (tmp_path / "wandb-id.txt").write_bytes(torn)
    for _ in range(2):
        log_three(replace(tiny_config, wandb="offline"), tmp_path)
    first, second = (given["id"] for given in fake_wandb.given)
    assert first == second
    assert len(first) == 8


def test_runs_are_grouped_by_data_and_preset_or_as_is_asked(tiny_config, tmp_path, fake_wandb):
    config = replace(tiny_config, wandb="offline", preset="nano")
    for one in (config, replace(config, seed=2), replace(config, wandb_group="seeds", init_from="runs/x")):
        log_three(one, tmp_path)
    assert [given["group"] for given in fake_wandb.given] == ["python-nano", "python-nano", "seeds"]
    assert [given["job_type"] for given in fake_wandb.given] == ["pretrain", "pretrain", "finetune"]


def test_what_is_recorded_offline_is_uploaded_by_the_command_that_is_said(tiny_config, tmp_path, fake_wandb, said):
    run = tmp_path / "a run"
    run.mkdir()
    log_three(replace(tiny_config, wandb="offline"), run)
    assert said == [f"wandb: recorded offline; upload with: wandb sync '{run}/wandb'/*run-*"]


def test_samples_are_a_table_that_a_resumed_run_goes_on_with(tiny_config, tmp_path, fake_wandb, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "Table", lambda columns, data: (columns, data))
    config = replace(tiny_config, wandb="offline")
    file = MetricsFile(tmp_path, 0)
    for step, text in ((1, "one"), (2, None), (3, "three")):
        shown = record(step) | ({} if text is None else {"sample": text, "val_loss": 2.0})
        file.write(shown)
    file.close()
    log = WandbLog(config, tmp_path, lambda: 0)
    log.write(record(4) | {"sample": "four"})
    log.write(record(5))
    log.close()
    fourth, fifth = fake_wandb.run.logged[:2]
    rows = [[1, 2.0, "one"], [3, 2.0, "three"], [4, None, "four"]]
    assert fourth == record(4) | {"samples": (["step", "val_loss", "sample"], rows)}
    assert fifth == record(5)


def test_the_best_checkpoint_is_an_artifact_with_all_that_loads_it(trained_run, tiny_config, fake_wandb):
    log_checkpoint(replace(tiny_config, wandb="offline"), trained_run)
    ((artifact, aliases), end) = fake_wandb.run.logged
    newest = list_checkpoints(trained_run)[-1].name
    assert aliases == ["best", newest]
    inside = {f"checkpoints/{newest}/{name}" for name in files_of(trained_run, newest)}
    assert set(artifact.manifest.entries) == {"config.json", "tokenizer.json", *inside}
    assert (artifact.type, artifact.metadata, end) == ("model", {"step": 30}, "finished")


def files_of(run, name):
    return [path.name for path in (run / "checkpoints" / name).iterdir()]


def test_an_artifact_that_fails_is_said_and_harms_nothing(trained_run, tiny_config, fake_wandb, said):
    fake_wandb.run.fails_at = "artifact"
    log_checkpoint(replace(tiny_config, wandb="offline"), trained_run)
    assert said[-1] == "wandb: no space there; the checkpoint was not logged"


@pytest.mark.parametrize("given", [{"wandb_group": "seeds"}, {"wandb_checkpoint": True}])
def test_what_is_of_wandb_needs_wandb(given):
    with pytest.raises(InputError, match="are of Weights & Biases: give `wandb` as well"):
        TrainConfig(**given)
    TrainConfig(wandb="offline", **given)
