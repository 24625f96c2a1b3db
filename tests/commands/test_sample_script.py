"""sample.py as a person runs it, with prompts from options, files and pipes."""

import json
import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT, run_gpt, run_sample
from processes import Script

from gpt.runs.checkpoint import list_checkpoints, step_of


def test_a_prompt_is_continued_from_option_file_and_standard_input(trained, tmp_path):
    home, _ = trained
    (tmp_path / "prompt.txt").write_text("def ")
    options = ("--run", "runs/python-nano", "--max-tokens", 20, "--seed", 1)
    by_option = run_sample(home, *options, "--prompt", "def ")
    assert len(by_option.encode()) >= 10
    assert run_sample(home, *options, "--prompt-file", tmp_path / "prompt.txt") == by_option
    assert run_sample(home, *options, stdin="def ") == by_option
    for line_end in ("\n", "\r\n"):  # which echo adds
        assert run_sample(home, *options, stdin=f"def {line_end}") == by_option
    assert run_sample(home, *options, stdin="def \n\n") == run_sample(home, *options, "--prompt", "def \n")
    (tmp_path / "prompt.txt").write_text("def \n")  # a file is taken as it stands
    assert run_sample(home, *options, "--prompt-file", tmp_path / "prompt.txt") != by_option


def test_json_is_an_object_per_sample_and_line(trained):
    home, _ = trained
    lines = run_sample(home, "--prompt", "def ", "--samples", 3, "--max-tokens", 15, "--seed", 1, "--json").splitlines()
    objects = [json.loads(line) for line in lines]
    assert len(objects) == 3
    for thing in objects:
        keys = {"run", "prompt", "seed", "sample", "text", "ids", "finish_reason", "tokens_per_second"}
        assert set(thing) == keys
        assert re.fullmatch(r"runs/python-nano, step \d+", thing["run"])
        assert thing["prompt"] == "def "
        assert thing["finish_reason"] in ("stop", "length")
        assert len(thing["ids"]) <= 15
        assert bytes(thing["ids"]).decode(errors="replace") == thing["text"]
    alone = run_sample(home, "--prompt", "def ", "--max-tokens", 15, "--seed", 1, "--json")
    assert json.loads(alone)["ids"] == objects[0]["ids"]
    plain = run_sample(home, "--prompt", "def ", "--samples", 3, "--max-tokens", 15, "--seed", 1)
    assert plain.split("\n--- sample ")[0].rstrip("\n") == objects[0]["text"].rstrip("\n")


def test_what_is_printed_can_be_drawn_again(trained):
    """The seed by chance is in the JSON; a text has it, and the run, on standard error."""
    home, _ = trained
    options = ("--prompt", "def ", "--max-tokens", 15)
    first, second = map(json.loads, run_sample(home, *options, "--samples", 2, "--json").splitlines())
    assert first["seed"] == second["seed"]
    again = run_sample(home, *options, "--samples", 2, "--json", "--seed", first["seed"]).splitlines()
    assert [json.loads(line)["text"] for line in again] == [first["text"], second["text"]]
    said = run_sample(home, *options, both=True)
    assert re.search(r"^using runs/python-nano, step \d+$", said, re.MULTILINE)
    seed = re.search(r"the same again: --seed (\d+)\n$", said)[1]
    text = run_sample(home, *options, "--seed", seed)
    assert text in said
    assert "again" not in run_sample(home, *options, "--seed", seed, both=True)
    assert "using" not in run_sample(home, *options, "--run", "runs/python-nano", both=True)


def test_a_byte_order_mark_is_no_part_of_a_prompt(trained, tmp_path):
    home, _ = trained
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbfdef read")
    options = ("--max-tokens", 2, "--json")
    for given in (("--prompt-file", tmp_path / "bom"), ("--prompts", tmp_path / "bom")):
        assert json.loads(run_sample(home, *options, *given))["prompt"] == "def read"
    for given in ((), ("--prompts", "-")):
        assert json.loads(run_sample(home, *options, *given, stdin="\ufeffdef read"))["prompt"] == "def read"


def test_prompts_can_be_piped(trained, tmp_path):
    home, _ = trained
    lines = 'def \n\n"a\\n"\n'
    made = run_sample(home, "--prompts", "-", "--max-tokens", 3, "--json", stdin=lines).splitlines()
    assert [json.loads(line)["prompt"] for line in made] == ["def ", "a\n"]
    assert "has no prompt" in run_sample(home, "--prompts", "-", code=2, stdin="\n")


def test_a_checkpoint_can_be_named(trained):
    home, _ = trained
    steps = [step_of(path) for path in list_checkpoints(home / "runs" / "python-nano")]
    for wanted, step in (("last", steps[-1]), (steps[0], steps[0])):
        options = ("--run", "runs/python-nano", "--checkpoint", wanted, "--max-tokens", 2, "--json")
        made = json.loads(run_sample(home, "--prompt", "def ", *options))
        assert made["run"] == f"runs/python-nano, step {step}"
    assert "has best, last and the steps" in run_sample(home, "--prompt", "x", "--checkpoint", "first", code=2)


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
def test_standard_output_has_json_alone_whatever_the_compiler_does(trained, tmp_path, fails):
    home, _ = trained
    (tmp_path / "program.py").write_text(COMPILE.format(fails=fails))
    errors = tmp_path / "errors"
    program = Script(tmp_path / "program.py", cwd=home, output=tmp_path / "output", errors=errors, OMP_NUM_THREADS="1")
    code, said = program.end(), errors.read_text()
    for noise in ("noise of a library", "noise of Python", "noise of a program"):
        assert noise in said
    if fails:
        assert (code, program.said()) == (2, "")
        assert "torch.compile does not work here" in said
        assert "--compile" in said
    else:
        assert code == 0, said
        assert [len(json.loads(line)["ids"]) for line in program.said().splitlines()] == [3]


