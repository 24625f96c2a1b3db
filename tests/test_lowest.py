from importlib.metadata import version
from pathlib import Path

import pytest
from lowest import lowest, requirements
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def test_every_requirement_has_a_lowest_version_which_it_allows():
    declared = requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8"), all_extras=True)
    names = [Requirement(requirement).name for requirement in declared]
    assert {"hatchling", "torch", "wandb", "pytest"} < set(names)
    for requirement in declared:
        pinned = Requirement(lowest(requirement))
        (only,) = pinned.specifier
        assert (pinned.name, only.operator) == (Requirement(requirement).name, "==")
        assert Requirement(requirement).specifier.contains(only.version)


def test_what_is_installed_is_what_is_declared():
    for requirement in map(Requirement, requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8"))):
        is_wanted = requirement.marker is None or requirement.marker.evaluate()
        if is_wanted and requirement.name != "hatchling":  # which builds in an environment of its own
            assert requirement.specifier.contains(version(requirement.name)), requirement


@pytest.mark.parametrize("requirement", ["regex", "regex<3", "regex==1", "regex>=1,!=2"])
def test_a_requirement_without_a_lowest_version_is_refused(requirement):
    with pytest.raises(ValueError, match=f"{requirement}: declare it as NAME>=LOWEST"):
        lowest(requirement)
