"""Tell how likely a model finds a text, token by token."""

from collections.abc import Sequence
from pathlib import Path

import tyro
from tyro.conf import FlagCreatePairsOff

from gpt import commands as cli
from gpt.apps.render import bits, print_score_json, print_scores, score_lines
from gpt.choices import Device, WeightDtype
from gpt.device import choose_device
from gpt.errors import InputError
from gpt.generation.score import score_text
from gpt.interrupts import Interruptible
from gpt.runs.directory import newest_run
from gpt.runs.load import load_run


def main(arguments: Sequence[str] | None = None) -> None:
    with Interruptible():
        tyro.cli(score, args=arguments)


def score(
    run: Path | None = None,
    text: str | None = None,
    file: Path | None = None,
    top_logprobs: int = 0,
    json: FlagCreatePairsOff[bool] = False,
    device: Device = "auto",
    dtype: WeightDtype = "auto",
) -> None:
    """Print the surprisal of each token of a text in bits, -log2 of its probability, and of the whole text.

    Args:
        run: Run directory, or Hugging Face GPT-2; by default the newest run.
        text: The text; by default it is read from --file or standard input.
        file: File of the text (UTF-8).
        top_logprobs: Also print so many of the likeliest tokens, with their surprisals.
        json: Print one JSON object instead, with natural logarithms of probabilities.
        device: Where to compute; auto takes CUDA, else MPS, else the CPU.
        dtype: Precision of the weights, as sample.py has it.
    """
    if text is not None and file is not None:
        raise InputError("--text and --file: give one of them")
    if top_logprobs < 0:
        raise InputError(f"--top-logprobs is {top_logprobs}; it must be at least 0")
    if file is not None:
        text = cli.read_text(f"--file {file}", file.read_bytes().decode)
    elif text is None:
        text = cli.read_standard_input()
    if not text:
        raise InputError("the text is empty; there is nothing to score")
    loaded = load_run(run or newest_run(with_checkpoint=True), choose_device(device), dtype)
    scores = score_text(loaded.model, loaded.tokenizer, text, top_logprobs)
    if json:
        print_score_json(scores, text)
    else:
        print_scores(scores, unit=bits)
        print("\n".join(score_lines(scores, text)))
