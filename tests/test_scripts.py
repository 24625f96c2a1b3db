"""train.py, sample.py and gpt as a person runs them: whole processes."""

import fcntl
import json
import math
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from unittest import mock

import pytest
from helpers import in_process, refused, run_here, write_dataset
from processes import run_script as run

import train as train_script
from gpt.__main__ import main as gpt_main
from gpt.commands import clean_errors
from gpt.commands import sample as sample_command
from gpt.runs.checkpoint import list_checkpoints, step_of

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]
SHAKESPEARE = ROOT.parent / "shared" / "corpora" / "tinyshakespeare.txt"
TINY = ("--model.n-layer", "1", "--model.n-head", "2", "--model.n-embd", "32", "--model.context-length", "32")
TINY += ("--model.ngram-buckets", "64", "--batch-tokens", "256", "--device", "cpu", "--log-every", "1")
TINY += ("--evaluation.sample-tokens", "20")


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A directory in which a small run was trained by train.py, and what it printed."""
    home = tmp_path_factory.mktemp("home")
    output = run("train.py", "nano", "--data", dataset.path, "--steps", 40, *TINY, "--evaluation.every", 20, cwd=home)
    return home, output


def test_a_run_ends_with_its_table_its_files_and_a_sample(trained):
    home, output = trained
    path = home / "runs" / "python-nano"
    assert {file.name for file in path.iterdir()} == {
        ".lock",
        "config.json",
        "tokenizer.json",
        "metrics.jsonl",
        "loss.png",
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


def test_the_same_again_takes_a_new_name_and_a_used_one_is_refused(trained, dataset):
    home, _ = trained
    arguments = ("nano", "--data", dataset.path, "--steps", 2, *TINY)
    assert "run: runs/python-nano-2" in run_here("train.py", *arguments, cwd=home)
    refused = run_here("train.py", *arguments, "--run-dir", "runs/python-nano", cwd=home, code=2)
    assert refused.splitlines()[-1].startswith(
        "error: --run-dir runs/python-nano: already holds a run; go on with it by --resume"
    )


def test_a_dry_run_prints_and_writes_nothing(dataset, tmp_path):
    output = run_here("train.py", "nano", "--dry-run", "--data", dataset.path, "--steps", 1500, cwd=tmp_path)
    assert '"learning_rate": 0.02' in output
    assert re.search(r"n-gram embedding +8,388,608\n", output)
    assert "position embedding" not in output
    assert "training FLOPs per token" in output
    assert re.search(r"memory, peak +[\d,]+ MB", output)
    assert re.search(r"batch +16 sequences of 128 tokens, 16 at a time", output)
    assert re.search(r"training tokens +3,072,000\n", output)
    assert re.search(r"tokens per second +[\d,]+\n", output)
    assert re.search(r"time +\d+:\d\d of which \d:\d\d evaluation", output)
    assert list(tmp_path.iterdir()) == []


def test_sigint_saves_says_how_to_go_on_and_resume_does(dataset, tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "nano", "--data", str(dataset.path), "--steps", "100000", *TINY]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "python-nano" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 5):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 75
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


def test_changed_data_is_refused_on_resume_unless_told(trained, dataset, bpe, tmp_path):
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
        assert "model.vocab_size is 257; the tokenizer of" in errors
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


def test_too_small_a_corpus_is_refused_with_the_size_it_needs(tmp_path, dataset):
    options = ("nano", "--data", dataset.path, "--model.context-length", 8192, "--batch-tokens", 8192)
    assert "one window needs 8,193" in refused("train.py", *options, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fine_tuning_begins_with_the_weights_and_checks_the_tokenizer(trained, dataset, bpe, tmp_path):
    home, _ = trained
    source = home / "runs" / "python-nano"
    output = run_here(
        "train.py", "--init-from", source, "--data", dataset.path, "--steps", 3, "--log-every", 1, cwd=tmp_path
    )
    assert f"weights: {source}, step 40" in output
    first = json.loads((tmp_path / "runs" / "python-finetune" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["train_loss"] < 5.0  # a new model begins at ln 257 = 5.5
    own = ("--input", ROOT / "gpt", "--name", "own")
    run_here("data/prepare.py", "files", *own, "--tokenizer", "bpe:300", cwd=tmp_path)
    refused = run_here("train.py", "--init-from", source, "--data", "data/own", cwd=tmp_path, code=2)
    assert "prepare the data with the model's tokenizer" in refused
    run_here("data/prepare.py", "files", *own, "--tokenizer", source, cwd=tmp_path)
    assert "weights: " in run_here("train.py", "--init-from", source, "--data", "data/own", "--steps", 1, cwd=tmp_path)


def test_a_reader_that_goes_away_does_not_stop_training(dataset, tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "nano", "--data", str(dataset.path), "--steps", "40", *TINY]
    command += ["--evaluation.every", "10"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not process.stderr.readline().startswith("step"):
        assert process.poll() is None
    process.stderr.close()
    assert "best checkpoint" in process.stdout.read()
    process.wait(timeout=120)
    assert step_of(list_checkpoints(tmp_path / "runs" / "python-nano")[-1]) == 40


@pytest.mark.slow
@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="tinyshakespeare.txt is not at hand")
def test_the_shakespeare_preset_reaches_its_loss(tmp_path):
    """1.88 nats per character or better on the complete validation split, with 1.5 million training tokens."""
    data = tmp_path / "shakespeare_char"
    run("data/prepare.py", "shakespeare", "--input", SHAKESPEARE, "--tokenizer", "char", "--out", data, cwd=tmp_path)
    run("train.py", "shakespeare-char-cpu", "--data", data, "--device", "cpu", "--run-dir", "run", cwd=tmp_path)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["tokens"] <= 1_500_000
    assert last["val_loss"] <= 1.88


# ---- sample.py ----


def sample(home, *arguments, code=0, stdin="", both=False):
    """What sample.py prints; where it fails, what it complains of; `both`: with what it says beside its results."""

    def main():
        with clean_errors():
            sample_command.main([*map(str, arguments), "--device", "cpu"])

    actual, output, errors = in_process(main, home, stdin)
    assert actual == code, output + errors
    return (output + errors if both else output) if code == 0 else errors


def test_a_prompt_is_continued_from_option_file_and_standard_input(trained, tmp_path):
    home, _ = trained
    (tmp_path / "prompt.txt").write_text("def ")
    options = ("--run", "runs/python-nano", "--max-tokens", 20, "--seed", 1)
    by_option = sample(home, *options, "--prompt", "def ")
    assert len(by_option.encode()) >= 10
    assert sample(home, *options, "--prompt-file", tmp_path / "prompt.txt") == by_option
    assert sample(home, *options, stdin="def ") == by_option
    for line_end in ("\n", "\r\n"):  # which echo adds
        assert sample(home, *options, stdin=f"def {line_end}") == by_option
    assert sample(home, *options, stdin="def \n\n") == sample(home, *options, "--prompt", "def \n")
    (tmp_path / "prompt.txt").write_text("def \n")  # a file is taken as it stands
    assert sample(home, *options, "--prompt-file", tmp_path / "prompt.txt") != by_option


def test_json_is_an_object_per_sample_and_line(trained):
    home, _ = trained
    lines = sample(home, "--prompt", "def ", "--samples", 3, "--max-tokens", 15, "--seed", 1, "--json").splitlines()
    objects = [json.loads(line) for line in lines]
    assert len(objects) == 3
    for thing in objects:
        keys = {"run", "prompt", "seed", "sample", "text", "ids", "finish_reason", "tokens_per_second"}
        assert set(thing) == keys
        assert re.fullmatch(r"runs/python-nano(-2)?, step \d+", thing["run"])
        assert thing["prompt"] == "def "
        assert thing["finish_reason"] in ("stop", "length")
        assert len(thing["ids"]) <= 15
        assert bytes(thing["ids"]).decode(errors="replace") == thing["text"]
    alone = sample(home, "--prompt", "def ", "--max-tokens", 15, "--seed", 1, "--json")
    assert json.loads(alone)["ids"] == objects[0]["ids"]
    plain = sample(home, "--prompt", "def ", "--samples", 3, "--max-tokens", 15, "--seed", 1)
    assert plain.split("\n--- sample ")[0].rstrip("\n") == objects[0]["text"].rstrip("\n")


def test_what_is_printed_can_be_drawn_again(trained):
    """The seed by chance is in the JSON; a text has it, and the run, on standard error."""
    home, _ = trained
    options = ("--prompt", "def ", "--max-tokens", 15)
    first, second = map(json.loads, sample(home, *options, "--samples", 2, "--json").splitlines())
    assert first["seed"] == second["seed"]
    again = sample(home, *options, "--samples", 2, "--json", "--seed", first["seed"]).splitlines()
    assert [json.loads(line)["text"] for line in again] == [first["text"], second["text"]]
    said = sample(home, *options, both=True)
    assert re.search(r"^using runs/python-nano(-2)?, step \d+$", said, re.MULTILINE)
    seed = re.search(r"the same again: --seed (\d+)\n$", said)[1]
    text = sample(home, *options, "--seed", seed)
    assert text in said
    assert "again" not in sample(home, *options, "--seed", seed, both=True)
    assert "using" not in sample(home, *options, "--run", "runs/python-nano", both=True)


def test_a_byte_order_mark_is_no_part_of_a_prompt(trained, tmp_path):
    home, _ = trained
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbfdef read")
    options = ("--max-tokens", 2, "--json")
    for given in (("--prompt-file", tmp_path / "bom"), ("--prompts", tmp_path / "bom")):
        assert json.loads(sample(home, *options, *given))["prompt"] == "def read"
    for given in ((), ("--prompts", "-")):
        assert json.loads(sample(home, *options, *given, stdin="\ufeffdef read"))["prompt"] == "def read"


def test_prompts_can_be_piped(trained, tmp_path):
    home, _ = trained
    lines = 'def \n\n"a\\n"\n'
    made = sample(home, "--prompts", "-", "--max-tokens", 3, "--json", stdin=lines).splitlines()
    assert [json.loads(line)["prompt"] for line in made] == ["def ", "a\n"]
    assert "has no prompt" in sample(home, "--prompts", "-", code=2, stdin="\n")


def test_a_checkpoint_can_be_named(trained):
    home, _ = trained
    steps = [step_of(path) for path in list_checkpoints(home / "runs" / "python-nano")]
    for wanted, step in (("last", steps[-1]), (steps[0], steps[0])):
        options = ("--run", "runs/python-nano", "--checkpoint", wanted, "--max-tokens", 2, "--json")
        made = json.loads(sample(home, "--prompt", "def ", *options))
        assert made["run"] == f"runs/python-nano, step {step}"
    assert "has best, last and the steps" in sample(home, "--prompt", "x", "--checkpoint", "first", code=2)


COMPILE = """
import os, subprocess, sys, torch
from gpt.commands import clean_errors
from gpt.commands.sample import main

