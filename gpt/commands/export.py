"""`gpt export`: a run as a Hugging Face model."""

from pathlib import Path

from gpt.interop import huggingface
from gpt.runs.load import load_run


def export(to: Path, run: Path | None = None, checkpoint: str = "best") -> None:
    """Write a checkpoint of a run as a directory that Hugging Face transformers loads.

    Args:
        to: New directory to write.
        run: Run directory; by default the newest run.
        checkpoint: Best, last, or the number of a step.
    """
    loaded = load_run(run, checkpoint=checkpoint)
    huggingface.export(loaded.model, loaded.tokenizer, to)
    print(f'{to}: {loaded.source}; load it with AutoModelForCausalLM.from_pretrained("{to}")')
