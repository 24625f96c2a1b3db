"""The package's one voice: `from gpt.log import log`, then `log.info`, `log.warning` or `log.warning_once`.

Standard output belongs to results. What is said here goes to standard error, from the main process alone. A program
that uses the package as a library hears warnings, as Python has it, and sets the logger named "gpt" up as it likes.
"""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Generator

from gpt.terminal import begin_line, printable


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
        others, self.logger.handlers = self.logger.handlers, [handler]
        handler.filters = [each for other in others for each in other.filters]
        level = self.logger.level
        self.logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            self.logger.handlers = others
            self.logger.setLevel(level)


class StandardError(logging.Handler):
    """Writes lines of their own to the standard error of that moment, and goes on when its reader has closed."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            begin_line()
            print(printable(record.getMessage()), file=sys.stderr, flush=True)


log = Log("gpt")


EVERY_SECONDS = 3.0


class Progress:
    """Says every few seconds how far a long work is: `doing`, which the work sets. A context manager.

    It speaks from a thread of its own, since a library may hold the main one.
    """

    def __init__(self) -> None:
        self.doing = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._speak, name="progress", daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _speak(self) -> None:
        start = time.monotonic()
        while not self._over.wait(EVERY_SECONDS):
            log.info(f"{self.doing} ({time.monotonic() - start:.0f} s)")
