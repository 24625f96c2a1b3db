"""Tell how likely a model finds a text, token by token."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff

from gpt import commands as cli
from gpt.apps.render import Totals, bits, print_score_json, print_scores
from gpt.choices import Device, WeightDtype
from gpt.config_io import later, parse
from gpt.device import choose_device
from gpt.errors import InputError
from gpt.generation.score import TokenScore, score_text
from gpt.interrupts import Interruptible
from gpt.log import log
from gpt.runs.directory import quoted
from gpt.runs.load import load_run
from gpt.terminal import command, program_name

SECONDS = 10.0  # between two lines of progress


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `gpt score` with options from the command line."""
    with Interruptible():
        parse(tyro.cli, later(score), arguments, prog=program_name(), config=(DisallowNone,))()


def score(
    run: Path | None = None,
    checkpoint: str = "best",
    text: str | None = None,
    file: Path | None = None,
    top_logprobs: int = 0,
    json: FlagCreatePairsOff[bool] = False,
    device: Device = "auto",
    dtype: WeightDtype = "auto",
) -> None:
    """Print the surprisal of each token of a text, and of all of it, in bits: -log2 p.

    A text is read after end-of-text, if the model has it; other programs may not.

    A long one is read in windows, where each token has half a context before it.

    Args:
        run: Run, by path or by name below runs/, or Hugging Face GPT-2; by default the newest run.
        checkpoint: Of the run: best, last, or the number of a step.
        text: The text; by default it is read from --file or standard input, as it stands, with its last line's end.
        file: File of the text (UTF-8); - is standard input.
        top_logprobs: Also print so many of the likeliest tokens, with their surprisals.
        json: Print one JSON object instead, with natural logarithms of probabilities.
        device: Where to compute; auto takes CUDA, else MPS, else the CPU.
        dtype: Precision of the weights, as gpt sample has it.
    """
    if text is not None and file is not None:
        raise InputError("--text and --file: give one of them")
    if top_logprobs < 0:
        raise InputError(f"--top-logprobs is {top_logprobs}; it must be at least 0")
    if file not in (None, cli.STANDARD_INPUT):
        text = cli.read_text(f"--file {file}", lambda encoding: file.read_bytes().decode(encoding))
    elif text is None:
        text = cli.read_standard_input()
    if not text:
        raise InputError("the text is empty; there is nothing to score")
    loaded = load_run(run, choose_device(device), dtype, checkpoint=checkpoint)
    if run is None:
        log.info(f"using {loaded.source}")
    totals = Totals(len(text.encode(errors="replace")))
    scores = score_text(loaded.model, loaded.tokenizer, text, top_logprobs)
    if json or not sys.stdout.isatty():
        scores = _with_progress(scores, totals.bytes)
    if json:
        print_score_json(scores, totals, loaded.source)
    else:
        print_scores(totals.count(scores), unit=bits)
        print("\n".join(totals.lines()), flush=True)
        log.info(f"continue a text: {command('sample')} --run {quoted(run or loaded.path)}")


def _with_progress(scores: Iterable[TokenScore], size: int) -> Iterator[TokenScore]:
    """Pass scores on, and say from time to time which part of a text of so many bytes they have come to."""
    done, shown = 0, time.monotonic()
    for score in scores:
        yield score
        done += len(score.text.encode(errors="replace"))
        if time.monotonic() - shown >= SECONDS:
            shown = time.monotonic()
            log.info(f"{min(1.0, done / size):.0%} of {size:,} bytes")
