import csv
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from core_files import CHOICES, SCHEMAS, TASKS, TEXTS, write_bundle
from helpers import exact

from gpt import InputError, Tokenizer
from gpt.evaluation.tasks.core import Core, CoreTask, Item, read_core
from gpt.evaluation.tasks.core_grades import CoreGrades, core_pairs, grade_core
from gpt.evaluation.tasks.published import CORE_FIGURES, CORE_SIZES, CORE_TASKS, core_comparable

BYTES = Tokenizer.utf8_bytes()
END = BYTES.end_of_text


@pytest.fixture(scope="module")
def model():
    """Of large weights, which finds texts of very different likelihoods."""
    model = exact("gpt2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, model):
    """The three kinds, with and without examples, and a task of which the model has some rows right."""
    greedy = []
    for i in range(30):
        likeliest = int(model(torch.tensor([[END, *f"<{i}".encode()]]))[0, -1].argmax())
        greedy.append({"context": f"<{i}", "continuation": chr(likeliest) if likeliest < 128 else "z"})
    known = ({"icl_task_type": "language_modeling", "num_fewshot": [0], "continuation_delimiter": ""}, "0", greedy)
    return write_bundle(tmp_path_factory.mktemp("bundle") / "eval_bundle", {**TASKS, "greedy": known})


# ---- an implementation that is as plain as can be: one pass over each text ----


def plain_core(model, directory: Path):
    """Of each task, which rows are right, in the shuffled order, and the centered accuracy."""
    chance = {}
    with (directory / "eval_meta_data.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            chance[row["Eval Task"]] = row["Random baseline"]
    found = {}
    for task in yaml.safe_load((directory / "core.yaml").read_text())["icl_tasks"]:
        rows = [json.loads(line) for line in (directory / "eval_data" / task["dataset_uri"]).open(encoding="utf-8")]
        random.Random(1337).shuffle(rows)
        rights = [plain_right(model, rows, i, task) for i in range(len(rows))]
        lucky = float(chance[task["label"]]) * 0.01
        found[task["label"]] = rights, (sum(rights) / len(rights) - lucky) / (1 - lucky)
    return found


def plain_right(model, rows, i, task):
    kind, delimiter, shots = task["icl_task_type"], task.get("continuation_delimiter", " "), task["num_fewshot"][0]
    drawn = random.Random(1234 + i).sample([j for j in range(len(rows)) if j != i], shots)
    row, before = rows[i], ""
    for other in (rows[j] for j in drawn):
        if kind == "multiple_choice":
            before += other["query"] + delimiter + other["choices"][other["gold"]] + "\n\n"
        elif kind == "schema":
            before += other["context_options"][other["gold"]] + delimiter + other["continuation"] + "\n\n"
        else:
            before += other["context"].strip() + delimiter + other["continuation"] + "\n\n"
    if kind == "language_modeling":
        start = before + row["context"].strip() + delimiter
        ids, begin = [END, *(start + row["continuation"]).encode()], 1 + len(start.strip().encode())
        logprobs, begin = plain_pass(model, ids, begin)
        return all(int(logprobs[k - 1].argmax()) == ids[-len(logprobs) :][k] for k in range(begin, len(logprobs)))
    if kind == "multiple_choice":
        texts = [before + row["query"] + delimiter + choice for choice in row["choices"]]
    else:
        texts = [before + context + delimiter + row["continuation"] for context in row["context_options"]]
    every, losses = [[END, *text.encode()] for text in texts], []
    for ids in every:
        if kind == "multiple_choice":
            begin = next(k for k in range(len(ids)) if any(other[k : k + 1] != ids[k : k + 1] for other in every))
        else:
            begin = len(ids) - next(k for k in range(len(ids)) if any(other[-1 - k] != ids[-1 - k] for other in every))
        logprobs, begin = plain_pass(model, ids, begin)
        kept = ids[-len(logprobs) :]
        losses.append(-np.mean([float(logprobs[k - 1][kept[k]]) for k in range(begin, len(kept))]))
    return int(np.argmin(losses)) == row["gold"]


def plain_pass(model, ids, begin):
    """Logarithms after each token that is left of a text, and where what is scored begins there."""
    kept = ids[-model.config.context_length :]
    with torch.no_grad():
        return model(torch.tensor([kept]))[0].log_softmax(-1), begin - (len(ids) - len(kept))


def test_scores_are_those_of_a_plain_implementation(model, bundle):
    expected = plain_core(model, bundle)
    told = []
    found = grade_core(model, BYTES, read_core(bundle), END, progress=lambda task, rows: told.append((task, rows)))
    assert [task.label for task in found.core.tasks] == [*expected]
    for number, (rights, centered) in enumerate(expected.values()):
        assert found.rights[number].tolist() == rights
        assert found.centered(number) == pytest.approx(centered, abs=1e-12)
        assert found.accuracy(number).value == pytest.approx(np.mean(rights))
    assert found.value == pytest.approx(np.mean([centered for _, centered in expected.values()]))
    # all of it decides something: there are right and wrong rows of each kind, and cut ones
    assert all(0 < sum(expected[label][0]) < len(expected[label][0]) for label in ("choose", "refer", "greedy"))
    assert expected["choose"] != expected["choose_alone"]
    assert found.cuts[0] > 0 == found.cuts[1]
    assert told == [(0, 14), (1, 14), (2, 12), (3, 10), (4, 30)]


def test_batches_change_nothing(model, bundle, monkeypatch):
    core = read_core(bundle)
    whole = grade_core(model, BYTES, core, END)
    monkeypatch.setattr("gpt.evaluation.tasks.core_grades.AT_ONCE", 7)
    parts = grade_core(model, BYTES, core, END, batch=1)
    assert [each.tolist() for each in parts.rights] == [each.tolist() for each in whole.rights]
    assert parts.cuts == whole.cuts


# ---- prompts and tokens, by hand ----


def task_of(kind, items, shots=0, delimiter=" ", baseline=0.0, file="rows.jsonl", label="task"):
    return CoreTask(label, kind, shots, delimiter, baseline, file, tuple(items))


def test_prompts_by_hand(bundle):
    tasks = {task.label: task for task in read_core(bundle).tasks}
    refer = tasks["refer"]
    number = next(n for n, item in enumerate(refer.items) if item.endings[0] == "it is 3." and item.gold == 1)
    (other,) = random.Random(1234 + number).sample([j for j in range(12) if j != number], 1)
    shown = SCHEMAS[int(refer.items[other].place.rpartition(" ")[2]) - 1]
    i = int(refer.items[number].place.rpartition(" ")[2]) - 1
    example = f"{shown['context_options'][shown['gold']]} {shown['continuation']}\n\n"
    assert refer.texts(number) == (
        f"{example}The {i} sees it as it is 3.",
        f"{example}The one of {i} hears it, so it is 3.",
    )
    assert refer.texts(number, shots=0) == (f"The {i} sees it as it is 3.", f"The one of {i} hears it, so it is 3.")
    go_on = tasks["go_on"]
    number = next(n for n, item in enumerate(go_on.items) if item.endings == ("more 5",))
    assert go_on.texts(number, shots=0) == ("Once and 5\nAnswer:", "Once and 5\nAnswer: more 5")
    without, whole = go_on.texts(number)
    assert whole == without + " more 5"
    assert whole.count("\nAnswer: more ") == 3
    assert whole.count("\n\nOnce ") == 2
    number = next(n for n, item in enumerate(tasks["choose_alone"].items) if item.contexts[0] == "8 and 2 is")
    assert tasks["choose_alone"].texts(number) == ("8 and 2 is 9", "8 and 2 is 1 é", "8 and 2 is 8 or so")


def test_an_example_may_begin_with_an_empty_context():
    items = [Item(("",), ("one",), 0, "row 1"), Item(("so",), ("two",), 0, "row 2")]
    task = task_of("language_modeling", items, shots=1, delimiter="\nAnswer: ")
    assert task.texts(1) == ("\nAnswer: one\n\nso\nAnswer:", "\nAnswer: one\n\nso\nAnswer: two")
    assert divided(core_pairs(task, 1, BYTES, END, 99)) == [("\nAnswer: one\n\nso\nAnswer:", " two")]
    assert divided(core_pairs(task, 0, BYTES, END, 99)) == [("so\nAnswer: two\n\n\nAnswer:", " one")]


def test_rows_are_shuffled_and_know_their_lines(bundle):
    task = read_core(bundle).tasks[3]
    order = [*range(10)]
    random.Random(1337).shuffle(order)
    assert [item.endings[0] for item in task.items] == [f"more {i}" for i in order]
    assert [item.place for item in task.items] == [f"{bundle}/eval_data/kind/go_on.jsonl, line {i + 1}" for i in order]
    assert [item.contexts[0] for item in task.items] == [TEXTS[i]["context"].strip() for i in order]


def divided(pairs):
    return [(BYTES.decode([*context][1:]), BYTES.decode([*ending])) for context, ending in pairs]


def test_what_is_scored_is_what_differs_or_what_is_common():
    choose = task_of("multiple_choice", [Item(("Is it",) * 3, ("no", "nought", "not"), 0, "row 1")])
    assert divided(core_pairs(choose, 0, BYTES, END, 99)) == [("Is it no", ""), ("Is it no", "ught"), ("Is it no", "t")]
    refer = task_of("schema", [Item(("as a cat", "as the bat"), ("sat",) * 2, 0, "row 1")])
    assert divided(core_pairs(refer, 0, BYTES, END, 99)) == [("as a c", "at sat"), ("as the b", "at sat")]
    go_on = task_of("language_modeling", [Item(("so",), ("it is",), 0, "row 1")])
    assert divided(core_pairs(go_on, 0, BYTES, END, 99)) == [("so", " it is")]
    same = task_of("schema", [Item(("as", "as"), ("sat",) * 2, 0, "row 1")])
    assert divided(core_pairs(same, 0, BYTES, END, 99)) == [("", "as sat")] * 2  # end-of-text is never scored


def test_a_choice_without_tokens_of_its_own_is_picked_only_where_it_stands_first(model):
    def right(choices, gold):
        items = [Item(("Is it",) * len(choices), choices, gold, "row 1")]
        core = Core(Path("b"), "", (task_of("multiple_choice", items),))
        return grade_core(model, BYTES, core, END).rights[0].tolist() == [True]

    assert right(("no", "not"), 0)
    assert right(("not", "no"), 0)
    assert not right(("not", "no"), 1)


def test_what_does_not_fit_names_the_row(model):
    item = Item(("so",), ("x" * model.config.context_length,), 0, "rows.jsonl, line 3")
    core = Core(Path("b"), "", (task_of("language_modeling", [item], delimiter=""),))
    with pytest.raises(
        InputError, match=r"^rows.jsonl, line 3: what is scored has (\d+) tokens, and the model sees \1;"
    ):
        grade_core(model, BYTES, core, END)
    letters = Tokenizer.char("so it is", end_of_text=False)
    with pytest.raises(InputError, match="line 3: .*'x'.*; grade a run whose tokenizer has every byte"):
        core_pairs(core.tasks[0], 0, letters, 0, 999)
    blank = task_of("language_modeling", [Item(("so",), ("",), 0, "rows.jsonl, line 4")], delimiter="")
    with pytest.raises(InputError, match="^rows.jsonl, line 4: its continuation has no token of its own"):
        core_pairs(blank, 0, BYTES, END, 99)


# ---- the mean and its error ----


def grades_of(*tasks):
    """Of (rights, baseline, file)."""
    made = [
        task_of("multiple_choice", [Item(("",), ("",), 0, "")] * len(rights), baseline=baseline, file=file)
        for rights, baseline, file in tasks
    ]
    return CoreGrades(
        Core(Path("b"), "", tuple(made)), tuple(np.array(rights, bool) for rights, _, _ in tasks), (0,) * len(tasks)
    )


def test_accuracies_are_centered_and_their_mean_has_an_error():
    found = grades_of(([1, 1, 0, 0], 0.25, "a"), ([1, 0, 0, 0, 0], 0.5, "b"))
    assert [found.centered(0), found.centered(1)] == pytest.approx([1 / 3, -0.6])
    assert found.value == pytest.approx((1 / 3 - 0.6) / 2)
    errors = math.sqrt(0.25 / 3), math.sqrt(0.16 / 4)  # √(p(1−p)/(N−1))
    assert [found.accuracy(n).spread.standard_error for n in (0, 1)] == pytest.approx(errors)
    variances = [(errors[0] / 0.75 / 2) ** 2, (errors[1] / 0.5 / 2) ** 2]
    assert found.spread.standard_error == pytest.approx(math.sqrt(sum(variances)))
    assert found.spread.freedom == pytest.approx(sum(variances) ** 2 / (variances[0] ** 2 / 3 + variances[1] ** 2 / 4))
    assert grades_of(([1], 0.0, "a"), ([1, 0], 0.0, "b")).spread is None
    assert grades_of(([0, 0], 0.0, "a")).spread.standard_error == 0


def test_tasks_of_the_same_rows_are_not_independent():
    rights = [1, 1, 0, 0, 1, 0]
    alone, twice = grades_of((rights, 0.25, "a")), grades_of((rights, 0.25, "a"), (rights, 0.25, "a"))
    assert twice.spread.standard_error == pytest.approx(alone.spread.standard_error)
    apart = grades_of((rights, 0.25, "a"), (rights, 0.25, "b"))
    assert apart.spread.standard_error == pytest.approx(alone.spread.standard_error / math.sqrt(2))


def test_the_error_is_what_redrawn_rows_show():
    generator, values, errors = np.random.default_rng(1), [], []
    for _ in range(2000):
        one, two = generator.random(60) < 0.4, generator.random(40) < 0.7
        found = grades_of((one, 0.25, "a"), (one ^ (generator.random(60) < 0.1), 0.25, "a"), (two, 0.5, "b"))
        values.append(found.value)
        errors.append(found.spread.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.05)


def test_differences_are_paired_by_row():
    generator = np.random.default_rng(2)
    base = generator.random(200) < 0.5
    first = grades_of((base, 0.25, "a"), (base[:100], 0.5, "b"))
    better = base.copy()
    better[np.flatnonzero(~base)[:20]] = True
    other = CoreGrades(first.core, (better, base[:100]), (0, 0))
    found = other.minus(first)
    assert found.value == pytest.approx(20 / 200 / 0.75 / 2)
    gained = better.astype(float) - base
    assert found.spread.standard_error == pytest.approx(gained.std(ddof=1) / math.sqrt(200) / 0.75 / 2)
    assert (found.is_sure, found.better, found.verdict) == (True, True, "better than")
    assert first.minus(first).verdict == "cannot be told from"
    assert other.task_minus(first, 0).alone == (0, 20)
    assert other.task_minus(first, 1).value == 0


def test_published_figures_compare_with_the_whole_bundle_alone():
    item = Item(("",), ("",), 0, "")

    def core(sizes):
        return Core(
            Path("b"),
            "",
            tuple(task_of("schema", (item,) * rows, shots, label=label) for label, (rows, shots) in sizes.items()),
        )

    whole = {label: CORE_SIZES.get(label, (3, 0)) for label in sorted(CORE_TASKS)}
    assert len(whole) == 22
    assert core_comparable(core(whole)) == dict.fromkeys(CORE_FIGURES, True)
    assert core_comparable(core(whole | {"piqa": (1_838, 0)})) == dict.fromkeys(CORE_FIGURES, True) | {
        "CORE": False,
        "piqa": False,
    }
    assert not core_comparable(core({label: size for label, size in whole.items() if label != "coqa"}))["CORE"]


def test_rows_of_a_plain_bundle_are_all_read(bundle):
    core = read_core(bundle)
    assert [len(task.items) for task in core.tasks] == [len(CHOICES), len(CHOICES), len(SCHEMAS), len(TEXTS), 30]
    assert [task.baseline for task in core.tasks] == pytest.approx([0.333, 0.333, 0.5, 0, 0])
    assert core.tasks[0].file == core.tasks[1].file