def compiled(function, **_):
    def program(*arguments):
        os.write(1, b"noise of a library\\n")
        print("noise of Python", flush=True)
        subprocess.run(["echo", "noise of a program"], check=True)
        if {fails}:
            raise RuntimeError("it broke")
        return function(*arguments)
    return program

torch.compile = compiled
with clean_errors():
    main(["--prompt", "def ", "--max-tokens", "3", "--device", "cpu", "--json", "--compile"])
"""


@pytest.mark.parametrize("fails", [False, True])
def test_standard_output_has_json_alone_whatever_the_compiler_does(trained, fails):
    home, _ = trained
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", COMPILE.format(fails=fails)]
    result = subprocess.run(program, cwd=home, env=environment, capture_output=True, text=True, check=False)
    for noise in ("noise of a library", "noise of Python", "noise of a program"):
        assert noise in result.stderr
    if fails:
        assert (result.returncode, result.stdout) == (2, "")
        assert "torch.compile does not work here" in result.stderr
        assert "--compile" in result.stderr
    else:
        assert result.returncode == 0, result.stderr
        assert [len(json.loads(line)["ids"]) for line in result.stdout.splitlines()] == [3]


def test_prompts_of_a_file_are_continued_each_as_if_alone(trained, tmp_path):
    home, _ = trained
    prompts = ["def ", "class A:\n    pass", '"quoted" text', "", "def "]
    lines = ["def ", json.dumps(prompts[1]), '"quoted" text', '""', "", "def "]
    (tmp_path / "prompts").write_text("\n".join(lines) + "\n")
    options = ("--max-tokens", 15, "--seed", 1, "--samples", 2, "--json")
    made = [json.loads(line) for line in sample(home, "--prompts", tmp_path / "prompts", *options).splitlines()]
    assert [thing["prompt"] for thing in made] == [prompt for prompt in prompts for _ in range(2)]
    for batch in (1, 3):
        again = sample(home, "--prompts", tmp_path / "prompts", *options, "--batch", batch).splitlines()
        assert [json.loads(line)["ids"] for line in again] == [thing["ids"] for thing in made]
    alone = [json.loads(line) for line in sample(home, "--prompt", prompts[1], *options).splitlines()]
    assert [thing["text"] for thing in alone] == [thing["text"] for thing in made[2:4]]
    text = sample(home, "--prompts", tmp_path / "prompts", "--max-tokens", 5, "--samples", 2, "--echo")
    assert "--- prompt 2 of 5, sample 1 of 2 ---\nclass A:\n    pass" in text


def test_log_probabilities_and_greedy(trained):
    home, _ = trained
    options = ("--prompt", "def ", "--max-tokens", 6, "--json", "--greedy")
    line = json.loads(sample(home, *options, "--logprobs", 2, "--echo"))
    assert [token["text"] for token in line["prompt_tokens"]] == ["d", "e", "f", " "]
    assert line["prompt_tokens"][0]["logprob"] is None
    for token in line["tokens"]:
        assert token["top_logprobs"][0]["id"] == token["id"]  # greedy takes the likeliest
        assert token["top_logprobs"][0]["logprob"] == token["logprob"]
        assert len(token["top_logprobs"]) == 2
    assert [token["id"] for token in line["tokens"]] == line["ids"]
    assert json.loads(sample(home, *options[:-1], "--temperature", 0))["ids"] == line["ids"]
    assert "\\ud" not in sample(
        home, "--prompt", "\udcff", *options[2:]
    )  # what a shell makes of a byte that is not UTF-8
    shown = sample(home, "--prompt", "def ", "--max-tokens", 6, "--greedy", "--logprobs", 1).splitlines()
    assert repr(line["tokens"][-1]["text"]) in shown[-1]
    assert f"{line['tokens'][-1]['logprob']:.3f}" in shown[-1]


def test_int8_is_near_float32(trained):
    home, _ = trained
    losses = []
    for dtype in ("float32", "int8"):
        output = gpt(home, "eval", "--run", "runs/python-nano", "--device", "cpu", "--dtype", dtype, "--json")
        losses.append(json.loads(output)["runs"][0]["evaluation"]["loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.005)
    assert sample(home, "--prompt", "def ", "--max-tokens", 6, "--dtype", "int8")


def test_gpt_score_adds_up(trained, tmp_path):
    home, _ = trained
    text = "def read(self):\n    return é\n"
    (tmp_path / "text").write_text(text)
    found = json.loads(gpt(home, "score", "--file", tmp_path / "text", "--json", "--top-logprobs", 2))
    assert (
        "".join(bytes([score["id"]]).decode("latin-1") for score in found["scores"]).encode("latin-1").decode() == text
    )
    assert found["bits"] == pytest.approx(-sum(score["logprob"] for score in found["scores"]) / math.log(2))
    assert found["bits_per_byte"] == pytest.approx(found["bits"] / len(text.encode()))
    lines = gpt(home, "score", "--text", text).splitlines()
    assert len(lines) == len(found["scores"]) + 3
    assert lines[-3].startswith(f"{len(text.encode())} tokens, {len(text.encode())} bytes, {found['bits']:,.2f} bits")
    assert f"perplexity {found['perplexity']:,.2f}" == lines[-1]
    assert re.fullmatch(r"runs/python-nano(-2)?, step \d+", found["run"])
    steps = [step_of(path) for path in list_checkpoints(home / "runs" / "python-nano")]
    other = json.loads(
        gpt(home, "score", "--run", "runs/python-nano", "--text", text, "--json", "--checkpoint", steps[0])
    )
    assert other["run"] == f"runs/python-nano, step {steps[0]}"
    assert "nothing to score" in gpt(home, "score", "--text", "", code=2)
    assert "give one of them" in gpt(home, "score", "--text", "a", "--file", tmp_path / "text", code=2)


def test_a_stop_text_ends_it(trained):
    home, _ = trained
    options = ("--prompt", "def ", "--max-tokens", 60, "--seed", 1, "--json")
    text = json.loads(sample(home, *options))["text"]
    stopped = json.loads(sample(home, *options, "--stop", text[5:8], "--stop", "never to be seen"))
    assert stopped["text"] == text[: text.index(text[5:8])]
    assert stopped["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("given", "meant"), [("\\n", "\n"), ("a\\tb", "a\tb"), ("\\\\n", "\\n"), ("\\d", "\\d"), ("\n", "\n")]
)
def test_stop_texts_are_typed_with_escapes(given, meant):
    assert sample_command.SampleCommand(stop=(given,)).stop_texts == (meant,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--temperature", "-1"), "--temperature is -1.0; it must be at least 0 (0 is greedy)"),
        (("--top-k", "0"), "it must be at least 1"),
        (("--stop", ""), "at least one character"),
        (("--samples", "0"), "it must be at least 1"),
        (("--batch", "0"), "--batch is 0; it must be at least 1"),
        (("--logprobs", "-1"), "--logprobs is -1; it must be at least 0"),
        (("--top-p", "0"), "it must be above 0 and at most 1"),
        (("--min-p", "2"), "it must be from 0"),
        (("--repetition-penalty", "0"), "it must be from 0.001 to 1000"),
        (("--overflow", "error", "--max-tokens", "100000"), "--overflow error: a prompt of 1 tokens"),
        (("--prompts", "p"), "--prompt and --prompts: give one of them"),
        (("--interactive",), "--prompt and --interactive: give one of them"),
        (("--echo", "--json"), "--echo --json: needs --logprobs"),
        (("--compile", "--dtype", "int8"), "--compile: is for float32 and bfloat16"),
        (("--run", "runs/python-nan"), "did you mean 'runs/python-nano'"),
    ],
)
def test_bad_values_are_refused_with_the_allowed_range(trained, options, message):
    home, _ = trained
    output = sample(home, "--prompt", "x", *options, code=2)
    assert message in " ".join(output.replace("│", " ").split())


def test_without_any_run_the_error_says_what_to_do(tmp_path):
    assert "train one first (gpt train)" in sample(tmp_path, "--prompt", "x", code=2)


HEAVY = ["torch._dynamo", "torch.distributed.fsdp", "sympy", "matplotlib", "wandb", "transformers", "tokenizers"]


def test_the_first_token_waits_for_no_import_that_it_does_not_need(trained):
    home, _ = trained
    program = f"""
