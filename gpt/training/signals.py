"""Ctrl-C and SIGTERM ask for an orderly end: the step is finished, the run saved."""

import signal
from types import FrameType

SAVED_BUT_NOT_FINISHED = 75  # exit code; EX_TEMPFAIL in BSD's sysexits.h: "try again later"


class StopRequest:
    """True once a signal has come. A second Ctrl-C interrupts at once. Use as a context manager, in the main thread."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, signal._HANDLER] = {}

    def __bool__(self) -> bool:
        return self.requested

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
