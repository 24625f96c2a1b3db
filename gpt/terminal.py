"""Texts of models, files and names on a terminal, which must not be steered by them."""

import contextlib
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import ClassVar

_BIDIRECTIONAL = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]  # make a text look like another one
_STAND_INS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}  # Unicode's pictures of them
_STAND_INS |= {0x7F: 0x2421} | dict.fromkeys([*range(0x80, 0xA0), *_BIDIRECTIONAL], 0xFFFD)
_LINE_ENDS = {ord("\n"): 0x240A, ord("\t"): 0x2409, 0x2028: 0xFFFD, 0x2029: 0xFFFD}


def command(name: str) -> str:
    """Write the name of a command as whoever started this program would: python train.py, or gpt train."""
    return f"python {name}.py" if Path(sys.argv[0]).suffix == ".py" and name in ("train", "sample") else f"gpt {name}"


def program_name() -> str:
    """Name the program as it was called: train.py, or gpt train."""
    return Path(sys.argv[0]).name


def printable(text: str) -> str:
    """Replace what would steer a terminal by visible stand-ins, all but line ends and tabs.

    That is every control character (C0, DEL, C1) and every one that turns the direction of writing round. An escape
    sequence without the character that begins it is plain text, also when it comes in pieces.
    """
    return text.translate(_STAND_INS)


def one_line(text: str) -> str:
    """Replace line ends and tabs as well: for names."""
    return printable(text).translate(_LINE_ENDS)


def duration(seconds: float) -> str:
    """Format seconds as 3:07 or 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class _Line:
    begun = False  # by what was shown last, which has not ended it
    waiting: ClassVar[list[Callable[[], None]]] = []  # what is said once it has


def show(text: str) -> None:
    """Write to standard output at once: printable on a terminal, and into a pipe or a file as the text is."""
    if _Line.waiting and "\n" in text:
        line, end, text = text.partition("\n")
        _write(line + end)
        while _Line.waiting:
            _Line.waiting.pop(0)()
    _write(text)


def _write(text: str) -> None:
    print(printable(text) if sys.stdout.isatty() else text, end="", flush=True)
    _Line.begun = not text.endswith("\n") if text else _Line.begun


def between_lines(say: Callable[[], None]) -> None:
    """Call `say`, which writes lines to standard error; or, where they would stand in a line of text that `show` has
    begun, let it wait until that has ended."""
    if _Line.begun and _output_is_errors():
        _Line.waiting.append(say)
    else:
        say()


def end_line() -> None:
    """End a line that `show` has begun and nothing will, before the last words; and say what has waited for it."""
    if _Line.begun and _output_is_errors():
        show("\n")


def _output_is_errors() -> bool:
    """Tell whether both go to the same terminal, file or pipe, so that they are read as one text."""
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # one of them is closed, or is no file
        return False


@contextlib.contextmanager
def output_to_errors() -> Generator[None]:
    """Send what is written to standard output in this context to standard error: by this process, by libraries that are
    not written in Python, and by the programs that they start. Standard output belongs to results."""
    with contextlib.ExitStack() as stack:
        try:
            output = os.dup(1)
            stack.callback(os.close, output)
            os.dup2(2, 1)
            stack.callback(os.dup2, output, 1)
        except OSError:  # one of them is closed, and nobody can write there
            pass
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield
