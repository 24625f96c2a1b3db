"""What a training says at its end of what is reached without a network: whether its loss is what one should expect."""

from pathlib import Path
from typing import TYPE_CHECKING

from gpt.dataset.dataset import Dataset
from gpt.errors import InputError
from gpt.evaluation.baselines import (
    Baselines,
    Measuring,
    baseline_words,
    measure_baselines,
    read_baselines,
    write_baselines,
)
from gpt.evaluation.windows import Windows
from gpt.memory import is_out_of_memory
from gpt.tracking.jsonl import Metrics

if TYPE_CHECKING:
    from gpt.evaluation.words import Row


def keep_baselines(
    run: Path, dataset: Dataset, windows: Windows, measuring: Measuring | None = None
) -> Baselines | None:
    """Measure the baselines of a run's data and keep them in the run, unless they are there.

    It takes seconds, as `measure_baselines` bounds what is counted; fewer with what has measured this dataset already.
    None where they cannot be measured or kept.
    """
    kept = read_baselines(run, dataset.fingerprint)
    if kept:
        return kept
    try:
        found = measuring.measure(windows) if measuring else measure_baselines(dataset, windows)
        write_baselines(run, found)
    except Exception as error:  # the training has ended well, whatever becomes of its data, of memory or of the disk
        if not (isinstance(error, InputError | OSError) or is_out_of_memory(error)):
            raise
        return None
    return found


def baseline_rows(found: Baselines, records: list[Metrics]) -> "list[Row]":
    """Format what each baseline reaches, and from which evaluation on the model was better."""
    words = ", ".join(baseline_words(found, records))
    return [("without a network", f"{words} bits per byte"), ("", found.protocol)]
