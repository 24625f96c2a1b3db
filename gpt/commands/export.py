"""Write a run as a Hugging Face model."""

from collections.abc import Sequence
from pathlib import Path

import tyro
from tyro.conf import DisallowNone

from gpt.config_io import later, parse
from gpt.interop import huggingface
from gpt.interrupts import Interruptible
from gpt.runs.load import load_run


def main(arguments: Sequence[str] | None = None) -> None:
    with Interruptible():
        parse(tyro.cli, later(export), arguments, config=(DisallowNone,))()


def export(to: Path, run: Path | None = None, checkpoint: str = "best") -> None:
    """Write a checkpoint as a directory that Hugging Face transformers loads.

    Args:
        to: New directory to write.
        run: Run, by path or by name below runs/; by default the newest run.
        checkpoint: Of the run: best, last, or the number of a step.
    """
    loaded = load_run(run, checkpoint=checkpoint)
    huggingface.export(loaded.model, loaded.tokenizer, to)
    print(f'{to}: {loaded.source}; load it with AutoModelForCausalLM.from_pretrained("{to}")')
