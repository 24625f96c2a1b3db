"""What all commands share: bad input becomes a sentence, settings become flags, and texts come from stdin."""

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from gpt.errors import InputError, ProcessLost, Reported
from gpt.interrupts import INTERRUPTED, last_words, loaded
from gpt.log import StandardError, log
from gpt.memory import is_out_of_memory
from gpt.terminal import end_line, printable

LESS_MEMORY = "use a smaller batch, model or context, or another --device; or see what else takes memory"
EXIT_PROCESS_LOST = 3  # exit code of a process whose fellow died or hangs
BROKEN_PIPE = 128 + 13  # as a shell reports a program that SIGPIPE ended


STANDARD_INPUT = Path("-")  # in place of a file
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
        if error is not None:
            with contextlib.suppress(OSError):
                end_line()
        if isinstance(error, InputError | OSError | ProcessLost):
            if not isinstance(error, Reported):
                print(f"error: {printable(as_flags(_words(error)))}", file=sys.stderr, flush=True)
            if isinstance(error, ProcessLost):
                os._exit(EXIT_PROCESS_LOST)  # an orderly end would wait for the lost one
            sys.exit(2)
        if error is not None and is_out_of_memory(error):
            print(f"error: out of memory ({type(error).__name__}); {LESS_MEMORY}", file=sys.stderr, flush=True)
            sys.exit(2)
        if isinstance(error, KeyboardInterrupt):
            last_words(": ".join(["interrupted", *map(str, error.args)]))
            sys.exit(INTERRUPTED)


def _words(error: BaseException) -> str:
    """Say what an error says; of one of the system, without its number."""
    if isinstance(error, OSError) and isinstance(error.filename, str | os.PathLike) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


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
        raise InputError(
            f"{name}: is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8, or convert it: "
            "iconv -f ENCODING -t utf-8"
        ) from None
