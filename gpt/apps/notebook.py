"""A run as a program or a notebook uses it: what it is, its losses as a picture, and text in one line."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt.choices import WeightDtype
from gpt.errors import InputError
from gpt.generation.completion import TextEngine
from gpt.generation.sampling import SamplingConfig
from gpt.runs import load
from gpt.runs.directory import is_run
from gpt.runs.load import LoadedRun
from gpt.tracking.plot import loss_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, repr=False)
class Run(LoadedRun):
    """A trained model with its tokenizer, ready to use."""

    def __repr__(self) -> str:
        evaluation = self.state.get("evaluation") or {}
        loss = f", validation loss {evaluation['loss']:.4f}" if evaluation else ""
        return f"Run({self.source}: {self.model.extra_repr()}{loss})"

    def generate(self, prompt: str = "", stop: str | Sequence[str] = (), **settings: Any) -> str:
        """Continue a prompt, as sample.py does: give the text that follows it, up to a `stop` text, or one of several.

        `settings` are fields of `SamplingConfig`: run.generate("def read", max_tokens=50, temperature=0.5, seed=1).
        Raises InputError for a setting that there is not, or a prompt that the tokenizer cannot encode.
        """
        known = [field.name for field in dataclasses.fields(SamplingConfig)]
        if unknown := settings.keys() - known:
            raise InputError(f"`{min(unknown)}` is no setting of sampling; there are {', '.join(known)}, and `stop`")
        engine = TextEngine(self.model, self.tokenizer, max_batch=1, ends=self.answer_ends)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        events = engine.complete([prompt], SamplingConfig(**settings), stops=stops)
        return "".join(text for _, text, _ in events)

    def plot_losses(self) -> "Figure":
        """Draw the losses of its training, as in loss.png. Raises InputError for a Hugging Face model."""
        if not is_run(self.path):
            raise InputError(f"{self.path}: is no run, and has no record of its losses")
        return loss_figure(self.path)


def load_run(
    source: str | Path | None = None,
    device: str = "auto",
    dtype: WeightDtype = "float32",
    prepacked: bool = False,
    checkpoint: str | int = "best",
) -> Run:
    """Load a run, or a Hugging Face GPT-2, in evaluation mode: see `gpt.runs.load.load_run`.

    `device` auto takes CUDA, else MPS, else the CPU. Raises InputError as that does.
    """
    loaded = load.load_run(source, device, dtype, prepacked, checkpoint)
    return Run(loaded.model, loaded.source, loaded.path, loaded.state)
