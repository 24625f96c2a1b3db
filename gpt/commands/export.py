"""Write a run as a Hugging Face model."""

from collections.abc import Sequence
from pathlib import Path

import tyro

from gpt.interop import huggingface
from gpt.interrupts import Interruptible
from gpt.runs.directory import newest_run
from gpt.runs.load import load_run


def main(arguments: Sequence[str] | None = None) -> None:
    with Interruptible():
        tyro.cli(export, args=arguments)


def export(to: Path, run: Path | None = None) -> None:
    """Write the best checkpoint of a run as a directory that Hugging Face transformers loads.

    Args:
        to: New directory to write.
        run: Run directory; by default the newest run.
    """
    loaded = load_run(run or newest_run(with_checkpoint=True))
    huggingface.export(loaded.model, loaded.tokenizer, to)
    print(f'{to}: {loaded.source}; load it with AutoModelForCausalLM.from_pretrained("{to}")')
