"""Tell what a model costs: parameters, FLOPs and memory.

Nothing is computed on a device: time is forecast by `gpt train PRESET --dry-run`.
"""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional, arg

from gpt.analysis.cost import FLOAT32, cost_lines, memory_lines, training_memory
from gpt.commands import as_flags
from gpt.config import TrainConfig
from gpt.config_io import later, overlay, parse, settings_type
from gpt.log import log
from gpt.presets import PRESETS
from gpt.presets import preset as find_preset

if TYPE_CHECKING:
    Settings = dict[str, Any]
else:
    Settings = settings_type(TrainConfig, as_flags, left_out=("preset",))


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parse(tyro.cli, later(cost), arguments)()
    log.info(f"forecast its time here: gpt train {shlex.join(arguments)} --dry-run")


def cost(
    preset: Annotated[str, Positional, arg(metavar="PRESET", help=f"One of {', '.join(PRESETS)}.")],
    settings: Annotated[Settings, arg(name="")],
) -> None:
    """Print what a preset, changed by flags, costs: parameters, FLOPs, tokens, memory.

    Memory is that of one process on a CPU, by default for a sequence at a time.
    """
    config = overlay(find_preset(preset), settings)
    size = 1 if config.micro_batch_size == "auto" else config.micro_batch_size
    value_bytes = FLOAT32 if config.dtype in ("auto", "float32") else FLOAT32 // 2
    print("\n".join(cost_lines(config) + memory_lines(training_memory(config, size, value_bytes=value_bytes))))
