"""Which kinds of values a checkpoint's state.json has, for those that somebody else may have made.

Hashes prove that a file is what its maker wrote, and nothing of who that was. A value of another kind would end a
program with a traceback, hours later perhaps.
"""

import math
from collections.abc import Callable
from typing import Any

Kind = Callable[[Any], bool]


def count(value: Any) -> bool:
    """A whole number of 63 bits at most, not below 0."""
    return type(value) is int and 0 <= value < 1 << 63


def number(value: Any) -> bool:
    """A number that a float can be; a loss may be infinite, or none."""
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


def finite(value: Any) -> bool:
    return number(value) and math.isfinite(value)


def text(value: Any) -> bool:
    return isinstance(value, str)


def maybe(kind: Kind) -> Kind:
    return lambda value: value is None or kind(value)


def entries(**kinds: Kind) -> Kind:
    """An object that has these, and perhaps others."""
    return lambda value: isinstance(value, dict) and all(name in value and kinds[name](value[name]) for name in kinds)


RECORD = maybe(entries(step=count, train_loss=maybe(number), tokens=count))
KINDS: dict[str, Kind] = {
    "step": count,
    "tokens": maybe(count),
    "elapsed_s": maybe(lambda value: finite(value) and value >= 0),
    "evaluation": maybe(entries(loss=number)),
    "complete_evaluation": maybe(entries(loss=number)),
    "evaluations": maybe(count),
    "evaluated_windows": maybe(count),
    "unevaluated": RECORD,
    "record": RECORD,
    "best_validation_loss": maybe(number),
    "last_validation_loss": maybe(number),
    "evaluations_since_best": maybe(count),
    "best_sums": maybe(text),
    "overfitting": maybe(
        entries(total=number, count=count, best=maybe(number), at_best=maybe(number), said=lambda v: type(v) is bool)
    ),
    "dataset_fingerprint": maybe(text),
    "micro_batch": maybe(entries(size=lambda value: count(value) and value > 0)),
}


def wrong_entry(state: dict[str, Any]) -> tuple[str, Any] | None:
    """The name and the value of an entry that is of another kind; None where there is none."""
    wrong = ((name, state.get(name)) for name, kind in KINDS.items() if not kind(state.get(name)))
    return next(wrong, None)
