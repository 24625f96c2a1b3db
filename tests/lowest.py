"""Prints the lowest versions that pyproject.toml allows of what the project itself needs, as pip's requirements."""

import itertools
import re
import tomllib
from pathlib import Path


def lowest(requirement: str) -> str:
    """Turn "tyro>=1.0,<2" into "tyro==1.0". Raises ValueError where no lowest version is declared."""
    found = re.fullmatch(r"([\w.-]+)>=([\w.]+)(,<[\w.]+)?(; .+)?", requirement)
    if not found:
        raise ValueError(f"{requirement}: declare it as NAME>=LOWEST, or NAME>=LOWEST,<FIRST THAT FAILS")
    return f"{found[1]}=={found[2]}{found[4] or ''}"


def requirements(content: str, all_extras: bool = False) -> list[str]:
    """Every requirement of a pyproject.toml: to build, to run and to develop, or those of all extras."""
    declared = tomllib.loads(content)
    groups = declared["build-system"]["requires"], declared["project"]["dependencies"]
    extras = declared["project"]["optional-dependencies"]
    return list(itertools.chain(*groups, *(extras.values() if all_extras else [extras["dev"]])))


if __name__ == "__main__":
    file = Path(__file__).parents[1] / "pyproject.toml"
    print(*map(lowest, requirements(file.read_text(encoding="utf-8"))), sep="\n")
