"""What ends a program with a sentence and without a traceback: bad input, and a lost process."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input. The message names the file or option, what is wrong with it and what to do."""


class Reported(InputError):
    """Bad input of which the first of several processes speaks; the others end in silence."""


class OutOfMemory(InputError):
    """Memory ran out, in this process at least. The message says of what to use less."""


class ProcessLost(RuntimeError):
    """Another process of the same training died or hangs; this one cannot go on alone."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest how to end an error message: with the nearest known word, else all of them."""
    known = list(known)
    nearest = get_close_matches(word, known, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"known are: {', '.join(known)}"


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise InputError, which names a field, what it is and what is allowed, unless the condition holds."""
    if not condition:
        raise InputError(f"{name} is {value}; it must be {allowed}")
