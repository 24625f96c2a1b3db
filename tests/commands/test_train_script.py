"""train.py as a person runs it: a whole run, a stopped one, a resumed one, and what it refuses."""

import json
import os
import re
import shutil
import signal
import sys
import time

import pytest
from helpers import ROOT, SHAKESPEARE, TINY, in_process, refused, run_gpt, run_here, write_dataset
from processes import Script, run_script

import train as train_script
from gpt import products
from gpt.commands import clean_errors
from gpt.runs.checkpoint import list_checkpoints, step_of
from gpt.training import forecast

pytestmark = pytest.mark.process


def test_a_run_ends_with_its_table_its_files_and_a_sample(trained):
    home, output = trained
    path = home / "runs" / "python-nano"
    assert {file.name for file in path.iterdir()} == {
        ".lock",
        "config.json",
        "tokenizer.json",
        "metrics.jsonl",
        "loss.png",
        "baselines.json",
        "checkpoints",
    }
    assert "preset nano: asked for; device: cpu" in output
    assert "\x1b" not in output
    for words in ("validation loss", "bits per byte", "perplexity", "±", "loss.png", "A sample"):
        assert words in output
    assert "python sample.py --run runs/python-nano" in output
    assert re.search(
        r"step 40/40  loss \d\.\d{4}  validation \d\.\d{4}  [\d,]+ tokens/s  MFU \d+%  norm [\d.]+  rate [\d.e+-]+  "
        r"epoch \d+\.\d\d  0:\d\d, 0:00 left",
        output,
    )
    last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 40
    assert f"{last['val_loss']:.4f} ± {last['val_loss_se']:.4f} nats per token" in output


def test_the_same_again_takes_a_new_name_and_a_used_one_is_refused(trained, dataset, tmp_path):
    home, _ = trained
    shutil.copytree(home / "runs", tmp_path / "runs")
    arguments = ("nano", "--data", dataset.path, "--steps", 2, *TINY)
    assert "run: runs/python-nano-2" in run_here("train.py", *arguments, cwd=tmp_path)
    output = refused("train.py", *arguments, "--run-dir", "runs/python-nano", cwd=tmp_path)
    assert output.splitlines()[-1].startswith(
        "error: --run-dir runs/python-nano: already holds a run; go on with it by --resume"
    )


def test_packed_and_masked_documents_are_told_evaluated_and_shown_as_they_were_learned(short_documents, tmp_path):
    """And the run goes on with them: two steps and two more are those of four at once."""
    arguments = ("train.py", "nano", "--data", short_documents.path, *TINY, "--steps", 4, "--windows", "packed")
    arguments += ("--document-mask", "--run-dir")
    output = run_here(*arguments, "whole", cwd=tmp_path)
    assert re.search(r"train: [\d,]+ windows that begin at documents; \d+\.\d\d% of their places are empty", output)
    run_here(*arguments, "parts", "--stop-at", 2, cwd=tmp_path, code=75)
    run_here("train.py", "--resume", "--run-dir", "parts", cwd=tmp_path)
    records = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    told = [[(r["batch_hash"], r["train_loss"], r.get("val_loss")) for r in of_run] for of_run in records]
    assert told[0] == told[1] and len(told[0]) == 4
    shown = run_gpt(tmp_path, "data", "show", "--run", "whole", "--step", 3)
    assert shown.count("step 3, sample ") > 12  # pieces, of 8 samples
    evaluated = run_gpt(tmp_path, "eval", "--run", "whole", "--device", "cpu")
    assert f"{records[0][-1]['val_loss']:.4f} ± " in evaluated
    assert "protocol         context 32, stride 32, inside documents, weights float32" in evaluated


def test_a_dry_run_prints_and_writes_nothing(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "TRIAL_SECONDS", 0.1)
    output = run_here("train.py", "nano", "--dry-run", "--data", dataset.path, *TINY, "--steps", 1500, cwd=tmp_path)
    assert '"learning_rate": 0.02' in output
    assert re.search(r"n-gram embedding +4,096\n", output)
    assert "position embedding" not in output
    assert "training FLOPs per token" in output
    assert re.search(r"memory, peak +[\d,]+ MB", output)
    assert re.search(r"batch +8 sequences of 32 tokens, 8 at a time", output)
    assert re.search(r"training tokens +384,000\n", output)
    assert re.search(r"tokens per second +[\d,]+\n", output)
    assert re.search(r"time +\d+:\d\d of which \d:\d\d evaluation", output)
    assert list(tmp_path.iterdir()) == []


