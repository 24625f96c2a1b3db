"""Work for the stages of a preparation, which workers import: they need nothing but this, and begin sooner."""

import os
import signal
from pathlib import Path

from gpt.errors import InputError


def square(place, number, calls):
    with open(calls, "a") as file:
        file.write(f"{number}\n")
    Path(f"{place}.text").write_text(str(number))
    return {"square": number**2}


def killed_at_first(place, number, calls):
    """Die as under a lack of memory, the first time that it comes to 3."""
    marker = Path(f"{calls}-killed")
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(place, number, calls)


def always_killed(place, number, calls):
    os.kill(os.getpid(), signal.SIGKILL)


def failing(place, number, calls):
    if number == 3:
        raise InputError("three")
    return square(place, number, calls)
