"""How much of the program a reader meets on two ways: from a text to a saved checkpoint, and from a prompt to a text.

Both are gone, with an exact GPT-2, and what was executed is counted: files and lines of our functions, and how many of
our functions lie between `main` and the product of keys and queries. The first way ends when the first checkpoint is
saved; evaluations, samples and the last table come after it. A way that is over its budget prints its table.
"""

import json
import os
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import Script

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]
TEXT = ROOT / "tests" / "recorded" / "text.md"
SIZE = ("--model.n-layer", "2", "--model.n-head", "2", "--model.n-embd", "32", "--model.context-length", "32")
SIZE += ("--batch-tokens", "128", "--steps", "3", "--evaluation.every", "0", "--checkpoint.every", "2")
PREPARE = ("gpt.commands.prepare", "files", "--input", "text.md", "--name", "own")
TRAIN = ("train", "gpt2", *SIZE, "--data", "data/own", "--run-dir", "runs/own", "--device", "cpu")
SAMPLE = ("sample", "--run", "runs/own", "--device", "cpu", "--prompt", "def ", "--max-tokens", "8", "--seed", "0")

JUST_NOW = time.time_ns() + 10**12  # however long the way takes


class Route(NamedTuple):
    lines: dict[str, int]  # executed, of each file
    paths: dict[str, list[str]]  # the longest one to each product
    output: str

    def table(self) -> str:
        """List the files, those with most lines first, and the paths."""
        files = [f"{count:5} {file}" for file, count in sorted(self.lines.items(), key=lambda item: (-item[1], item))]
        paths = ["\n    ".join([f"{product}: {len(path)}", *path]) for product, path in self.paths.items()]
        total = f"{sum(self.lines.values())} lines of {len(self.lines)} files"
        return "\n".join([total, *files, *paths])


def gone(home: Path, *doors: tuple[str, ...]) -> Route:
    """Go through doors, each a process, one after another."""
    lines, paths, output = defaultdict(set), defaultdict(list), ""
    for door in doors:
        for shard in home.glob("data/*/*.bin"):
            os.utime(shard, ns=(JUST_NOW, JUST_NOW))  # what is remembered of it depends on its age
        # The same way on every processor: where oneDNN's instructions are limited, it never takes MKL's place.
        alike = {"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
        gone_through = Script("tests/route_program.py", *door, cwd=home, **alike)
        assert gone_through.end() == 0, gone_through.said()
        output += gone_through.said()
        route = json.loads((home / "route.json").read_text(encoding="utf-8"))
        for file, numbers in route["lines"].items():
            lines[file].update(numbers)
        for product, path in route["paths"].items():
            paths[product] = max(paths[product], path, key=len)
    return Route({file: len(numbers) for file, numbers in lines.items()}, dict(paths), output)


@pytest.fixture(scope="module")
def routes(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    shutil.copy(TEXT, home / "text.md")
    to_checkpoint = gone(home, PREPARE, TRAIN)
    assert list((home / "runs" / "own" / "checkpoints").glob("step-*/model.safetensors"))
    return {"text to checkpoint": to_checkpoint, "prompt to terminal": gone(home, SAMPLE)}


def test_the_ways_were_gone_and_seen(routes):
    for name, route in routes.items():
        products = {"scaled_dot_product_attention"}  # of training, or of a prompt that is read
        products |= {"baddbmm"} if name == "prompt to terminal" else set()  # of decoding
        assert set(route.paths) == products, name
        for path in route.paths.values():
            assert path[-1].startswith("gpt/model/attention.py: "), path
            assert any(step.endswith("GPT.forward") for step in path), path
        assert "gpt/model/transformer.py" in route.lines, name
    assert {"gpt/corpus/pipeline.py", "gpt/runs/checkpoint.py"} <= set(routes["text to checkpoint"].lines)
    assert "gpt/generation/engine.py" in routes["prompt to terminal"].lines
    assert routes["prompt to terminal"].output.strip()


missed = pytest.mark.xfail(strict=True, reason="the wanted number, which is not reached")


# There is what is wanted, and, where that is not reached, what is kept: that is not to grow.
@pytest.mark.parametrize(
    ("way", "what", "most"),
    [
        pytest.param("text to checkpoint", "files", 36, marks=missed),
        ("text to checkpoint", "files", 71),
        pytest.param("text to checkpoint", "lines", 1900, marks=missed),
        ("text to checkpoint", "lines", 2500),
        ("text to checkpoint", "depth", 10),
        pytest.param("prompt to terminal", "files", 22, marks=missed),
        ("prompt to terminal", "files", 28),
        ("prompt to terminal", "lines", 900),
        ("prompt to terminal", "depth", 10),
    ],
)
def test_a_way_keeps_its_budget(routes, way, what, most):
    route = routes[way]
    counts = {
        "files": len(route.lines),
        "lines": sum(route.lines.values()),
        "depth": max(map(len, route.paths.values())),
    }
    assert counts[what] <= most, f"{way}: {counts}\n{route.table()}"
