"""The one exception for what a user gave us: shown as a sentence, never as a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input. The message names the file or option, what is wrong with it and what to do."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion to end an error message with: the nearest known word, else all of them."""
    known = list(known)
    nearest = get_close_matches(word, known, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"known are: {', '.join(known)}"
