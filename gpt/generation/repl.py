"""The interactive session: what is typed is continued; lines that begin with / change how."""

import dataclasses
import importlib
import io
import sys
from collections.abc import Callable
from typing import Any

from gpt.config import SamplingConfig
from gpt.errors import InputError, did_you_mean
from gpt.generation.text import continue_text
from gpt.model.transformer import GPT
from gpt.tokens.tokenizer import Tokenizer

HELP = """\
Type a text and the model continues it. An empty line goes on from where it stopped. Commands:
  /temperature 0.7   randomness; 0 always takes the likeliest token
  /top-k 50          draw among the 50 likeliest tokens
  /max-tokens 200    longest continuation, in tokens
  /seed 3            make the following continuations repeatable
  /reset             forget the text, and go back to the settings of the command line
  /help              this text
Ctrl-C stops a continuation, Ctrl-D leaves."""

SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "/temperature": ("temperature", float),
    "/top-k": ("top_k", int),
    "/max-tokens": ("max_tokens", int),
    "/seed": ("seed", int),
}


class Session:
    """The text so far and the settings; `answer` handles one line."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        sampling: SamplingConfig,
        stops: tuple[str, ...],
        write: Callable[[str], None],
    ) -> None:
        self.model, self.tokenizer, self.stops, self.write = model, tokenizer, stops, write
        self.original = self.sampling = sampling
        self.text = ""

    def answer(self, line: str) -> None:
        """Obey a command, or continue a text. Raises InputError for a command that cannot be obeyed."""
        if not line.startswith("/"):
            self._continue(line)
            return
        command, *arguments = line.split()
        if command == "/help":
            self.write(HELP + "\n")
        elif command == "/reset":
            self.text, self.sampling = "", self.original
            self.write("text forgotten; settings as on the command line\n")
        elif command in SETTINGS:
            self._set(command, arguments)
        else:
            raise InputError(f"unknown command {command!r}; {did_you_mean(command, [*SETTINGS, '/help', '/reset'])}")

    def _set(self, command: str, arguments: list[str]) -> None:
        name, parse = SETTINGS[command]
        try:
            (argument,) = arguments
            value = parse(argument)
        except ValueError:
            raise InputError(
                f"{command} takes one number, such as: {command} {getattr(SamplingConfig(seed=3), name)}"
            ) from None
        self.sampling = dataclasses.replace(self.sampling, **{name: value})
        self.write(f"{name} is {value}\n")

    def _continue(self, line: str) -> None:
        self.text = line or self.text
        self.write(line)
        try:
            for _, text, _ in continue_text(
                self.model, self.tokenizer, self.text, self.sampling, stops=self.stops, notify=self._notify
            ):
                self.text += text
                self.write(text)
        finally:
            self.write("\n")
            if self.sampling.seed is not None:  # the next continuation draws other numbers, but repeatable ones
                self.sampling = dataclasses.replace(self.sampling, seed=self.sampling.seed + 1)

    def _notify(self, message: str) -> None:
        self.write(f"\n[{message}]\n")


def interact(title: str, model: GPT, tokenizer: Tokenizer, sampling: SamplingConfig, stops: tuple[str, ...]) -> None:
    """Read lines from the terminal until Ctrl-D; `title` says what answers."""
    try:
        importlib.import_module("readline")  # line editing and history for input(); Windows has its own
    except ImportError:
        print("(no readline here: lines cannot be edited)")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a broken character is no reason to end the session
    session = Session(model, tokenizer, sampling, stops, lambda text: print(text, end="", flush=True))
    print(f"{title}: type a text to continue it, /help for the commands, Ctrl-D to leave")
    while True:
        try:
            session.answer(input("> "))
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n[stopped]")
        except InputError as error:
            print(error)
