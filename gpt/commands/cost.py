"""`gpt cost`: what a preset costs."""

from typing import Annotated

from tyro.conf import Positional, arg

from gpt.analysis.cost import cost_lines, memory_lines, training_memory
from gpt.presets import preset as find_preset


def cost(preset: Annotated[str, Positional, arg(metavar="PRESET")]) -> None:
    """Print what a preset costs: parameters, FLOPs, steps, tokens, and memory for one sequence at a time.

    Args:
        preset: nano, shakespeare-char-modern, shakespeare-char-cpu, finetune, gpt2-modern, gpt2, gpt2-medium,
            gpt2-large or gpt2-xl.
    """
    config = find_preset(preset)
    print("\n".join(cost_lines(config) + memory_lines(training_memory(config, micro_batch=1))))
