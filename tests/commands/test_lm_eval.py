import importlib.util
import json
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint

import pytest
from helpers import ROOT, python_text, run_gpt, saved_run

from gpt.commands.lm_eval import with_model

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed (the extra `eval`)",
)
AUTO = ["--batch_size", "auto", "--device", "auto"]
OURS = ["run", "--model", "gpt-run"]
TASK = """\
task: words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {home}/words.jsonl}}, cache_dir: {home}/cache}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["--tasks", "a"], [*OURS, "--tasks", "a", *AUTO]),
        (["run", "--tasks", "a"], [*OURS, "--tasks", "a", *AUTO]),
        (["-t", "a", "-b", "4", "--device=cpu"], [*OURS, "-t", "a", "-b", "4", "--device=cpu"]),
        (["--model", "hf", "--tasks", "a"], ["run", "--model", "hf", "--tasks", "a"]),
        (["--model=hf", "--tasks", "a"], ["run", "--model=hf", "--tasks", "a"]),
        (["--config", "a.yaml"], ["run", "--config", "a.yaml"]),
        (["run", "--help"], ["run", "--help"]),
        (["ls", "tasks"], ["ls", "tasks"]),
        (["validate", "--tasks", "a"], ["validate", "--tasks", "a"]),
    ],
)
def test_the_harness_gets_what_is_given_and_our_model_where_none_is_named(given, passed):
    assert with_model(given) == passed


def test_without_the_harness_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    complaint = run_gpt(tmp_path, "lm-eval", "--tasks", "lambada_openai", code=2)
    assert "error: lm-eval: lm-evaluation-harness is not installed: pip install 'gpt[eval]'" in complaint


@needs_harness
def test_the_entry_point_is_the_model_that_the_harness_loads_lazily():
    from lm_eval.api.model import LM
    from lm_eval.api.registry import Registry

    from gpt.apps.harness import HarnessModel

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    group = project["entry-points"]["lm_eval.models"]
    registry = Registry("models", base_cls=LM)
    registry.register("gpt-run", target=EntryPoint("gpt-run", group["gpt-run"], "lm_eval.models"))
    assert registry.get("gpt-run") is HarnessModel


@pytest.fixture
def home(tmp_path):
    """A run, and a task of three rows beside it."""
    saved_run(tmp_path / "runs", "one", noise=0.1, context=256)
    rows = [
        {"question": python_text()[at : at + 50], "choices": ["a", "the", "é"], "label": 1} for at in (0, 900, 1800)
    ]
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "words.yaml").write_text(TASK.format(home=tmp_path), encoding="utf-8")
    return tmp_path


@needs_harness
@pytest.mark.process  # the harness asks git for its version
def test_a_run_is_graded_by_a_command(home):
    given = ("--tasks", home / "words.yaml", "--device", "cpu", "--output_path", home / "found", "--log_samples")
    printed = run_gpt(home, "lm-eval", "--model_args", "run=one", *given)
    assert "gpt-run ({'run': 'one'})" in printed
    assert "|words|" in printed.replace(" ", "")
    (results,) = (home / "found").rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["words"]["sample_len"] == 3
    assert len(next((home / "found").rglob("samples_words_*.jsonl")).read_text().splitlines()) == 3


@needs_harness
@pytest.mark.slow  # the harness reads all of its tasks each time
@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (("--tasks", "no-such-task"), "error: lm-eval: Tasks not found: no-such-task"),
        (("--tasks", "words.yaml", "--model_args", "run=two"), "two"),
        (("--tasks", "words.yaml", "--model_args", "pretrained=gpt2"), "error: model_args: there is no pretrained"),
        (("--tasks", "words.yaml", "--model", "gpt-walk"), "error: lm-eval: "),
        (("--model_args", "run=one"), "error: lm-eval: No tasks specified"),
    ],
)
def test_what_cannot_be_graded_is_a_sentence(home, given, complaint):
    found = run_gpt(home, "lm-eval", *given, code=2)
    assert complaint in found.splitlines()[-1]
    assert "Traceback" not in found


@needs_harness
@pytest.mark.process
def test_the_harness_keeps_its_own_models_beside_ours():
    asked = "import gpt.apps.harness; from lm_eval.api.registry import get_model; "
    asked += "print(get_model('dummy').__name__, get_model('gpt-run').__name__)"
    found = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["DummyLM", "HarnessModel"], found.stderr
