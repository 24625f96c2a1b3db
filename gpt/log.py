"""The package's one voice: `from gpt.log import log`, then `log.info`, `log.warning` or `log.warning_once`.

Standard output belongs to results. What is said here goes to standard error, from the main process alone. A program
that uses the package as a library hears warnings, as Python has it, and sets the logger named "gpt" up as it likes.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Generator

from gpt.terminal import between_lines, one_line, printable


class Log(logging.LoggerAdapter):
    """A logger that speaks for the main process alone, and can say a thing once."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})
        self.is_main = True  # of several processes, the one that speaks for all
        self._said: set[str] = set()
        self.logger.addFilter(lambda record: self.is_main)

    def warning_once(self, message: str) -> None:
        """Warn, unless this process has given the same warning before."""
        if message not in self._said:
            self._said.add(message)
            self.warning(message)

    @contextlib.contextmanager
    def through(self, handler: logging.Handler) -> Generator[None]:
        """Let `handler` show everything in this context, and nobody else."""
        others, level, self.logger.handlers = self.logger.handlers, self.logger.level, [handler]
        handler.filters = [each for other in others for each in other.filters]
        self.logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            self.logger.handlers = others
            self.logger.setLevel(level)


class StandardError(logging.Handler):
    """Writes lines of their own to the standard error of that moment, and goes on when its reader has closed."""

    live = ""  # a line that stands below all others, and is drawn again and again

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            between_lines(lambda: _write(f"{_blanks(self.live)}{printable(record.getMessage())}\n{self.live}"))

    @property
    def is_seen(self) -> bool:
        """Tell whether this process speaks, and on a terminal."""
        return log.is_main and sys.stderr is not None and sys.stderr.isatty()

    def draw(self, line: str) -> None:
        """Draw the live line, as much of it as the terminal is wide, in place of the one before; '' takes it away."""
        with self.lock or contextlib.nullcontext(), contextlib.suppress(OSError):
            line = line and f"{one_line(line)[: os.get_terminal_size(sys.stderr.fileno()).columns - 1]}\r"
            blanks, self.live = _blanks(self.live), line
            _write(f"{blanks}{line}")


def _write(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _blanks(line: str) -> str:
    return f"{' ' * len(line)}\r" if line else ""


log = Log("gpt")


EVERY_SECONDS, EVERY_SECONDS_LIVE = 3.0, 0.25


class Progress:
    """Says how far a long work is: `doing`, whose text the work changes. A context manager.

    Every few seconds it says a line; or, if that is to be `live`, and is seen on a terminal, draws one again and again.
    It speaks from a thread of its own, since a library may hold the main one.
    """

    def __init__(self, live: bool = False) -> None:
        self.doing: object = ""
        speakers = [each for each in log.logger.handlers if live and isinstance(each, StandardError)]
        self._draw = speakers[0].draw if speakers and speakers[0].is_seen else None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._speak, name="progress", daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._draw:
            self._draw("")

    def _speak(self) -> None:
        start = time.monotonic()
        while not self._over.wait(EVERY_SECONDS_LIVE if self._draw else EVERY_SECONDS):
            if doing := str(self.doing):
                (self._draw or log.info)(f"{doing} ({time.monotonic() - start:.0f} s)")
