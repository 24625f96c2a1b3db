"""Make the flags of a config, and lay what was given over settings that are known only afterwards.

A preset, or a run, may stand anywhere on the command line: one pass finds it, and what was given beside it.
"""

import ast
import dataclasses
import inspect
import textwrap
import typing
from itertools import pairwise
from typing import Annotated, Any, TypedDict, TypeVar

from tyro.conf import arg

T = TypeVar("T")


def flags_of(config: Any, without: tuple[str, ...] = ()) -> Any:
    """Make a type that tyro parses: a dictionary of those of a config's settings that were given.

    A flag's help is the docstring of its field, and the field's limits.
    """
    hints, docs = typing.get_type_hints(config, include_extras=True), _docs(config)
    flags = {}
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        if field.name in without:
            continue
        if dataclasses.is_dataclass(hint):
            flags[field.name] = flags_of(hint)
        else:
            limits = f" {str(field.metadata['limits']).capitalize()}." if "limits" in field.metadata else ""
            told = arg(help=docs[field.name] + limits, help_behavior_hint="")
            flags[field.name] = Annotated[hint, told]  # ty: ignore[invalid-type-form]
    return TypedDict(config.__name__, flags, total=False)  # ty: ignore


def _docs(config: Any) -> dict[str, str]:
    """Find the string below each field of a class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(tree.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def lay_over(config: T, given: dict[str, Any]) -> T:
    """Replace what was given, sections included. Raises InputError for values that do not go together."""
    changes = {
        name: lay_over(getattr(config, name), value) if isinstance(value, dict) else value
        for name, value in given.items()
    }
    return dataclasses.replace(config, **changes)  # ty: ignore[invalid-argument-type]


def given_names(given: dict[str, Any], prefix: str = "") -> frozenset[str]:
    """Name what was given, as 'model.dropout'."""
    names: set[str] = set()
    for name, value in given.items():
        names |= given_names(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return frozenset(names)
