"""What all commands share: bad input becomes a sentence, settings become flags, and texts come from stdin."""

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps

from gpt.errors import InputError, ProcessLost, Reported
from gpt.interrupts import INTERRUPTED, last_words, loaded
from gpt.log import StandardError, log
from gpt.memory import is_out_of_memory
from gpt.terminal import printable

LESS_MEMORY = "use a smaller batch, model or context, or another --device; or see what else takes memory"
EXIT_PROCESS_LOST = 3  # exit code of a process whose fellow died or hangs
BROKEN_PIPE = 128 + 13  # as a shell reports a program that SIGPIPE ended


FIELD = re.compile(r"`([a-z]\w*(?:\.\w+)*)`")  # a setting, as the library names it


def as_flags(message: str) -> str:
    """Write the settings that a message names in backquotes as flags: `batch_tokens` as --batch-tokens."""
    return FIELD.sub(lambda match: f"--{match[1].replace('_', '-')}", message)


class _AsFlags(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = as_flags(record.getMessage()), ()
        return True


def speak() -> None:
    """Show what the package says on standard error, with settings written as flags."""
    log.logger.setLevel(logging.INFO)
    log.logger.handlers = [SPEAKER]
    SPEAKER.addFilter(AS_FLAGS)


SPEAKER, AS_FLAGS = StandardError(), _AsFlags()


class clean_errors:
    """A context in which bad input, a failing disk and a lack of memory end the program with a sentence and code 2."""

    def __enter__(self) -> None:
        loaded()
        if sys.stderr is None:  # closed, as by 2>&-: print would take standard output for it
            sys.stderr = open(os.devnull, "w", encoding="utf-8")
        speak()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a console that lacks a character shows "?" instead of failing

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BrokenPipeError):  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor may the flush at exit fail
            sys.exit(BROKEN_PIPE)
        if isinstance(error, InputError | OSError | ProcessLost):
            if not isinstance(error, Reported):
                print(f"error: {printable(as_flags(str(error)))}", file=sys.stderr, flush=True)
            if isinstance(error, ProcessLost):
                os._exit(EXIT_PROCESS_LOST)  # an orderly end would wait for the lost one
            sys.exit(2)
        if error is not None and is_out_of_memory(error):
            print(f"error: out of memory ({type(error).__name__}); {LESS_MEMORY}", file=sys.stderr, flush=True)
            sys.exit(2)
        if isinstance(error, KeyboardInterrupt):
            last_words(": ".join(["interrupted", *map(str, error.args)]))
            sys.exit(INTERRUPTED)


def chosen(
    commands: dict[str, Callable[..., int]], arguments: Sequence[str], prog: str, description: str
) -> Callable[[], int]:
    """Read the arguments of one of several commands; the call of it, which is yet to be made.

    What is wrong with them raises InputError, in a sentence and without the parser's box.
    """
    from tyro.conf import DisallowNone
    from tyro.extras import subcommand_cli_from_dict

    from gpt.config_io import FLAGS

    later = {name: _later(each) for name, each in commands.items()}
    with contextlib.redirect_stderr(io.StringIO()) as box:
        try:
            return subcommand_cli_from_dict(
                later, args=arguments, prog=prog, description=description, config=(DisallowNone,), registry=FLAGS
            )
        except SystemExit as end:
            if end.code != 2:
                raise
            raise InputError(_in_a_sentence(box.getvalue())) from None


def _later(command: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """Have a parser make the call of a command, instead of calling it."""
    return wraps(command)(lambda *given, **named: partial(command, *given, **named))


def _in_a_sentence(box: str) -> str:
    """Say what the parser's box says in its first part, below the title, which is drawn with or without Unicode."""
    lines = [line.strip("│ ") for line in box.strip().splitlines()[1:]]
    rules = [number for number, line in enumerate(lines) if line and not line.strip("─-╰╯")] + [len(lines)]
    first, stop = (0, rules[0]) if rules[0] else (1, rules[1])
    words = " ".join(" ".join(lines[first:stop]).split())
    words = re.sub(r"^Missing from (.*?): (\S+).*", r"\1 lacks \2", words)
    words = re.sub(r"^Error parsing (\S+): .* Got errors: - (?:<[^>]*>: )?", r"\1: ", words)
    return re.sub(r"^Unrecognized options: ", "there is no such option, or it is one too many: ", words)


def at_terminal() -> bool:
    return sys.stdin is None or sys.stdin.isatty()


def read_standard_input() -> str:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    return read_text("standard input", lambda encoding: sys.stdin.read().removeprefix("\ufeff"))


def read_text(name: str, read: Callable[[str], str]) -> str:
    """Return what `read` gives for an encoding. Raises InputError, with the name, if that is not UTF-8 text.

    A byte-order mark, as editors on Windows write it, is no part of the text.
    """
    try:
        return read("utf-8-sig")
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: is not UTF-8 ({error.reason} at byte {error.start})") from None
