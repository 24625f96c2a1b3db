"""Fields of configs: their limits, and the way to and from plain dictionaries (JSON of a run, TOML, flags)."""

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from gpt.errors import InputError, did_you_mean, require

T = TypeVar("T")
LARGEST = 1 << 63  # beyond it a whole number in a file is no setting, and may not even be a float


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


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as JSON-ready values; `overlay` is the way back."""

    def ready(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Path) else value for key, value in items}

    return dataclasses.asdict(config, dict_factory=ready)


def overlay(config: T, values: dict[str, Any], where: str, prefix: str = "") -> T:
    """Lay `values` over `config`, nested tables included.

    Raises InputError, naming `where` and the key, for an unknown key or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: holds {values!r}; it must be a table of settings")
    fields = typing.get_type_hints(type(config))
    changes = {}
    for key, value in values.items():
        name = prefix + key
        if key not in fields:
            raise InputError(
                f"{where}: unknown key {name!r}; {did_you_mean(name, (prefix + known for known in fields))}"
            )
        if dataclasses.is_dataclass(fields[key]):
            if not isinstance(value, dict):
                raise InputError(f"{where}: {name!r} is {value!r}; it must be a table of settings")
            changes[key] = overlay(getattr(config, key), value, where, f"{name}.")
        else:
            changes[key] = _typed(value, fields[key], where, name)
    try:
        return dataclasses.replace(config, **changes)  # ty: ignore[invalid-argument-type]
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _typed(value: Any, expected: Any, where: str, name: str) -> Any:
    """Return `value` if it has the annotated type; an integer passes for a float and a string for a path."""
    union = typing.get_origin(expected) in (typing.Union, types.UnionType)
    options = typing.get_args(expected) if union else (expected,)
    for option in options:
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if option is types.NoneType and value is None:
            return value
        if option is Path and isinstance(value, str):
            return Path(value)
        if option is float and type(value) is int and abs(value) < LARGEST:
            return float(value)
        if isinstance(option, type) and type(value) is option and not (option is int and abs(value) > LARGEST):
            return value
    wanted = " or ".join(
        " or ".join(map(repr, typing.get_args(option))) if typing.get_origin(option) is Literal else option.__name__
        for option in options
    )
    raise InputError(f"{where}: {name!r} is {value!r}; it must be {wanted}")