import runpy, sys
sys.argv = ["sample.py", "--prompt", "def", "--max-tokens", "1", "--device", "cpu"]
runpy.run_path({str(ROOT / "sample.py")!r}, run_name="__main__")
print([name for name in {HEAVY} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=home, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


CONTROL_CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r")


class Terminal:
    """A program in a pseudo-terminal: type into it, and wait for what it shows, control codes left out."""

    def __init__(self, directory, *command):
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.chdir(directory)
            os.environ["XDG_STATE_HOME"] = str(directory / "state")
            os.execv(command[0], list(command))
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("4H", 50, 160, 0, 0))  # no line is wrapped
        self.received = ""
        self.deadline = time.monotonic() + 60

    def type(self, text):
        os.write(self.terminal, text.encode())

    def expect(self, wanted):
        """Read on until `wanted` was shown after all that was expected before; what came before it."""
        while wanted not in (shown := CONTROL_CODES.sub("", self.received)):
            assert time.monotonic() < self.deadline, f"{wanted!r} never came, but {shown!r}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.received += os.read(self.terminal, 4096).decode(errors="replace")
        before, _, self.received = shown.partition(wanted)
        return before

    def exit_code(self):
        while (ended := os.waitpid(self.process, os.WNOHANG))[0] == 0:
            if time.monotonic() > self.deadline:
                os.kill(self.process, signal.SIGKILL)
            time.sleep(0.05)
        return os.waitstatus_to_exitcode(ended[1])


PROMPT = " tokens] >"


@pytest.fixture
def session_command(trained):
    run = trained[0] / "runs" / "python-nano"
    command = [sys.executable, str(ROOT / "sample.py"), "--device", "cpu", "--max-tokens", "12", "--seed", "1"]
    return [*command, "--run", str(run)]


def test_an_interactive_session_in_a_real_terminal(session_command, tmp_path):
    """Every command, a paste, Tab, Ctrl-C in mid-generation and at the prompt, Ctrl-D; then the history of it."""
    session = Terminal(tmp_path, *session_command)
    session.expect(PROMPT)
    type_every_command(session, tmp_path, session_command[-1])
    enter(session, "/max-tokens 1000000", "max_tokens is 1000000")
    session.type("too early\r\x03")  # Ctrl-C right after Enter, before the terminal is as it was
    session.expect("too early\n[temperature")  # the next prompt, and no continuation
    session.expect(PROMPT)
    session.type("class y\r")
    session.expect("\nclass y")  # no echo of what is typed, which stands behind the prompt: it is being continued
    session.type("\x03")  # Ctrl-C, in mid-generation
    session.expect("[stopped]")
    session.expect(PROMPT)
    session.type("never sent\x03")  # Ctrl-C at the prompt drops the line
    session.expect(PROMPT)
    session.type("\x04")  # Ctrl-D
    assert session.exit_code() == 0
    again = Terminal(tmp_path, *session_command)
    again.expect(PROMPT)
    again.type("\x1b[A")  # arrow up: the last line of the session before
    again.expect("class y")
    again.type("\x15\x04")
    assert again.exit_code() == 0


def type_every_command(session, directory, run):
    enter(session, "/help", "/why", "/temperature 0.7")
    for name, value in SETTINGS:
        shown = f"{name.removeprefix('repetition-')} {value}"
        enter(session, f"/{name} {value}", f"{name.replace('-', '_')} is {value}", shown)
    enter(session, "def x", "def x")
    enter(session, "")
    enter(session, "/undo", "back to: def x")
    enter(session, "/retry", "def x")
    enter(session, "/why", "%")
    enter(session, "/save story.txt", "story.txt: ")
    assert (directory / "story.txt").read_text().startswith("def x")
    enter(session, "/save story.txt", "is there already")
    enter(session, f"/load {run}", "python-nano, step")
    session.type("\x1b[200~class A:\n    pass\n\x1b[201~")  # a paste of two lines
    enter(session, "", "class A:", "    pass")
    session.type("/res\t\r")  # Tab completes
    session.expect("text forgotten")
    session.expect(PROMPT)


def enter(session, line, *expected):
    """Type a line; what is shown up to the next prompt has all that is expected, in this order."""
    session.type(line + "\r")
    for text in expected:
        session.expect(text)
    session.expect(PROMPT)


SETTINGS = [
    ("temperature", 0.7),
    ("top-k", 5),
    ("top-p", 0.9),
    ("min-p", 0.01),
    ("repetition-penalty", 1.1),
    ("seed", 3),
]


def test_an_interactive_session_in_a_pipe(trained):
    home, _ = trained
    lines = "def x\n/undo\n/nonsense\n/help\n"
    output = sample(home, "--interactive", "--max-tokens", 12, "--seed", 1, stdin=lines)
    for text in ("def x", "back to the beginning", "unknown command '/nonsense'", "/why"):
        assert text in output
    assert "\x1b" not in output


# ---- python -m gpt ----


def gpt(home, *arguments, code=0):
    """What `gpt COMMAND` prints; where it fails, what it complains of."""
    with mock.patch.object(sys, "argv", ["gpt", *map(str, arguments)]):
        actual, output, errors = in_process(gpt_main, home)
    assert actual == code, output + errors
    return output if code == 0 else errors


def test_gpt_is_also_a_module_to_run(tmp_path):
    command = [sys.executable, "-m", "gpt", "cost", "gpt2"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "124,439,808" in result.stdout


def test_gpt_train_and_sample_are_the_scripts(trained, dataset, tmp_path):
    home, _ = trained
    assert "--model.n-layer" in gpt(tmp_path, "train", "--help")
    options = ("--prompt", "def ", "--max-tokens", "9", "--seed", "1", "--device", "cpu")
    assert gpt(home, "sample", *options) == sample(home, *options)


def test_gpt_eval_gives_what_training_found(trained):
    home, output = trained
    evaluated = gpt(home, "eval", "--run", "runs/python-nano", "--device", "cpu")
    loss = re.search(r"validation loss +([\d.]+ ± [\d.]+) nats", evaluated)
    assert loss
    assert loss[1] in output


def test_gpt_export_writes_what_transformers_loads(trained, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    home, _ = trained
    refused = gpt(home, "export", "--run", "runs/python-nano", "--to", tmp_path / "exported", code=2)
    assert "cannot represent this model, which has model.positions rope" in refused
    exact = ("shakespeare-char-cpu", "--data", trained_data(home), "--steps", 2, *TINY, "--run-dir", "runs/exact")
    run_here("train.py", *exact, cwd=home)
    gpt(home, "export", "--run", "runs/exact", "--to", tmp_path / "exported")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert model.config.n_embd == 32
    assert tokenizer.encode("def f(x):") == list(b"def f(x):")
    assert "validation loss" in gpt(home, "eval", "--run", tmp_path / "exported", "--data", trained_data(home))


def trained_data(home):
    return json.loads((home / "runs" / "python-nano" / "config.json").read_text())["config"]["data"]


def test_gpt_cost_and_help(tmp_path):
    assert "1,557,611,200" in gpt(tmp_path, "cost", "gpt2-xl")
    assert "usage: gpt COMMAND" in gpt(tmp_path)
    assert "did you mean 'train'" in gpt(tmp_path, "trian", code=2)
    assert "did you mean 'gpt2'" in gpt(tmp_path, "cost", "gpt22", code=2)
