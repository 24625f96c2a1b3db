"""The pages of docs/: what they link to is there, their Python runs, and they become a site."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
FENCED = re.compile(r"^```.*?^```", re.M | re.S)


def without_code(page):
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """What a page's headings are linked by, as GitHub and the site make it of them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_what_a_page_links_to_is_there(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", without_code(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
        assert page.parent == ROOT or target.resolve().is_relative_to(ROOT / "docs"), f"{link} is not in the site"


def test_every_page_has_its_place_in_the_site():
    listed = re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.M)
    assert sorted(listed) == [page.name for page in PAGES]


def python_of(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=lambda path: path.name)
def test_python_of_a_page_runs(page, trained, dataset, tmp_path, monkeypatch):
    """One block after another, with a small run and dataset in place of those that make train leaves."""
    home, _ = trained
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "python").symlink_to(dataset.path)
    (tmp_path / "runs").symlink_to(home / "runs")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in python_of(page):
        exec(block.replace("state.step < 20", "state.step < 2"), names)


def test_every_block_says_what_it_is():
    for page in PAGES:
        fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), flags=re.M)
        assert len(fences) % 2 == 0, page
        assert set(fences[::2]) <= {"python", "sh", "", "json", "yaml", "toml"}, page


NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_without_its_results(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="notebooks are run by nbclient, of the extra docs")
    nbformat = pytest.importorskip("nbformat", reason="notebooks are read by nbformat, of the extra docs")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    content = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(content, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in content.cells for output in cell.get("outputs", ())]
    assert not [output for output in shown if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in shown)  # figures are shown


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings", reason="the site is built by mkdocs, of the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    assert "Load a run, or a Hugging Face GPT-2" in reference
    assert "plot_losses" in reference