def test_prompts_of_a_file_are_continued_each_as_if_alone(trained, tmp_path):
    home, _ = trained
    prompts = ["def ", "class A:\n    pass", '"quoted" text', "", "def "]
    lines = ["def ", json.dumps(prompts[1]), '"quoted" text', '""', "", "def "]
    (tmp_path / "prompts").write_text("\n".join(lines) + "\n")
    options = ("--max-tokens", 15, "--seed", 1, "--samples", 2, "--json")
    made = [json.loads(line) for line in run_sample(home, "--prompts", tmp_path / "prompts", *options).splitlines()]
    assert [thing["prompt"] for thing in made] == [prompt for prompt in prompts for _ in range(2)]
    for batch in (1, 3):
        again = run_sample(home, "--prompts", tmp_path / "prompts", *options, "--batch", batch).splitlines()
        assert [json.loads(line)["ids"] for line in again] == [thing["ids"] for thing in made]
    alone = [json.loads(line) for line in run_sample(home, "--prompt", prompts[1], *options).splitlines()]
    assert [thing["text"] for thing in alone] == [thing["text"] for thing in made[2:4]]
    text = run_sample(home, "--prompts", tmp_path / "prompts", "--max-tokens", 5, "--samples", 2, "--echo")
    assert "--- prompt 2 of 5, sample 1 of 2 ---\nclass A:\n    pass" in text


def test_log_probabilities_and_greedy(trained):
    home, _ = trained
    options = ("--prompt", "def ", "--max-tokens", 6, "--json", "--greedy")
    line = json.loads(run_sample(home, *options, "--logprobs", 2, "--echo"))
    assert [token["text"] for token in line["prompt_tokens"]] == ["d", "e", "f", " "]
    assert line["prompt_tokens"][0]["logprob"] is None
    for token in line["tokens"]:
        assert token["top_logprobs"][0]["id"] == token["id"]  # greedy takes the likeliest
        assert token["top_logprobs"][0]["logprob"] == token["logprob"]
        assert len(token["top_logprobs"]) == 2
    assert [token["id"] for token in line["tokens"]] == line["ids"]
    assert json.loads(run_sample(home, *options[:-1], "--temperature", 0))["ids"] == line["ids"]
    assert "\\ud" not in run_sample(
        home, "--prompt", "\udcff", *options[2:]
    )  # what a shell makes of a byte that is not UTF-8
    shown = run_sample(home, "--prompt", "def ", "--max-tokens", 6, "--greedy", "--logprobs", 1).splitlines()
    assert repr(line["tokens"][-1]["text"]) in shown[-1]
    assert f"{line['tokens'][-1]['logprob']:.3f}" in shown[-1]


def test_a_stop_text_ends_it(trained):
    home, _ = trained
    options = ("--prompt", "def ", "--max-tokens", 60, "--seed", 1, "--json")
    text = json.loads(run_sample(home, *options))["text"]
    stopped = json.loads(run_sample(home, *options, "--stop", text[5:8], "--stop", "never to be seen"))
    assert stopped["text"] == text[: text.index(text[5:8])]
    assert stopped["finish_reason"] == "stop"


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
        (("--compile", "--dtype", "float16"), "--compile: is for float32 and bfloat16"),
        (("--run", "runs/python-nan"), "did you mean 'runs/python-nano'"),
    ],
)
def test_bad_values_are_refused_with_the_allowed_range(trained, options, message):
    home, _ = trained
    output = run_sample(home, "--prompt", "x", *options, code=2)
    assert message in " ".join(output.split())


def test_without_any_run_the_error_says_what_to_do(tmp_path):
    assert "train one first (python train.py)" in run_sample(tmp_path, "--prompt", "x", code=2)
    assert "train one first (gpt train)" in run_gpt(tmp_path, "sample", "--prompt", "x", code=2)


HEAVY = ["torch._dynamo", "torch.distributed.fsdp", "sympy", "matplotlib", "wandb", "transformers", "tokenizers"]


def test_the_first_token_waits_for_no_import_that_it_does_not_need(trained):
    """Nor does a training load at its beginning what draws or tells of it: of wandb, it may have no use."""
    home, _ = trained
    program = f"""
import runpy, sys
sys.argv = ["sample.py", "--prompt", "def", "--max-tokens", "1", "--device", "cpu"]
runpy.run_path({str(ROOT / "sample.py")!r}, run_name="__main__")
print([name for name in {HEAVY} if name in sys.modules])
import train
print([name for name in ("matplotlib", "wandb") if name in sys.modules])
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=home, capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.splitlines()[-2:] == ["[]", "[]"]


def test_a_text_is_the_same_without_guesses(trained):
    home, _ = trained
    options = (
        "--prompt",
        "def f(a, b):\n    return a",
        "--max-tokens",
        90,
        "--seed",
        1,
        "--device",
        "cpu",
        "--logprobs",
        0,
    )
    guessed, plain = (json.loads(run_sample(home, *options, "--json", *more)) for more in ((), ("--no-speculative",)))
    assert guessed.pop("tokens_per_second") and plain.pop("tokens_per_second")
    assert guessed == plain
    refused = run_sample(home, "--interactive", "--no-speculative", code=2)
    assert "--no-speculative: needs a prompt" in refused


def test_gpt_train_and_sample_are_the_scripts(trained, dataset, tmp_path):
    home, _ = trained
    assert "--model.n-layer" in run_gpt(tmp_path, "train", "--help")
    options = ("--prompt", "def ", "--max-tokens", "9", "--seed", "1", "--device", "cpu")
    assert run_gpt(home, "sample", *options) == run_sample(home, *options)
