"""The shape of the package: which way imports point, and how much there is to read."""

import ast
import re
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
CORE = [
    "train.py",
    "gpt/training/trainer.py",
    "gpt/model/transformer.py",
    "gpt/model/attention.py",
    "gpt/model/loss.py",
    "gpt/evaluation/loss.py",
    "gpt/training/optimizer.py",
    "gpt/training/schedule.py",
    "gpt/dataset/loader.py",
    "gpt/dataset/order.py",
    "gpt/dataset/shards.py",
    "gpt/runs/checkpoint.py",
    "sample.py",
    "gpt/generation/engine.py",
    "gpt/generation/sampling.py",
]
MOST_LINES = {"fit": 52, "complete_texts": 51}  # longer than the others may be, and not to grow


def test_imports_point_one_way(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports() == 0


def test_the_core_path_can_be_read_in_an_afternoon():
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in CORE}
    assert sum(lines.values()) < 2000, lines
    assert len((ROOT / "gpt/config.py").read_text(encoding="utf-8").splitlines()) <= 310  # a table, beside the path


def test_files_and_functions_fit_on_a_few_screens_and_one():
    for path in ROOT.glob("gpt/**/*.py"):
        source = path.read_text(encoding="utf-8")
        assert len(source.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno + 1 <= MOST_LINES.get(node.name, 50), (path, node.name)
    for door in (*ROOT.glob("*.py"), *ROOT.glob("data/*.py")):
        assert len(door.read_text(encoding="utf-8").splitlines()) <= 70, door


def test_nothing_pickled_is_ever_loaded():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("gpt/**/*.py"), *ROOT.glob("data/*.py")]:
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"torch\.load\(|import pickle|allow_pickle=True", source), path


def test_every_module_says_what_it_is():
    for path in ROOT.glob("gpt/**/*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) or path.name == "__init__.py", path
