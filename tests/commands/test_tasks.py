"""`gpt eval --task`, as a person calls it."""

import hashlib
import json
import re

import pytest
from helpers import run_gpt, saved_run

from gpt.commands import tasks
from gpt.corpus.download import RemoteFile
from gpt.evaluation.tasks.rows import KINDS
from gpt.text.tokenizer import Tokenizer

LAMBADA = [{"text": f"word {'and so ' * (i % 9)}on {i}"} for i in range(12)]
QUESTIONS = [{"context": f"{i}+1=", "choices": [str(i + 10), "mn", "é"], "label": i % 3} for i in range(12)]


def evaluate(*arguments, cwd, code=0):
    return run_gpt(cwd, "eval", "--device", "cpu", *arguments, code=code)


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two runs that find different answers, and rows to grade them by."""
    home = tmp_path_factory.mktemp("graded")
    saved_run(home, "one", noise=0.5)
    saved_run(home, "two", noise=-0.5)
    written(home / "questions.jsonl", QUESTIONS)
    written(home / "last.jsonl", LAMBADA)
    return home


def test_figures_stand_beside_their_errors_rows_file_and_protocol(home):
    output = evaluate("--run", "one", "--task", "questions.jsonl", cwd=home)
    assert "on rows\n" in output
    for name in ("acc", "acc_norm", "acc_bytes"):
        assert re.search(rf"^{name} +0\.\d{{4}} ± 0\.\d{{4}} \(95 %: 0\.\d{{4}} to 0\.\d{{4}}\)$", output, re.M)
    digest = hashlib.sha256((home / "questions.jsonl").read_bytes()).hexdigest()
    assert re.search(rf"^file +questions.jsonl, SHA-256 {digest}$", output, re.M)
    assert re.search(r"^rows +12$", output, re.M)
    assert re.search(r"^protocol +rows of a file, 0-shot, weights float32$", output, re.M)
    assert re.search(r"^prompt +the context, and a choice after a space", output, re.M)
    assert "standard errors  of 12 rows, taken as independent" in output
    assert "GPT-2, published" not in output


def test_published_figures_stand_beside_a_task_and_say_what_compares(home):
    output = evaluate("--run", "one", "--task", "lambada=last.jsonl", cwd=home)
    assert re.search(r"^perplexity +\d+\.\d\d ± \d+\.\d\d \(95 %: .*\)$", output, re.M)
    assert re.search(r"^protocol +lm-eval lambada_openai 1.0, 0-shot", output, re.M)
    assert re.search(r"^GPT-2, published +124M +355M +774M +1.5B$", output, re.M)
    assert re.search(r"^acc +0.3256 +– +– +–  not comparable: lm-eval lambada_openai 1.0, 0-shot", output, re.M)
    assert re.search(r"^perplexity +35.13 +15.60 +10.87 +8.63  not comparable: last token", output, re.M)


def test_rows_longer_than_the_context_are_counted(home):
    output = evaluate("--run", "one", "--task", "lambada=last.jsonl", cwd=home)
    cut = sum(len(row["text"]) > 48 for row in LAMBADA)
    assert cut
    assert re.search(rf"^cut +{cut} rows are longer than the context", output, re.M)


def test_json_has_all_of_it_and_runs_are_compared_on_the_same_rows(home):
    given = ("--run", "one", "--against", "two", "--task", "questions.jsonl")
    found = json.loads(evaluate(*given, "--json", cwd=home))
    assert (found["task"], found["rows"], len(found["runs"])) == ("rows", 12, 2)
    one, two = found["runs"]
    assert one["minus_the_first"] == {}
    for name in ("acc", "acc_norm", "acc_bytes"):
        values = [run["metrics"][name]["value"] for run in found["runs"]]
        minus = two["minus_the_first"][name]
        assert minus["value"] == pytest.approx(values[1] - values[0])
        assert minus["right_alone"][1] - minus["right_alone"][0] == pytest.approx(12 * minus["value"])
        assert 0 < minus["mcnemar_p"] <= 1
    alone = json.loads(evaluate("--run", "two", "--task", "questions.jsonl", "--json", cwd=home))["runs"][0]
    assert alone["metrics"] == two["metrics"]
    output = evaluate(*given, cwd=home)
    verdict = "(better than|worse than|cannot be told from) .*one, step 1"
    assert re.search(rf"^… acc_norm +[+-]0\.\d{{4}} ± 0\.\d{{4}} .*: {verdict}; right where that", output, re.M)


def test_examples_change_the_prompts_and_are_named(home):
    given = ("--run", "one", "--task", "questions.jsonl", "--json")
    found = [
        json.loads(evaluate(*given, *more, cwd=home))
        for more in ((), ("--shots", 1), ("--shots", 1, "--seed", 2), ("--shots", 1, "--shots-from", "questions.jsonl"))
    ]
    assert [each["protocol"].partition(", SHA")[0] for each in found] == [
        "rows of a file, 0-shot",
        "rows of a file, 1-shot (seed 1234, from its other rows)",
        "rows of a file, 1-shot (seed 2, from its other rows)",
        "rows of a file, 1-shot (seed 1234, from questions.jsonl",
    ]
    assert json.loads(evaluate(*given, "--shots", 1, cwd=home)) == found[1]
    perplexities = [
        json.loads(evaluate("--run", "one", "--task", "lambada=last.jsonl", "--json", *more, cwd=home))["runs"][0]
        for more in ((), ("--shots", 1), ("--shots", 1, "--seed", 2))
    ]
    assert len({each["metrics"]["perplexity"]["value"] for each in perplexities}) == 3


def test_a_named_task_is_downloaded_once_and_read(home, monkeypatch):
    path = written(home / "published.jsonl", LAMBADA)
    asked = []
    file = RemoteFile("https://example.org/lambada_test.jsonl", "lambada_test.jsonl")
    monkeypatch.setitem(tasks.FILES, "lambada", (file,))
    monkeypatch.setattr(tasks, "download", lambda files, directory: asked.append((*files, str(directory))) or [path])
    found = json.loads(evaluate("--run", "one", "--task", "lambada", "--json", cwd=home))
    assert asked == [(file, "data/.downloads")]
    assert found["rows"] == 12
    assert found["files"][0]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_task_has_a_file_whose_hash_is_known():
    assert tasks.FILES.keys() == KINDS.keys()
    for files in tasks.FILES.values():
        assert all(re.fullmatch(r"[0-9a-f]{64}", file.sha256) for file in files)
    names = [file.name for files in tasks.FILES.values() for file in files]
    assert len({*names}) == len(names)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (("--task", "helaswag"), "--task helaswag: is no file, and no task by that name; did you mean 'hellaswag'?"),
        (("--task", "piqa=no.jsonl"), "--task piqa=no.jsonl: there is no no.jsonl; piqa alone downloads it"),
        (("--task", "piqa=last.jsonl"), "last.jsonl, line 1: is not a row of piqa: it has no field 'sol1'"),
        (("--shots", "2"), "--shots belongs to --task"),
        (("--task", "questions.jsonl", "--seed", "2"), "say which examples --shots draws"),
        (("--task", "questions.jsonl", "--shots", "12"), "--shots is 12; questions.jsonl has 12 rows to draw from"),
        (("--task", "questions.jsonl", "--shots", "-1"), "--shots is -1; it must be at least 1"),
        (("--task", "questions.jsonl", "--stride", "4"), "--task has rows of its own; leave out --data and --text"),
        (("--task", "questions.jsonl", "--text", "last.jsonl"), "--task has rows of its own"),
    ],
)
def test_what_cannot_be_is_a_sentence(home, given, complaint):
    assert complaint in evaluate("--run", "one", *given, cwd=home, code=2)


def test_a_letter_that_a_run_lacks_names_the_line(home):
    saved_run(home, "letters", tokenizer=Tokenizer.char("0123456789+= many", end_of_text=False))
    said = evaluate("--run", "letters", "--task", "questions.jsonl", cwd=home, code=2)
    assert "questions.jsonl, line 1: " in said
    assert "'é'" in said
    assert "whose tokenizer has every byte" in said


# ---- gpt compare --task ----


def test_compare_shows_the_rows_that_one_run_alone_has_right(home):
    def compare(*more):
        return run_gpt(home, "compare", "--device", "cpu", "one", "two", "--task", "questions.jsonl", *more)

    found = json.loads(compare("--json", "--passages", 100))
    alone = found["runs"][1]["minus_the_first"]["acc"]["right_alone"]
    assert [len(rows) for rows in found["right_alone"]] == alone
    assert sum(alone)
    for rows, (right, wrong) in zip(found["right_alone"], ((0, 1), (1, 0)), strict=True):
        for row in rows:
            number = int(row["where"].rpartition(" ")[2]) - 1
            assert row["context"] == QUESTIONS[number]["context"]
            assert row["right"] == QUESTIONS[number]["choices"][QUESTIONS[number]["label"]] != row["picked"]
            assert {type(row["logprobs"][right]), type(row["logprobs"][wrong])} == {float}
    single = json.loads(evaluate("--run", "one", "--against", "two", "--task", "questions.jsonl", "--json", cwd=home))
    assert found["runs"] == single["runs"]
    output = compare("--passages", 1)
    assert re.search(r"^B − A acc +[+-]0\.\d{4} ± ", output, re.M)
    assert re.search(r"^(A|B) alone is right in$", output, re.M)
    assert re.search(r"^  questions.jsonl, line \d+: … \d+\+1=$", output, re.M)
    assert re.search(r"^    '.*' \(A -\d+\.\d\d, B -\d+\.\d\d nats\); (A|B) picks '.*'$", output, re.M)


def test_compare_shows_continuations_too(home):
    given = ("one", "one", "--task", "lambada=last.jsonl")
    output = run_gpt(home, "compare", "--device", "cpu", *given)
    assert "alone is right" not in output
    assert re.search(r"^B − A perplexity +\+0\.0000 .*: cannot be told from A$", output, re.M)
