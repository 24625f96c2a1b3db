"""The built-in tasks beside lm-evaluation-harness: its own prompts from its own task files, and the figures of three
graders: `gpt eval --task`, our class for the harness, and the harness's hf backend on the exported model."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import SHAPE, python_text, run_gpt

from gpt import GPT, TrainConfig
from gpt.evaluation.tasks.rows import KINDS, OWN
from gpt.evaluation.tasks.task import _examples, read_task, with_shots
from gpt.interop.huggingface_export import export
from gpt.runs.checkpoint import save
from gpt.runs.directory import open_run
from gpt.runs.load import load_run

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra `eval`)")

from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from gpt.apps.harness import HarnessModel  # noqa: E402

THEIRS = Path(lm_eval.__path__[0]) / "tasks"
TEXT = python_text()
RNG = random.Random(0)


def words(most):
    at = RNG.randrange(50_000)
    return " ".join(TEXT[at : at + RNG.randrange(20, most)].split()) or "x"


def choices(count):
    return [words(60) for _ in range(count)]


def rows_of(name, number):
    """Rows as they are published, of random text."""
    make = {
        "hellaswag": lambda i: {
            "ind": i,
            "activity_label": "Removing [x] ice",
            "ctx_a": f"{words(90)} [title] né",
            "ctx_b": f"{'THE man' if i % 2 else ''}",
            "endings": [f" {text} [step] end" for text in choices(4)],
            "label": str(RNG.randrange(4)),
        },
        "lambada": lambda i: {"text": f'"{words(200)}\n  {words(90)} {"word" if i % 3 else "naïve"}'},
        "arc-easy": lambda i: {
            "question": words(90),
            "choices": {"text": choices(4), "label": list("ABCD")},
            "answerKey": RNG.choice("ABCD"),
        },
        "piqa": lambda i: {"goal": words(90), "sol1": words(50), "sol2": words(50), "label": RNG.randrange(2)},
        "blimp": lambda i: {"sentence_good": words(50), "sentence_bad": words(50), "UID": "adjunct_island"},
    }[name]
    return [make(i) for i in range(number)]


FILES = {  # the harness's task file, and which splits it names
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag", ("train", "validation")),
    "lambada": ("lambada/lambada_openai.yaml", "lambada_openai", ("test",)),
    "arc-easy": ("arc/arc_easy.yaml", "arc_easy", ("train", "validation", "test")),
    "piqa": ("piqa/piqa.yaml", "piqa", ("train", "validation")),
    "blimp": ("blimp/adjunct_island.yaml", "blimp_adjunct_island", ("train",)),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """For each task its file of the harness, which reads rows that lie here."""
    home = tmp_path_factory.mktemp("tasks")
    for name, (file, task, splits) in FILES.items():
        paths = {split: home / f"{name}-{split}.jsonl" for split in splits}
        for split, path in paths.items():
            rows = rows_of(name, 12 if split == splits[-1] else 20)
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        files = "{" + ", ".join(f"{split}: {path}" for split, path in paths.items()) + "}"
        own = f"include: {THEIRS / file}\ntask: {task}_here\ndataset_path: json\ndataset_name: null\n"
        own += f"dataset_kwargs: {{data_files: {files}, cache_dir: {home}/cache}}\n"
        (home / f"{name}.yaml").write_text(own, encoding="utf-8")
    return home


def theirs(home, name, shots=0, seed=1234):
    """The requests that the harness makes of a task's rows."""
    manager = TaskManager(include_path=str(home), include_defaults=False)
    named = f"{FILES[name][1]}_here"
    task = manager.load([named])["tasks"][named]
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=seed)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    return [request.args for request in task.instances]


def ours(task):
    return [(row.context, ending) for row in task.rows for ending in row.endings]


@pytest.mark.parametrize("name", FILES)
def test_prompts_are_the_harness_own(home, name):
    task = read_task(KINDS[name], home / f"{name}-{FILES[name][2][-1]}.jsonl")
    assert ours(task) == theirs(home, name)


