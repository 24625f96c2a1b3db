"""Ctrl-C and SIGTERM ask for an orderly end: the step is finished, the run saved."""

import signal
from types import FrameType
from typing import Any

SAVED_BUT_NOT_FINISHED = 75  # exit code; EX_TEMPFAIL in BSD's sysexits.h: "try again later"


class StopRequest:
    """Set once a signal has come; a second Ctrl-C interrupts at once. Use as a context manager, in the main thread."""

    def __init__(self) -> None:
        self._requested = False
        self._previous: dict[int, Any] = {}

    def is_set(self) -> bool:
        return self._requested

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
