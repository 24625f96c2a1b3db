"""Call a command by its name: `gpt COMMAND` or `python -m gpt COMMAND`.

A command is a module of gpt/commands with a `main(arguments)`, imported when it is called for, after Ctrl-C is heard:
that takes seconds. What help and a mistyped name need is imported where they do.
"""

import importlib
import sys
from collections.abc import Sequence

from gpt.interrupts import end_quietly_while_loading

COMMANDS = {
    "prepare": "prepare",
    "train": "train",
    "tune": "tune",
    "sample": "sample",
    "eval": "evaluate",
    "compare": "compare",
    "lm-eval": "lm_eval",
    "score": "score",
    "memorized": "memorized",
    "forgot": "forgot",
    "tokenizer": "tokenizer",
    "runs": "runs",
    "plot": "plot",
    "data": "data",
    "merge": "merge",
    "export": "export",
    "cost": "cost",
}


OTHER_SPELLINGS = {"memorised": "memorized"}
# What other programs call them.
CALLED = {"version": "--version", "list": "runs", "info": "runs", "generate": "sample", "evaluate": "eval"}
CALLED |= dict.fromkeys(("finetune", "fine-tune"), "train finetune")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command with its arguments, by default those of the process, and exit with its code."""
    if arguments is None:  # this is the process's own: Ctrl-C may come from here on
        end_quietly_while_loading()
        arguments = sys.argv[1:]
    command, *rest = arguments or ["--help"]
    if command == "help" and rest:
        command, rest = rest[0], ["--help"]
    command = OTHER_SPELLINGS.get(command, command)
    if command in ("-h", "--help", "help"):
        print(usage())
    elif command in ("-V", "--version"):
        from importlib.metadata import version

        print(f"gpt {version('gpt')}")
    elif command in COMMANDS:
        call(command, rest)
    else:
        from gpt.errors import did_you_mean

        called = CALLED.get(command)
        meant = f"did you mean {called!r}?" if called else did_you_mean(command, [*COMMANDS, "help"])
        print(f"error: unknown command {command!r}; {meant}", file=sys.stderr)
        sys.exit(2)


def call(command: str, arguments: Sequence[str]) -> None:
    """Import a command and run it; bad input becomes a sentence."""
    end_quietly_while_loading()
    sys.argv = [f"gpt {command}", *arguments]  # what it calls itself
    from gpt.commands import clean_errors
    from gpt.commands.ahead import begin

    begin(command, arguments)
    module = importlib.import_module(f"gpt.commands.{COMMANDS[command]}")
    with clean_errors():
        sys.exit(module.main(arguments))


def usage() -> str:
    """List the commands, each with the first line of its module's docstring."""
    lines = [f"  {command:9} {_summary(module)}" for command, module in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gpt COMMAND [options]",
            "",
            *lines,
            "",
            "gpt help COMMAND lists a command's options; gpt --version tells the version.",
        ]
    )


def _summary(module: str) -> str:
    import ast
    from pathlib import Path

    source = (Path(__file__).parent / "commands" / f"{module}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].rstrip(".")


if __name__ == "__main__":
    main()