@pytest.mark.parametrize("name", ["hellaswag", "arc-easy", "piqa"])
@pytest.mark.parametrize("seed", [1234, 5])
def test_examples_are_the_harness_own(home, name, seed):
    """Drawn from the training split."""
    task, pool = (read_task(KINDS[name], home / f"{name}-{FILES[name][2][i]}.jsonl") for i in (-1, 0))
    assert ours(with_shots(task, 3, seed, pool)) == theirs(home, name, 3, seed)


def test_examples_of_lambada_are_written_as_the_harness_does(home):
    """Which draws from the rows themselves, the question among them; we leave that out."""
    task, generator = read_task(KINDS["lambada"], home / "lambada-test.jsonl"), random.Random(3)
    for row, (context, ending) in zip(task.rows, theirs(home, "lambada", 2, 3), strict=True):
        examples = _examples(generator.sample(task.rows, 2), task.kind)
        assert (context, ending) == (examples + row.context, row.endings[0])


# ---- three graders ----


@pytest.fixture(scope="module")
def models(tmp_path_factory, bpe):
    """A run with a tokenizer of its own and weights that tell texts apart, and what it was exported as."""
    home = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = GPT(replace(SHAPE, vocab_size=bpe.vocab_size, context_length=64)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    with open_run(TrainConfig(run_dir=home / "run", batch_tokens=64, model=model.config), bpe, resume=False) as run:
        save(run, model.state_dict(), {}, {"step": 1, "evaluation": None})
    loaded = load_run(run)
    export(loaded.model, loaded.tokenizer, home / "exported")
    return home


@pytest.mark.process  # the harness asks git for its version
def test_three_graders_give_the_same_figures(home, models, monkeypatch):
    """Rows that do not fit into the context among them."""
    names = {name: f"{FILES[name][1]}_here" for name in ("hellaswag", "lambada", "piqa", "blimp")}
    settings = {
        "tasks": [*names.values()],
        "bootstrap_iters": 1000,  # in this process; below 1 it tells no standard error
        "task_manager": TaskManager(include_path=str(home), include_defaults=False),
    }
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    run, exported = models / "run", models / "exported"
    hf = lm_eval.simple_evaluate(model=HFLM(str(exported), device="cpu", dtype="float32"), **settings)
    own = lm_eval.simple_evaluate(model=HarnessModel(run=run, device="cpu"), **settings)
    for name, task in names.items():
        given = ("--run", run, "--task", f"{name}={home / f'{name}-{FILES[name][2][-1]}.jsonl'}", "--json")
        found = json.loads(run_gpt(models, "eval", "--device", "cpu", *given))["runs"][0]
        compared = 0
        for metric, figure in found["metrics"].items():
            for theirs_found in (hf["results"][task], own["results"][task]):
                if f"{metric},none" in theirs_found:
                    compared += 1
                    assert figure["value"] == pytest.approx(theirs_found[f"{metric},none"], rel=1e-5)
                    if metric.startswith("acc"):
                        assert figure["se"] == pytest.approx(theirs_found[f"{metric}_stderr,none"], rel=1e-9)
        assert compared >= 2
        assert found["cut"] or name == "blimp"


def test_rows_of_ones_own_are_a_plain_task_of_the_harness(home, tmp_path):
    rows = [{"context": f"{words(60)}:", "choices": choices(3), "label": i % 3} for i in range(6)]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "own.yaml").write_text(
        "task: own\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {path}}}, cache_dir: {tmp_path}/cache}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: context\ndoc_to_choice: choices\n"
        "doc_to_target: label\nmetric_list: [{metric: acc}]\n",
        encoding="utf-8",
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    task = manager.load(["own"])["tasks"]["own"]
    task.build_all_requests(limit=None, rank=0, world_size=1)
    assert [request.args for request in task.instances] == ours(read_task(OWN, path))
