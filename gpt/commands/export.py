"""`gpt export`: a run as a Hugging Face model."""

from pathlib import Path

from gpt.interop import huggingface
from gpt.runs.directory import newest_run
from gpt.runs.load import load_run


def export(to: Path, run: Path | None = None) -> None:
    """Write the best checkpoint of a run as a directory that Hugging Face transformers loads.

    Args:
        to: New directory to write.
        run: Run directory; by default the newest run.
    """
    loaded = load_run(run or newest_run(with_checkpoint=True))
    huggingface.export(loaded.model, loaded.tokenizer, to)
    print(f'{to}: {loaded.source}; load it with AutoModelForCausalLM.from_pretrained("{to}")')