def test_sigint_saves_says_how_to_go_on_and_resume_does(dataset, tmp_path):
    training = Script("train.py", "nano", "--data", dataset.path, "--steps", 100000, *TINY, cwd=tmp_path)
    metrics = tmp_path / "runs" / "python-nano" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 5):
        assert training.process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert training.stop(signal.SIGINT) == 75
    output = training.said()
    assert "go on with: python train.py --run-dir runs/python-nano --resume" in output
    (saved,) = list_checkpoints(tmp_path / "runs" / "python-nano")
    step = json.loads((saved / "state.json").read_text())["step"]
    again = run_here("train.py", "--run-dir", "runs/python-nano", "--resume", "--steps", step + 5, cwd=tmp_path)
    assert f"from step {step:,} to {step + 5:,}" in again
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, step + 6))


def test_a_run_stopped_at_a_step_goes_on_as_if_it_had_not(dataset, tmp_path):
    options = ("nano", "--data", dataset.path, "--steps", 20, "--model.dropout", 0.2, *TINY)
    run_here("train.py", *options, "--run-dir", "whole", cwd=tmp_path)
    stopped = run_here("train.py", *options, "--run-dir", "parts", "--stop-at", 11, cwd=tmp_path, code=75)
    assert "stopped after step 11, saved; go on with: python train.py --run-dir parts --resume" in stopped
    assert "from step 11 to 20" in run_here("train.py", "--run-dir", "parts", "--resume", cwd=tmp_path)
    files = [tmp_path / name / "checkpoints" / "step-00000020" / "model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_changed_data_is_refused_on_resume_unless_told(trained, dataset, tmp_path):
    """The run's dataset changed in one document; then one in another tokenizer; then one with another vocabulary."""
    home, _ = trained
    shutil.copytree(home / "runs" / "python-nano", tmp_path / "run")

    def dataset_of(name, text, tokenizer):
        documents = [("validation" if i == 3 else "train", text.replace("x", "xyzw"[i]) * 20) for i in range(4)]
        write_dataset(documents, tokenizer, tmp_path / name)
        return str(tmp_path / name)

    def resume(data, *more):
        def main():
            with clean_errors():
                sys.exit(train_script.main(["--run-dir", "run", "--resume", "--data", data, "--steps", "42", *more]))

        return in_process(main, tmp_path)

    changed = dataset_of("changed", "def f(x):\n    return x + 1\n", "bytes")
    code, _, errors = resume(changed)
    assert code == 2
    assert "is not the dataset that run was trained on, or has changed since" in errors
    other = dataset_of("other", "def f(x):\n    return x + 1\n", "bpe:257")
    code, _, errors = resume(other)
    assert code == 2
    assert "is written with another tokenizer" in errors
    larger = dataset_of("larger", "def f(x):\n    return x + 1\n", "bpe:260")
    for flags in ((), ("--allow-other-data",)):
        code, _, errors = resume(larger, *flags)
        assert code == 2
        assert "--model.vocab-size is 257, that of run; the tokenizer of" in errors
    code, _, errors = resume(changed, "--allow-other-data")
    assert code == 0, errors
    assert "from step 20 to 42" in errors  # where the rate began to come down
    assert "it goes on with it" in errors


def test_a_fine_tuned_run_resumes_without_the_weights_it_began_with(trained, dataset, tmp_path):
    home, _ = trained
    shutil.copytree(home / "runs" / "python-nano", tmp_path / "source")
    options = ("--init-from", "source", "--data", dataset.path, "--steps", 6, "--run-dir", "tuned", "--device", "cpu")
    run_here("train.py", *options, "--stop-at", 3, cwd=tmp_path, code=75)
    shutil.rmtree(tmp_path / "source")
    assert "from step 3 to 6" in run_here("train.py", "--run-dir", "tuned", "--resume", cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nano", "--data", "nowhere"), "; --data names one elsewhere); prepare one"),
        (("nanoo",), "error: unknown preset 'nanoo'; did you mean 'nano'?"),
        (("nano", "--config", "none.toml"), "error: --config none.toml: cannot be read (No such file"),
        (("--init-from", "no/such/model", "--data", "x"), "error: no/such/model: is neither a run directory"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, message):
    assert message in refused("train.py", *arguments, "--device", "cpu", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_products_that_would_not_be_rounded_are_refused_before_anything_is_done(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(products, "rounds", lambda: False)
    options = ("nano", "--data", dataset.path, *TINY, "--float32-matmul-precision", "medium")
    told = "error: --float32-matmul-precision medium: would change nothing here; "
    for more in ((), ("--dry-run",), ("--minutes", 1)):
        assert told in refused("train.py", *options, *more, cwd=tmp_path)
    output = refused("train.py", *options, "--dtype", "bfloat16", cwd=tmp_path)
    assert "--float32-matmul-precision medium: is for --dtype float32, and that is bfloat16" in output
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_corpus_is_refused_with_the_size_it_needs(tmp_path, dataset):
    options = ("nano", "--data", dataset.path, "--model.context-length", 8192, "--batch-tokens", 8192)
    assert "one window needs 8,193" in refused("train.py", *options, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fine_tuning_begins_with_the_weights_and_checks_the_tokenizer(trained, dataset, tmp_path):
    home, _ = trained
    source = home / "runs" / "python-nano"
    small = ("--init-from", source, "--batch-tokens", 256)
    output = run_here("train.py", *small, "--data", dataset.path, "--steps", 3, "--log-every", 1, cwd=tmp_path)
    assert f"weights: {source}, step 40" in output
    before, first, *_ = map(json.loads, (tmp_path / "runs/python-finetune/metrics.jsonl").read_text().splitlines())
    assert (before["step"], first["step"]) == (0, 1)
    assert before["val_loss"] < 5.0
    assert first["train_loss"] < 5.0  # a new model begins at ln 257 = 5.5
    own = ("--input", ROOT / "gpt" / "text", "--name", "own")
    run_here("data/prepare.py", "files", *own, "--tokenizer", "bpe:300", cwd=tmp_path)
    refused = run_here("train.py", "--init-from", source, "--data", "data/own", cwd=tmp_path, code=2)
    assert f"prepare the data with that one: gpt prepare … --tokenizer {source}" in refused
    run_here("data/prepare.py", "files", *own, "--tokenizer", source, "--replace", cwd=tmp_path)
    assert "weights: " in run_here("train.py", *small, "--data", "data/own", "--steps", 1, cwd=tmp_path)


def test_a_reader_that_goes_away_does_not_stop_training(dataset, tmp_path):
    os.mkfifo(errors := tmp_path / "errors")
    reader = os.open(errors, os.O_RDONLY | os.O_NONBLOCK)  # waits for no writer
    options = ("--data", dataset.path, "--steps", 16, *TINY, "--evaluation.every", 8)
    training = Script("train.py", "nano", *options, cwd=tmp_path, errors=errors)
    with os.fdopen(reader, "rb", buffering=0) as lines:
        os.set_blocking(reader, True)
        while not lines.readline():  # the first of many; all others find nobody
            assert training.process.is_alive()
            time.sleep(0.01)
    assert training.end() == 0
    assert "best checkpoint" in training.said()
    assert step_of(list_checkpoints(tmp_path / "runs" / "python-nano")[-1]) == 16


@pytest.mark.slow
@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="tinyshakespeare.txt is not at hand")
def test_the_shakespeare_preset_reaches_its_loss(tmp_path):
    """1.88 nats per character or better on the complete validation split, with 1.5 million training tokens."""
    data = tmp_path / "shakespeare_char"
    run_script(
        "data/prepare.py", "shakespeare", "--input", SHAKESPEARE, "--tokenizer", "char", "--out", data, cwd=tmp_path
    )
    run_script("train.py", "shakespeare-char-cpu", "--data", data, "--device", "cpu", "--run-dir", "run", cwd=tmp_path)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["tokens"] <= 1_500_000
    assert last["val_loss"] <= 1.88
