"""What ends a program with a sentence and without a traceback: bad input, a lost process; and limits of settings."""

import dataclasses
import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


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
    beginnings = sorted((name for name in known if word.startswith(name)), key=len)  # gpt2-small: gpt2, not gpt2-xl
    nearest = get_close_matches(word, known, n=1, cutoff=0.8) or beginnings[-1:] or get_close_matches(word, known, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"known are: {', '.join(known)}"


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise InputError, which names a field, what it is and what is allowed, unless the condition holds."""
    if not condition:
        raise InputError(f"{name} is {value}; it must be {allowed}")


# ---- limits of settings, declared at their field ----


@dataclasses.dataclass(frozen=True)
class Limits:
    """What values a number may have; one that is not a number (NaN) has none of them."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    note: str = ""
    """What a limit means, in words: 'which means all'."""

    def allow(self, value: float) -> bool:
        """Tell whether a value is within the limits."""
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (value < (math.inf if self.lt is None else self.lt))
        )

    def __str__(self) -> str:
        """Say what is allowed: 'from 0 to 1', 'at least 0 and below 1'."""
        low = f"at least {_in_words(self.ge)}" if self.ge is not None else ""
        low = f"above {_in_words(self.gt)}" if self.gt is not None else low
        high = f"at most {_in_words(self.le)}" if self.le is not None else ""
        high = f"below {_in_words(self.lt)}" if self.lt is not None else high
        if self.ge is not None and self.le is not None:
            words = f"from {_in_words(self.ge)} to {_in_words(self.le)}"
        else:
            words = " and ".join(filter(None, (low, high)))
        return f"{words} ({self.note})" if self.note else words


def _in_words(number: float) -> str:
    power = int(number).bit_length()
    return f"2^{power} - 1" if power > 20 and number == 2**power - 1 else f"{number:g}"


def bounded(default: Any, **limits: Any) -> Any:
    """Declare a field whose value has limits: `n_layer: int = bounded(12, ge=1)`. `note` says what a limit means."""
    return dataclasses.field(default=default, metadata={"limits": Limits(**limits)})


def check_limits(config: Any, prefix: str = "") -> None:
    """Raise InputError, naming the field, its value and what is allowed, for a number outside its field's limits.

    What is no number, such as None or 'auto', has none.
    """
    for field in dataclasses.fields(config):
        value, limits = getattr(config, field.name), field.metadata.get("limits")
        if limits is not None and isinstance(value, int | float):
            require(limits.allow(value), f"`{prefix}{field.name}`", value, str(limits))


class Limited:
    """What a dataclass of settings inherits, so that the limits of its fields are checked on construction."""

    prefix = ""  # of the fields' names in messages; not annotated, as it would be a field then

    def __post_init__(self) -> None:
        check_limits(self, self.prefix)
