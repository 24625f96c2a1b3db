"""Says how far a long work is."""

import threading
import time

from gpt.log import log

EVERY_SECONDS = 3.0


class Progress:
    """Says every few seconds what is being done: `doing`, which the work sets. A context manager.

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
