"""Lines to answer: typed in a terminal, with editing, completion and history, or from a pipe; notes between them."""

import io
import logging
import sys
from collections.abc import Callable, Iterable

from platformdirs import user_state_path

from gpt.log import log
from gpt.terminal import printable, show

ReadLine = Callable[[str], str]


class Notes(logging.Handler):
    """Shows what the log says in brackets on standard error, on lines of their own: not before a line of text ends."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []
        self.at_line_start = True

    def emit(self, record: logging.LogRecord) -> None:
        self.waiting.append(record.getMessage())
        self._show()

    def write(self, text: str) -> None:
        """Show a text, and the notes that waited for its last line to end."""
        show(text)
        self.at_line_start = text.endswith("\n") if text else self.at_line_start
        self._show()

    def _show(self) -> None:
        while self.at_line_start and self.waiting:
            print(f"[{printable(self.waiting.pop(0))}]", file=sys.stderr, flush=True)


def line_reader(commands: Iterable[str]) -> ReadLine:
    """Make a function that shows a prompt and returns what was typed; it raises EOFError at the end.

    In a terminal, Ctrl-C raises KeyboardInterrupt, also where it comes right after Enter; Tab completes the commands,
    several lines can be pasted, and earlier lines come back, also those of earlier sessions. A pipe's lines come one
    by one, and no prompt is shown.
    """
    if typed_by_hand() and sys.stdout.isatty():
        return _terminal_reader(sorted(commands))
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # a broken character must not end the session

    def read(_: str) -> str:
        try:
            line = sys.stdin.readline() if sys.stdin is not None else ""
        except KeyboardInterrupt:  # there is no half-typed line to drop
            raise EOFError from None
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    return read


def typed_by_hand() -> bool:
    """Tell whether lines come from a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def _terminal_reader(commands: list[str]) -> ReadLine:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
    from prompt_toolkit.keys import Keys
    from prompt_toolkit.output import create_output
    from prompt_toolkit.output.vt100 import Vt100_Output
    from prompt_toolkit.shortcuts import CompleteStyle

    history = InMemoryHistory()
    try:
        file = user_state_path("gpt", appauthor=False, ensure_exists=True) / "history"
        file.touch()
        history = FileHistory(file)
    except OSError as error:
        log.warning(f"lines are not kept for later sessions: {error}")
    output = create_output()
    if isinstance(output, Vt100_Output):
        output.enable_cpr = False  # the cursor's position is of no use here, and not every terminal tells it
    session: PromptSession[str] = PromptSession(
        history=history,
        completer=WordCompleter(commands, sentence=True),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        output=output,
    )

    def read(prompt: str) -> str:
        line = session.prompt(prompt, handle_sigint=False)
        # Ctrl-C just after Enter is a key like any other until the terminal is as it was before.
        keys = [*get_typeahead(session.input), *session.input.read_keys()]
        interrupted = [i for i, press in enumerate(keys) if press.key == Keys.ControlC]
        store_typeahead(session.input, keys[interrupted[-1] + 1 :] if interrupted else keys)
        if interrupted:
            raise KeyboardInterrupt
        # Bytes that are not UTF-8 come as lone surrogates, which no file takes.
        return line.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    return read
