"""The shape of the package: which way imports point, and how large files and functions are."""

import ast
import re
from functools import cache
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_imports_point_one_way(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("importlinter.cli._configure_logging", lambda _: None)  # which silences every logger there is
    assert lint_imports() == 0


def test_files_fit_on_a_few_screens_and_doors_on_one():
    for limit, paths in ((300, ROOT.glob("gpt/**/*.py")), (70, (*ROOT.glob("*.py"), *ROOT.glob("data/*.py")))):
        for path in paths:
            assert len(path.read_text(encoding="utf-8").splitlines()) <= limit, path


def test_functions_fit_on_a_screen():
    long = []
    for path in ROOT.glob("gpt/**/*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                long += [f"{path}: {node.name} has {lines} lines"] * (lines > 50)
    assert long == []


def imports(root):
    """Find which modules of gpt/ each of them imports, wherever it does: under TYPE_CHECKING and in functions, too."""
    files = {}
    for path in root.glob("gpt/**/*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = {}
    for module, path in files.items():
        names = set()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                members = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {member if member in files else node.module for member in members}
        found[module] = names & files.keys()
    return found


def circles(found):
    """List the pairs that import each other."""
    return sorted((a, b) for a, names in found.items() for b in names if a < b and a in found[b])


def test_no_two_files_import_each_other():
    assert circles(imports(ROOT)) == []


def test_files_that_import_each_other_are_found(tmp_path):
    (tmp_path / "gpt").mkdir()
    for name, text in {
        "__init__": "from gpt.first import f\n",
        "first": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gpt.second import g\n",
        "second": "def g():\n    from gpt import first\n",
        "third": "import gpt.second\n",
    }.items():
        (tmp_path / "gpt" / f"{name}.py").write_text(text)
    assert circles(imports(tmp_path)) == [("gpt.first", "gpt.second")]


def test_nothing_pickled_is_ever_loaded():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("gpt/**/*.py"), *ROOT.glob("data/*.py")]:
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"torch\.load\(|import pickle|allow_pickle=True", source), path


def test_every_module_says_what_it_is():
    for path in ROOT.glob("gpt/**/*.py"):
        assert ast.get_docstring(parsed(path)) or path.name == "__init__.py", path
