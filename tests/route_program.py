"""Run a door of the program, and write to route.json what of ours was executed.

    python route_program.py train nano --steps 3

It is a process of its own, so that nothing is warm. The door is imported first: what runs on import is not the way, and
neither are lines outside functions. `sys.settrace` serves every Python; `sys.monitoring` is not there before 3.12.
"""

import inspect
import json
import math
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
OUR_PATHS = tuple(f"{ROOT}/{name}" for name in ("gpt/", "data/", "train.py", "sample.py"))
MODEL = f"{ROOT}/gpt/model/"
PRODUCTS = ((torch.nn.functional, "scaled_dot_product_attention"), (torch, "baddbmm"))  # of queries and keys
INLINED = ("<listcomp>", "<setcomp>", "<dictcomp>")  # frames of their own up to Python 3.11 only

lines: dict[str, set[int]] = defaultdict(set)  # numbers of the executed ones, by file
paths: dict[str, list[str]] = defaultdict(list)  # our functions from below `main` to a product, where they are most


END = ("gpt/runs/checkpoint.py", "save")  # where the way to a checkpoint ends
ended: list[bool] = []


@cache
def is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(OUR_PATHS)


def file_of(code: CodeType) -> str:
    return Path(code.co_filename).relative_to(ROOT).as_posix()


def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
    """Note each line of our functions; modules and the bodies of classes are none."""
    code = frame.f_code
    if ended or not is_ours(code) or not code.co_flags & inspect.CO_OPTIMIZED:
        return None
    if event == "line":
        lines[file_of(code)].add(frame.f_lineno)
    if event == "return" and (file_of(code), code.co_name) == END:
        ended.append(True)
    return trace


def watched(product: str, multiply: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a product, so that it notes which of our functions led to it; the one that calls it is the last."""

    def noted(*arguments: Any, **options: Any) -> Any:
        frame, path = sys._getframe(1), []
        if frame.f_code.co_filename.startswith(MODEL) and not ended:  # Muon multiplies, too
            while not (is_ours(frame.f_code) and frame.f_code.co_name == "main"):
                if is_ours(frame.f_code) and frame.f_code.co_name not in INLINED:
                    path.append(f"{file_of(frame.f_code)}: {frame.f_code.co_qualname}")
                assert frame.f_back is not None, f"no main led to {path}"
                frame = frame.f_back
            paths[product] = max(paths[product], path[::-1], key=len)
        return multiply(*arguments, **options)

    return noted


def go(door: str, arguments: list[str]) -> Any:
    """Call the `main` of a door, and note what happens; give its exit code."""
    for owner, product in PRODUCTS:
        setattr(owner, product, watched(product, getattr(owner, product)))
    main = import_module(door).main
    if pipeline := sys.modules.get("gpt.corpus.pipeline"):
        pipeline.LEAST_SECONDS = math.inf  # a slow machine says how fast it was, which is no more of the way
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code
    finally:
        sys.settrace(None)


if __name__ == "__main__":
    code = go(sys.argv[1], sys.argv[2:])
    route = {"lines": {file: sorted(numbers) for file, numbers in lines.items()}, "paths": paths}
    Path("route.json").write_text(json.dumps(route), encoding="utf-8")
    sys.exit(code)
