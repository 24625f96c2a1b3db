"""How cost grows with work: training, memory, decoding, preparing, opening and two processes, beside their theory.

    python -m benchmarks.growth --only training decoding

The sizes of a curve take turns, several times; what counts is the median. Curves that are left out keep what was
measured before. Meant for an idle machine of two cores or more; it takes some minutes.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence

from benchmarks.common import finish, here, result_file, show
from benchmarks.growth.curves import Curve
from benchmarks.growth.data import opening, prepare
from benchmarks.growth.decoding import decoding
from benchmarks.growth.processes import processes
from benchmarks.growth.training import memory, training
from gpt.corpus.executor import cores
from gpt.errors import InputError
from gpt.text.tokenizer import Tokenizer

IDLE = 0.5  # programs at work, on average over the last minute
GROUPS: dict[str, Callable[[int], dict[str, Curve]]] = {
    "training": training,
    "memory": memory,
    "decoding": decoding,
    "preparing": prepare,
    "opening": opening,
    "processes": processes,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.growth", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=[*GROUPS], help="default: all")
    parser.add_argument("--runs", type=int, default=3, help="default: 3")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error(f"--runs {options.runs}: must be at least 1")
    if "processes" in options.only and cores() < 2:
        parser.error("--only processes: needs two cores, and this process may use one; name the others by --only")
    if "preparing" in options.only:
        try:
            Tokenizer.gpt2()
        except InputError as error:
            parser.error(f"--only preparing: {error}")
    return options


def main() -> None:
    options = parse()
    load = os.getloadavg()[0]
    if load > IDLE:
        show(f"{load:.1f} programs are at work here: what is measured beside them tells little; wait until they end")
    file = result_file("growth", "cpu")
    curves = json.loads(file.read_text(encoding="utf-8"))["curves"] if file.exists() else {}
    for group in options.only:
        for name, curve in GROUPS[group](options.runs).items():
            curves[name] = curve.as_json() | here("cpu") | {"load_before": load}
    finish("growth", "cpu", {"curves": curves})


if __name__ == "__main__":
    main()
