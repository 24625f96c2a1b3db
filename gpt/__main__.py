"""`gpt COMMAND` or `python -m gpt COMMAND`: train, sample, prepare, eval, score, export, cost.

A command's module is imported when it is called for, after Ctrl-C is heard: that takes seconds.
"""

import importlib
import runpy
import sys
from pathlib import Path

from gpt.errors import did_you_mean
from gpt.interrupts import end_quietly_while_loading

USAGE = """\
usage: gpt COMMAND [options]

  train    train a model on a dataset          (the same as train.py)
  sample   continue a text, or interactively   (the same as sample.py)
  prepare  write a corpus as a dataset         (the same as data/prepare.py)
  score    how likely a model finds a text, token by token
  eval     loss, bits per byte and perplexity of runs on a dataset's whole validation split
  export   write a run as a Hugging Face model
  cost     parameters, FLOPs and memory of a preset

gpt COMMAND --help lists a command's options."""

# The scripts lie beside the package in a checkout, and inside it in a wheel.
SCRIPTS = next(
    path for path in (Path(__file__).parents[1], Path(__file__).parent / "scripts") if (path / "train.py").exists()
)
FUNCTIONS = {"score": "score", "eval": "evaluate", "export": "export", "cost": "cost"}  # each in a module of its name


def main() -> None:
    command, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if command in ("train", "sample"):
        script = SCRIPTS / f"{command}.py"
        sys.argv = [f"gpt {command}", *arguments]
        runpy.run_path(str(script), run_name="__main__")
    elif command == "prepare":
        end_quietly_while_loading()
        from gpt.commands import clean_errors, prepare

        sys.argv = ["gpt prepare", *arguments]
        with clean_errors():
            sys.exit(prepare.main(arguments))
    elif command in FUNCTIONS:
        end_quietly_while_loading()
        from gpt import commands

        name = FUNCTIONS[command]
        commands.launch(
            getattr(importlib.import_module(f"gpt.commands.{name}"), name), arguments, prog=f"gpt {command}"
        )
    elif command in ("-h", "--help"):
        print(USAGE)
    else:
        known = ["train", "sample", "prepare", *FUNCTIONS]
        print(f"error: unknown command {command!r}; {did_you_mean(command, known)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
