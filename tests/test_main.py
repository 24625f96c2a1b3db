"""`gpt` itself: commands, help and mistyped names."""

import ast
import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
from importlib.metadata import version
from itertools import pairwise
from unittest import mock

import pytest
from helpers import ROOT, in_process, run_gpt

from gpt.__main__ import COMMANDS, main
from gpt.commands.prepare import RECIPES


def call(*arguments, home=ROOT, code=0):
    actual, output, errors = in_process(lambda: main(arguments), home)
    assert actual == code, output + errors
    return output if code == 0 else errors


def test_usage_lists_every_command_with_what_it_does(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpt"])
    usage = call()
    assert usage == call("--help") == call("-h") == call("help")
    assert usage.startswith("usage: gpt COMMAND [options]\n")
    assert max(map(len, usage.splitlines())) < 120
    for command, module in COMMANDS.items():
        tree = ast.parse((ROOT / "gpt" / "commands" / f"{module}.py").read_text(encoding="utf-8"))
        summary = ast.get_docstring(tree).splitlines()[0]
        assert f"  {command:9} {summary.rstrip('.')}\n" in usage


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    assert call("help", command) == call(command, "--help")
    assert call(command, "--help").startswith(f"usage: gpt {command} ")


def test_help_names_flags_and_no_default_that_says_nothing(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for command in HELPS:
        text = " ".join(call(*command, "--help").split())
        assert "{None}" not in text and not re.search(r"\(default: ?(None|False)?\)", text), command
    assert "multiple of --model.context-length" in " ".join(call("train", "--help").split())
    assert "(default: best)" in " ".join(call("sample", "--help").split())


@pytest.mark.process
def test_what_takes_long_to_import_is_not_imported_before_ctrl_c_is_heard():
    program = "import sys, gpt.__main__; print({'ast', 'importlib.metadata', 'torch'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


HELPS = [(command,) for command in COMMANDS] + [("prepare", recipe) for recipe in RECIPES]
HELPS += [("tokenizer", name) for name in ("train", "show", "compare")]
HELPS += [("data", name) for name in ("verify", "show")]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_fills_its_lines_and_none_is_too_long(command, columns, monkeypatch):
    """A text of several lines in the source has its line ends in the help, too: such a text is one line."""
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = [line for line in call(*command, "--help").splitlines() if not line.startswith("usage: ")]
    sentences = [part for line in lines for part in line.split(". ")]  # tyro 1.0 puts all paragraphs into a line
    assert max(map(len, sentences)) <= columns
    for line, following in pairwise(lines):
        indent = len(following) - len(following.lstrip())
        if indent > 5 and following.strip() and line[:indent].endswith("  ") and line[indent:].strip():
            assert len(f"{line.rstrip()} {following.split()[0]}") > len(line) - 1, following


def test_help_has_no_frames():
    """Nor where the output could show them."""
    output = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        main(["data", "show", "--help"])
    output.seek(0)
    lines = output.read().splitlines()
    assert [line.strip() for line in lines].count("options") == 1
    assert not any({"│", "─", "╭", "╰"}.intersection(line) for line in lines)


OTHERS = {
    "torchrun": "--max-restarts --nnodes --nproc-per-node --rdzv-backend --rdzv-endpoint --rdzv-id --signals-to-handle"
}
OTHERS |= {
    "sbatch": "--array",
    "sha256sum": "--check",
    "benchmarks": "--nanogpt --texts",
    "hf": "--revision --local-dir",
    "vllm": "--model-impl",
    "llama-completion": "--reverse-prompt",
    "ct2-transformers-converter": "--output_dir --quantization",
    "optimum-cli": "--task",
}


def test_every_flag_that_readme_docs_and_messages_name_is_there():
    known = set(" ".join(OTHERS.values()).split())
    for command in HELPS:
        known.update(re.findall(r"--[a-z][\w.-]*", call(*command, "--help")))
    messages = [file for file in (ROOT / "gpt").rglob("*.py") if file.name != "other_names.py"]
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *messages]:
        named = re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", file.read_text(encoding="utf-8"))
        assert set(named) <= known, file.name


def test_the_version_is_told():
    assert call("--version") == call("-V") == f"gpt {version('gpt')}\n"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trian", "error: unknown command 'trian'; did you mean 'train'?\n"),
        ("list", "error: unknown command 'list'; did you mean 'runs'?\n"),
        ("finetune", "error: unknown command 'finetune'; did you mean 'train finetune'?\n"),
        ("halp", "error: unknown command 'halp'; did you mean 'help'?\n"),
        ("xyz", "error: unknown command 'xyz'; known are: prepare, train, tune, sample, "),
    ],
)
def test_a_mistyped_command_is_told(word, said):
    assert call(word, code=2).startswith(said)
    assert call("help", word, code=2).startswith(said)


@pytest.mark.process
@pytest.mark.parametrize("arguments", [(), ("--version",), ("trian",)])
def test_help_and_mistakes_wait_for_no_library(arguments):
    code = f"""
import sys
from gpt.__main__ import main
try:
    main({arguments!r} or ["--help"])
except SystemExit:
    pass
print({{"torch", "tyro", "numpy"}} & sys.modules.keys())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.endswith("set()\n")


@pytest.mark.process
def test_commands_that_compute_nothing_wait_for_no_torch(tmp_path):
    """It takes more than a second, and 180 MB."""
    (tmp_path / "text.txt").write_text("A text of some words. " * 200)
    code = """
import sys
from gpt.__main__ import main
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as end:
        assert not end.code, line
print({"torch"} & sys.modules.keys())
"""
    lines = ["prepare --help", "prepare files --help", "tokenizer --help", "tokenizer show abc --tokenizer bytes"]
    lines += ["data --help", "data show --help", "prepare files --input text.txt --name own --tokenizer bytes"]
    lines += ["data verify data/own", "data show data/own"]
    command = [sys.executable, "-c", code, *lines]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert result.stdout.endswith("set()\n"), result.stdout + result.stderr


@pytest.mark.process
def test_gpt_is_also_a_module_to_run(tmp_path):
    """And the module calls a command, which is seen in this process, where libraries are loaded."""
    command = [sys.executable, "-m", "gpt", "--help"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "usage: gpt COMMAND" in result.stdout
    with mock.patch.object(sys, "argv", ["gpt", "cost", "gpt2"]), mock.patch.dict(sys.modules):
        del sys.modules["gpt.__main__"]
        code, output, _ = in_process(lambda: runpy.run_module("gpt", run_name="__main__"), tmp_path)
    assert (code, "124,439,808" in output) == (0, True)


def test_gpt_cost_and_help(tmp_path):
    assert "1,557,611,200" in run_gpt(tmp_path, "cost", "gpt2-xl")
    assert "usage: gpt COMMAND" in run_gpt(tmp_path)
    assert "did you mean 'train'" in run_gpt(tmp_path, "trian", code=2)
    assert "did you mean 'gpt2'" in run_gpt(tmp_path, "cost", "gpt22", code=2)
