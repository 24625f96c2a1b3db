"""Configs as plain dictionaries: JSON in a run directory, TOML from a user."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from gpt.errors import InputError, did_you_mean

T = TypeVar("T")
LARGEST = 1 << 63  # beyond it a whole number in a file is no setting, and may not even be a float


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON-ready values; `overlay` is the way back."""

    def ready(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Path) else value for key, value in items}

    return dataclasses.asdict(config, dict_factory=ready)


def overlay(config: T, values: dict[str, Any], where: str, prefix: str = "") -> T:
    """`config` with `values` laid over it, nested tables included.

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
    """`value` if it has the annotated type; an integer passes for a float and a string for a path."""
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
