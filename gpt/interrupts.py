"""Ctrl-C, heard at once: while a program loads its libraries, and while one of them holds the main thread.

Python runs a handler between two steps of the main thread, which may be seconds away. The system's own part of the
handler writes a byte to a socket at once, and a thread that waits for it can speak, and end the process.
"""

import contextlib
import gc
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

INTERRUPTED = 130  # exit code, as a shell reports a program that SIGINT ended
GRACE_SECONDS = 1.0


def end_quietly_while_loading() -> None:
    """Let Ctrl-C end the process with a word instead of a traceback, until the program is loaded (see `loaded`).

    So does a library that is not installed, as where the environment is not active. Nor is garbage looked for until
    then: loading makes none, and is a tenth quicker without.
    """
    gc.disable()
    sys.excepthook = _explain
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where whoever started it has it ignored
        signal.signal(signal.SIGINT, _end)


def loaded() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from here on, as usual."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not gc.isenabled():
        gc.freeze()  # what was loaded stays
        gc.enable()


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say which library is missing, and of which Python; any other error has its traceback."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else "gpt"
    if name == "gpt":
        sys.__excepthook__(kind, error, trace)
        return
    tell(
        f"error: {name} is not installed for {sys.executable}: activate the environment that has it (source "
        ".venv/bin/activate), or install it there (pip install -e .)"
    )


def _end(number: int, frame: FrameType | None) -> None:
    end_now("interrupted")


def end_now(words: str) -> None:
    """End the process without waiting for its threads."""
    tell(words)
    os._exit(INTERRUPTED)


def tell(words: str) -> None:
    """Write a line to standard error from a handler, where printing could meet a print that is under way."""
    with contextlib.suppress(OSError):
        os.write(2, f"{words}\n".encode())


class Listener:
    """Calls `heard` with the number of each signal, in a thread of its own. A context manager, for the main thread."""

    def __init__(self, heard: Callable[[int], None]) -> None:
        self._heard = heard

    def __enter__(self) -> "Listener":
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._previous = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        return self

    def _listen(self) -> None:
        while number := self._receiver.recv(1):
            self._heard(number[0])

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._previous)
        self._sender.close()  # which ends the thread
        self._thread.join()
        self._receiver.close()


def last_words(words: str) -> None:
    """Say why the program ends; from here on another Ctrl-C ends it without a word."""
    heard = threading.current_thread() is threading.main_thread()
    if heard:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(words, file=sys.stderr, flush=True)
    if heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class Interruptible:
    """A context in which Ctrl-C ends the work in order, or, if that takes longer than a second, the process at once.

    In both cases `partial`, a directory, is removed and `words` tell what became of the work. Outside the main thread,
    where no signal can be heard, it does nothing. One may be within another.
    """

    def __init__(self, partial: Path | None = None, words: str = "") -> None:
        self._partial, self._words = partial, words
        self._over, self._interrupted = threading.Event(), False
        self._ending = threading.Lock()  # held while the end is decided: the work's, or the process's
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Interruptible":
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, self._handle))
            self._stack.enter_context(Listener(self._heard))
        return self

    @property
    def keeps(self) -> bool:
        """Whether what was done by then stays."""
        return self._partial is None

    def keep(self, words: str) -> None:
        """Let what was done stay from here on; `words` tell what becomes of it."""
        self._partial, self._words = None, words

    def finish(self) -> None:
        """Declare it too late to interrupt: what is left takes no time, and must not be done by half."""
        with self._ending:
            self._over.set()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._interrupted and not self._over.is_set():
            self._interrupted = True
            raise KeyboardInterrupt

    def _heard(self, number: int) -> None:
        if number != signal.SIGINT or self._over.wait(GRACE_SECONDS):
            return
        with self._ending:
            if not self._over.is_set():
                if self._partial is not None:
                    shutil.rmtree(self._partial, ignore_errors=True)
                end_now(": ".join(filter(None, ["interrupted", self._words])))

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.finish()
        self._stack.close()
        if isinstance(error, KeyboardInterrupt) and self._words:
            raise KeyboardInterrupt(self._words) from None
