"""`gpt eval --task core=BUNDLE`, as a person calls it."""

import hashlib
import json
import re
import zipfile

import pytest
from core_files import CHOICES, TASKS, write_bundle
from helpers import run_gpt, saved_run


def evaluate(*arguments, cwd, code=0):
    return run_gpt(cwd, "eval", "--device", "cpu", *arguments, code=code)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two runs that find different answers, and a bundle to grade them by."""
    home = tmp_path_factory.mktemp("graded")
    saved_run(home, "one", noise=0.5)
    saved_run(home, "two", noise=-0.5)
    write_bundle(home / "eval_bundle")
    return home


def test_core_stands_beside_its_error_tasks_bundle_and_protocol(home):
    output = evaluate("--run", "one", "--task", "core=eval_bundle", cwd=home)
    assert "on core\n" in output
    assert re.search(r"^CORE +-?0\.\d{4} ± 0\.\d{4} \(95 %: -?0\.\d{4} to -?0\.\d{4}\)$", output, re.M)
    assert re.search(r"^mean of +4 tasks, each \(acc − chance\) / \(1 − chance\)$", output, re.M)
    names = sorted(p for p in (home / "eval_bundle").rglob("*") if p.is_file())
    lines = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(home / 'eval_bundle').as_posix()}\n"
        for path in names
    )
    assert f"eval_bundle, SHA-256 {hashlib.sha256(lines.encode()).hexdigest()}" in output
    assert re.search(r"^protocol +CORE as nanochat computes it: .*, weights float32$", output, re.M)
    assert re.search(r"^standard errors +of 36 rows of 3 files, taken as independent$", output, re.M)
    figures = r"[01]\.\d{4} ± 0\.\d{4} +-?\d\.\d{4}"
    assert re.search(rf"^choose +multiple_choice +2 +14 +0\.3330 +{figures} +14$", output, re.M)
    assert re.search(rf"^refer +schema +1 +12 +0\.5000 +{figures} +\d+$", output, re.M)
    assert re.search(rf"^go_on +language_modeling +2 +10 +0\.0000 +{figures} +\d+$", output, re.M)
    assert "whose beginning is not seen" in output
    assert re.search(r"^GPT-2, published +124M +355M +774M +1.5B$", output, re.M)
    assert re.search(r"^CORE +0\.1139  0\.1849  0\.2146  0\.2565  not comparable: of all rows", output, re.M)


def test_json_has_all_of_it_and_runs_are_compared_on_the_same_rows(home):
    given = ("--run", "one", "--against", "two", "--task", "core=eval_bundle")
    found = json.loads(evaluate(*given, "--json", cwd=home))
    assert (found["task"], found["rows"], len(found["runs"])) == ("core", 50, 2)
    one, two = found["runs"]
    assert one["core"]["value"] == pytest.approx(sum(task["centered"] for task in one["tasks"]) / 4)
    assert one["minus_the_first"] == {}
    assert [task["minus_the_first"] for task in one["tasks"]] == [None] * 4
    minus = two["minus_the_first"]["core"]
    assert minus["value"] == pytest.approx(two["core"]["value"] - one["core"]["value"])
    assert minus["se"] > 0
    for first, other in zip(one["tasks"], two["tasks"], strict=True):
        assert other["minus_the_first"]["value"] == pytest.approx(other["acc"]["value"] - first["acc"]["value"])
        assert (other["chance"], other["rows"]) == (first["chance"], first["rows"])
    alone = json.loads(evaluate("--run", "two", "--task", "core=eval_bundle", "--json", cwd=home))["runs"][0]
    assert alone["core"] == two["core"]
    assert found["published"] == [
        {
            "metric": "core",
            "task": "CORE",
            "same_protocol": False,
            "gpt2": {"124M": 0.1139, "355M": 0.1849, "774M": 0.2146, "1.5B": 0.2565},
            "source": "karpathy/nanochat, dev/estimate_gpt3_core.ipynb",
        }
    ]
    output = evaluate(*given, cwd=home)
    verdict = "(better than|worse than|cannot be told from) .*one, step 1"
    assert re.search(rf"^… CORE +[+-]0\.\d{{4}} ± 0\.\d{{4}} .*: {verdict}$", output, re.M)
    assert re.search(r"^refer .* [+-]0\.\d{4} ± 0\.\d{4}$", output, re.M)


def test_an_archive_is_the_same_bundle(home):
    with zipfile.ZipFile(home / "bundle.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((home / "eval_bundle").rglob("*")):
            archive.write(path, path.relative_to(home))
        archive.writestr("__MACOSX/eval_bundle/._core.yaml", "x")
    one, two, three = (
        json.loads(evaluate("--run", "one", "--task", f"core={name}", "--json", cwd=home))
        for name in ("eval_bundle", "bundle.zip", ".")
    )
    assert one["runs"] == two["runs"] == three["runs"]
    assert one["files"][0]["sha256"] == two["files"][0]["sha256"] == three["files"][0]["sha256"]


def changed(home, name, **files):
    """A bundle with other files."""
    directory = write_bundle(home / name)
    for file, content in files.items():
        path = directory / {"yaml": "core.yaml", "csv": "eval_meta_data.csv"}.get(file, f"eval_data/kind/{file}.jsonl")
        path.unlink() if content is None else path.write_text(content, encoding="utf-8")
    return f"core={directory.name}"


ENTRY = '{"label": "x", "dataset_uri": "kind/refer.jsonl", "icl_task_type": "schema", "num_fewshot": [0]}'


def tasks_yaml(*entries):
    return "icl_tasks:\n" + "".join(f"- {entry}\n" for entry in entries)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"yaml": None}, "has no core.yaml; name the directory eval_bundle"),
        ({"csv": None}, "eval_meta_data.csv: is not there; the bundle is not whole"),
        ({"refer": None}, "eval_data/kind/refer.jsonl: is not there"),
        ({"yaml": "icl_tasks: [\n- {"}, "core.yaml: is no YAML (while parsing"),
        ({"yaml": "[" * 1500}, "core.yaml: is no YAML ("),
        ({"yaml": "tasks: []"}, "core.yaml: has no list of tasks, 'icl_tasks'"),
        ({"yaml": "!!python/object/apply:os.getcwd []"}, "core.yaml: is no YAML ("),
        ({"yaml": tasks_yaml("7")}, "core.yaml, task 1: is no mapping"),
        ({"yaml": tasks_yaml('{"label": "x"}')}, "task 1: it has no 'dataset_uri'; its own are: label"),
        (
            {"yaml": tasks_yaml(ENTRY.replace("schema", "generation"))},
            "core.yaml, task 1: x: its 'icl_task_type' is 'generation'; known are multiple_choice, schema",
        ),
        (
            {"yaml": tasks_yaml(ENTRY.replace("[0]", "[0, 5]"))},
            "x: its 'num_fewshot' is [0, 5]; it must be a list of one number",
        ),
        ({"yaml": tasks_yaml(ENTRY)}, "eval_meta_data.csv: has no line for 'x', a task of core.yaml"),
        (
            {"yaml": tasks_yaml(ENTRY.replace('"x"', '"refer"').replace("[0]", "[12]"))},
            "core.yaml, task 1: 'num_fewshot' is 12; ",
        ),
        ({"yaml": tasks_yaml(*2 * [ENTRY.replace('"x"', '"refer"')])}, "two tasks that are called 'refer'"),
        ({"csv": "Eval Task,Baseline\n"}, "eval_meta_data.csv, line 1: has no column 'Random baseline'"),
        ({"csv": "Eval Task,Random baseline\nchoose,much\n"}, "line 2: its 'Random baseline' is 'much'"),
        ({"csv": "Eval Task,Random baseline\nchoose,100\n"}, "line 2: its 'Random baseline' is '100'"),
        ({"csv": "Eval Task,Random baseline\nchoose,nan\n"}, "line 2: its 'Random baseline' is 'nan'"),
        ({"csv": "Eval Task,Random baseline\nchoose\n"}, "line 2: its 'Random baseline' is ''"),
        ({"choose": json.dumps(CHOICES[0]) + "\n{"}, "choose.jsonl, line 2: is no JSON"),
        (
            {"choose": '{"query": "a", "choices": ["b", "c"]}'},
            "line 1: is not a row of choose, multiple_choice: its 'gold'",
        ),
        (
            {"choose": '{"query": "a", "choices": ["b", "c"], "gold": 2}'},
            "its 'gold' is 2; it must be a number from 0 to 1",
        ),
        ({"choose": '{"query": "a", "choices": ["b"], "gold": 0}'}, "its 'choices' must be a list of at least 2 texts"),
        (
            {"choose": '{"query": "a", "choices": ["b", null], "gold": 0}'},
            "its 'choices' has something that is no text",
        ),
        ({"choose": '{"choices": ["b", "c"], "gold": 0}'}, "it has no 'query'; its own are: choices, gold"),
        (
            {"refer": '\n{"context_options": "ab", "continuation": "", "gold": 0}'},
            "refer.jsonl, line 2: is not a row of",
        ),
        (
            {"go_on": '{"context": ["a"], "continuation": "b"}'},
            "go_on.jsonl, line 1: is not a row of go_on, language_m",
        ),
        ({"choose": ""}, "core.yaml, task 1: 'num_fewshot' is 2; "),
    ],
)
def test_a_bundle_that_is_none_names_file_and_line(home, tmp_path_factory, files, complaint):
    place = tmp_path_factory.mktemp("changed")
    named = changed(place, "bundle", **files)
    said = evaluate("--run", home / "one", "--task", named, cwd=place, code=2)
    assert complaint in said
    assert "bundle" in said


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (("--task", "core"), "--task core: CORE is read from its bundle; get eval_bundle, and say core=eval_bundle"),
        (("--task", "core="), "--task core=: CORE is read from its bundle"),
        (("--task", "core=no"), "--task core=no: there is no no"),
        (
            ("--task", "core=eval_bundle/core.yaml"),
            "is neither CORE's bundle, a directory with core.yaml, nor a whole ZIP",
        ),
        (("--task", "core=eval_bundle", "--shots", "2"), "--shots: CORE's bundle says how many examples"),
        (("--task", "core=eval_bundle", "--seed", "2"), "say which examples --shots draws"),
        (("--task", "core=eval_bundle", "--text", "x"), "--task has rows of its own"),
        (("--task", "coer"), "did you mean 'core'?"),
    ],
)
def test_what_cannot_be_is_a_sentence(home, given, complaint):
    assert complaint in evaluate("--run", "one", *given, cwd=home, code=2)


def test_compare_names_the_command_that_does(home):
    said = run_gpt(home, "compare", "--device", "cpu", "one", "two", "--task", "core=eval_bundle", code=2)
    assert "by CORE, runs are compared by gpt eval --against" in said


def test_numbers_are_taken_as_texts(tmp_path, home):
    rows = [{"context": f"{i}+1=", "continuation": i + 1} for i in range(4)]
    settings = {"icl_task_type": "language_modeling", "num_fewshot": 1}
    write_bundle(tmp_path / "numbers", {"sums": (settings, "0", rows)})
    given = ("--task", "core=numbers", "--json")
    found = json.loads(evaluate("--run", home / "one", *given, cwd=tmp_path))
    assert found["runs"][0]["tasks"][0]["shots"] == 1
    assert TASKS.keys().isdisjoint({found["runs"][0]["tasks"][0]["task"]})
