"""Ctrl-C, SIGTERM and SIGUSR1 ask for an orderly end: the step is finished, the run saved."""

import signal
import time
from types import FrameType
from typing import Any

from torch.distributed import is_torchelastic_launched

SAVED_BUT_NOT_FINISHED = 75  # exit code; EX_TEMPFAIL in BSD's sysexits.h: "try again later"
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows lacks the last
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
ECHO_SECONDS = 1.0


class StopRequest:
    """Set once a signal has come; a second Ctrl-C interrupts at once. Use as a context manager, in the main thread."""

    def __init__(self) -> None:
        # torchrun passes on what its processes may have got themselves: so soon, that is no second Ctrl-C.
        self._echo_seconds = ECHO_SECONDS if is_torchelastic_launched() else 0.0
        self._requested_at: float | None = None
        self._previous: dict[int, Any] = {}

    def is_set(self) -> bool:
        return self._requested_at is not None

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if is_torchelastic_launched():  # which sends SIGTERM as soon as one process has ended; this one is about to
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested_at is None:
            self._requested_at = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._requested_at >= self._echo_seconds:
            raise KeyboardInterrupt
