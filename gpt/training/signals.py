"""Ctrl-C, SIGTERM, SIGUSR1 and data that is lost ask for an orderly end: the step is finished, the run saved."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

from torch.distributed import is_torchelastic_launched

from gpt.errors import InputError
from gpt.interrupts import Listener, end_now, tell

SAVED_BUT_NOT_FINISHED = 75  # exit code; EX_TEMPFAIL in BSD's sysexits.h: "try again later"
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows lacks the last
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
ECHO_SECONDS = 1.0
HEARING_SECONDS = 3.0  # that the main thread is given to hear a Ctrl-C that interrupts, in the midst of a long product


class StopRequest:
    """Set once a signal has come. Use as a context manager, in the main thread.

    Within `orderly` it is answered at once, and a second Ctrl-C interrupts. Outside of it there is nothing to be
    finished or saved: there Ctrl-C interrupts at the first time, and the other signals wait.
    """

    def __init__(self) -> None:
        # torchrun passes on what its processes may have got themselves: so soon, that is no second Ctrl-C.
        self._torchrun = is_torchelastic_launched()
        self._echo_seconds = ECHO_SECONDS if self._torchrun else 0.0
        self._requested_at: float | None = None
        self.fault: InputError | None = None
        self._previous: dict[int, Any] = {}
        self._unsaved: Callable[[], str] | None = None
        self._is_orderly = self._told = False
        self._sent = self._heard = 0  # Ctrl-C, by the system and by the main thread
        self._listener = Listener(self._answer)

    def is_set(self, fault: InputError | None = None) -> bool:
        """Tell whether a signal has come, or what a step needs is lost; `fault` says so from here on."""
        self.fault = self.fault or fault
        return self._requested_at is not None or self.fault is not None

    @contextlib.contextmanager
    def orderly(self, unsaved: Callable[[], str] | None) -> Generator[None]:
        """Finish in order at a signal in this context; `unsaved` says what would be lost, None in a silent process."""
        self._unsaved, self._is_orderly = unsaved, True
        try:
            yield
        finally:
            self._is_orderly = False

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        self._listener.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.__exit__()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._torchrun:  # which sends SIGTERM as soon as one process has ended; this one is about to
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _answer(self, number: int) -> None:
        """Answer the first signal; in the listening thread, for the main one may be in the midst of a long product.

        Where the main thread does not come to be interrupted, end the process: nothing on disk is there by half.
        """
        self._sent += number == signal.SIGINT
        if number == signal.SIGINT and (self._told or not self._is_orderly) and not self._torchrun:
            impatient = threading.Timer(HEARING_SECONDS, self._end_unless_heard, (self._sent,))
            impatient.daemon = True
            impatient.start()
        if self._is_orderly and not self._told and number in SIGNALS:
            self._told = True
            if self._unsaved:
                again = f"; Ctrl-C again stops now and loses {self._unsaved()}" if number == signal.SIGINT else ""
                tell(f"\nfinishing the step and saving{again}")

    def _end_unless_heard(self, sent: int) -> None:
        if self._heard < sent:
            end_now(": ".join(filter(None, ["interrupted", self._lost()])))

    def _lost(self) -> str:
        return f"lost: {self._unsaved()}" if self._is_orderly and self._unsaved else ""

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, now = self._requested_at is None, time.monotonic()
        self._heard += number == signal.SIGINT
        if first:
            self._requested_at = now
        hurried = self._is_orderly and not first and now - (self._requested_at or now) >= self._echo_seconds
        if number == signal.SIGINT and (hurried or not (self._is_orderly or self._torchrun)):
            raise KeyboardInterrupt(*filter(None, [self._lost()]))
