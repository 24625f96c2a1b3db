"""`gpt COMMAND` or `python -m gpt COMMAND`: train, sample, eval, export, cost."""

import runpy
import sys
from pathlib import Path
from typing import Annotated

from gpt.interrupts import end_quietly_while_loading

if __name__ == "__main__":
    end_quietly_while_loading()

from tyro.conf import FlagCreatePairsOff, Positional, arg

from gpt import cli
from gpt.analysis.cost import cost_lines, memory_lines, training_memory
from gpt.cli.evaluate import evaluate
from gpt.config import Device, Weights
from gpt.device import choose_device
from gpt.errors import InputError, did_you_mean
from gpt.generation.score import score_text
from gpt.generation.show import bits, print_score_json, print_scores, score_lines
from gpt.interop.huggingface import export as export_model
from gpt.presets import preset as find_preset
from gpt.run import load_run, newest_run

USAGE = """\
usage: gpt COMMAND [options]

  train    train a model on a dataset          (the same as train.py)
  sample   continue a text, or interactively   (the same as sample.py)
  score    how likely a model finds a text, token by token
  eval     loss, bits per byte and perplexity of runs on a dataset's whole validation split
  export   write a run as a Hugging Face model
  cost     parameters, FLOPs and memory of a preset

gpt COMMAND --help lists a command's options."""

# The scripts lie beside the package in a checkout, and inside it in a wheel.
SCRIPTS = next(
    path for path in (Path(__file__).parents[1], Path(__file__).parent / "scripts") if (path / "train.py").exists()
)


def score(
    run: Path | None = None,
    text: str | None = None,
    file: Path | None = None,
    alternatives: int = 0,
    json: FlagCreatePairsOff[bool] = False,
    device: Device = "auto",
    dtype: Weights = "auto",
) -> None:
    """Print the surprisal of each token of a text in bits, -log2 of its probability, and of the whole text.

    Args:
        run: Run directory, or Hugging Face GPT-2; by default the newest run.
        text: The text; by default it is read from --file or standard input.
        file: File of the text (UTF-8).
        alternatives: Also print so many of the likeliest tokens, with their surprisals.
        json: Print one JSON object instead, with natural logarithms of probabilities.
        device: Where to compute; auto takes CUDA, else MPS, else the CPU.
        dtype: Precision of the weights, as sample.py has it.
    """
    if text is not None and file is not None:
        raise InputError("--text and --file: give one of them")
    if alternatives < 0:
        raise InputError(f"--alternatives is {alternatives}; it must be at least 0")
    if file is not None:
        text = cli.read_text(f"--file {file}", file.read_bytes().decode)
    elif text is None:
        text = cli.read_standard_input()
    if not text:
        raise InputError("the text is empty; there is nothing to score")
    loaded = load_run(run or newest_run(with_checkpoint=True), choose_device(device), cli.complain, dtype)
    scores = score_text(loaded.model, loaded.tokenizer, text, alternatives)
    if json:
        print_score_json(scores, text)
    else:
        print_scores(scores, unit=bits)
        print("\n".join(score_lines(scores, text)))


def export(to: Path, run: Path | None = None) -> None:
    """Write the best checkpoint of a run as a directory that Hugging Face transformers loads.

    Args:
        to: New directory to write.
        run: Run directory; by default the newest run.
    """
    loaded = load_run(run or newest_run(with_checkpoint=True))
    export_model(loaded.model, loaded.tokenizer, to)
    print(f'{to}: {loaded.source}; load it with AutoModelForCausalLM.from_pretrained("{to}")')


def cost(preset: Annotated[str, Positional, arg(metavar="PRESET")]) -> None:
    """Print what a preset costs: parameters, FLOPs, steps, tokens, and memory for one sequence at a time.

    Args:
        preset: nano, shakespeare-char-modern, shakespeare-char-cpu, finetune, gpt2-modern, gpt2, gpt2-medium,
            gpt2-large or gpt2-xl.
    """
    config = find_preset(preset)
    print("\n".join(cost_lines(config) + memory_lines(training_memory(config, micro_batch=1))))


COMMANDS = {"score": score, "eval": evaluate, "export": export, "cost": cost}


def main() -> None:
    command, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if command in ("train", "sample"):
        script = SCRIPTS / f"{command}.py"
        sys.argv = [f"gpt {command}", *arguments]
        runpy.run_path(str(script), run_name="__main__")
    elif command in COMMANDS:
        cli.run(COMMANDS[command], arguments, prog=f"gpt {command}")
    elif command in ("-h", "--help"):
        print(USAGE)
    else:
        print(
            f"error: unknown command {command!r}; {did_you_mean(command, ['train', 'sample', *COMMANDS])}",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
