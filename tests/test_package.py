"""What a program that imports the package relies on."""

import re
import tomllib
from pathlib import Path

from helpers import ROOT

import gpt


def test_every_public_name_is_there_and_its_types_are_declared():
    for name in gpt.__all__:
        assert getattr(gpt, name).__module__.startswith("gpt."), name
    assert (Path(gpt.__file__).parent / "py.typed").exists()


def test_the_version_is_written_once():
    assert re.fullmatch(r"\d+\.\d+\.\d+", gpt.__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "gpt/__init__.py"
