"""What a run began with."""

from dataclasses import replace

from gpt.choices import WeightDtype
from gpt.config import TrainConfig
from gpt.device import Target
from gpt.runs.load import LoadedRun, build, fitted, read_base, ready


def load_beginning(config: TrainConfig, device: str = "cpu", dtype: WeightDtype = "float32") -> LoadedRun:
    """Load the weights of `init_from`, with the context and the vocabulary of the run, as its first step had them.

    Raises InputError if they cannot be had, or are not those of `init_sha256` any more.
    """
    base = read_base(config)
    base = replace(base, config=config.model, weights=fitted(base, config.model))
    return ready(build(base), base, Target.of(device, dtype, False))
