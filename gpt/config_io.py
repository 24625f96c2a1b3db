"""Configs as plain dictionaries: JSON in a run directory, TOML from a user."""

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import os
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Generator, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeVar
from unittest import mock

import tyro
from tyro.conf import arg
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from gpt.errors import InputError, did_you_mean

T = TypeVar("T")
IN_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    Path: "a path",
    tuple[str, ...]: "a list of texts",
}
MAX_DIGITS = 100  # of a whole number on the command line
LARGEST = 1 << 63  # beyond it a whole number in a file is no setting, and may not even be a float


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as JSON-ready values; `overlay` is the way back."""

    def ready(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Path) else value for key, value in items}

    return dataclasses.asdict(config, dict_factory=ready)


def settings_type(config: Any, written: Callable[[str], str], left_out: tuple[str, ...] = ()) -> Any:
    """Make the type of a table of settings of a config, of which any may be missing; help tells their limits.

    `written` makes help of a field's docstring: it names settings as flags.
    """
    entries: dict[str, Any] = {}
    helps = _docstrings(config)
    limits = {field.name: field.metadata["limits"] for field in dataclasses.fields(config) if field.metadata}
    for name, kind in typing.get_type_hints(config, include_extras=True).items():
        if dataclasses.is_dataclass(kind):
            table: Any = settings_type(kind, written)
            # Its help is told to be empty: else tyro reads all of this file, each time, for a comment that may be it.
            entries[name] = typing.Annotated[table, arg(help="")]
        elif name not in left_out:
            allowed = f" {str(limits[name]).capitalize()}." if name in limits else ""
            text = written(helps.get(name, "") + allowed)
            entries[name] = typing.Annotated[kind, arg(help=text, help_behavior_hint="")]
    return typing.TypedDict(config.__name__, entries, total=False)  # ty: ignore[invalid-argument-type]


FLAGS = ConstructorRegistry()  # how the values of flags are read, where tyro's way is not ours


def whole_number(text: str) -> int:
    """Read a whole number, which may also be written 1e3 or 1_000. Raises ValueError, which says so, if it is none."""
    with contextlib.suppress(ArithmeticError):
        number = Decimal(text)
        if number.is_finite() and number.adjusted() < MAX_DIGITS and number == number.to_integral_value():
            return int(number)
    raise ValueError(f"{text!r} is no whole number")


@FLAGS.primitive_rule
def _whole_numbers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda value: type(value) is int,
        str_from_instance=lambda value: [str(value)],
    )


@FLAGS.primitive_rule
def _path_or_several(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    if info.type != Path | tuple[str, ...]:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="PATH|PATH=WEIGHT ...",
        instance_from_str=lambda words: Path(words[0]) if len(words) == 1 else tuple(words),
        is_instance=lambda value: isinstance(value, Path | tuple),
        str_from_instance=lambda value: [*value] if isinstance(value, tuple) else [str(value)],
    )


tyro._experimental_options["utf8_boxes"] = False  # help has headings, and no frames around them
COLOR = re.compile(r"\x1b\[[\d;]*m")
LINE_END = re.compile(rf"( |{COLOR.pattern})+$", re.MULTILINE)  # spaces there would make a line wider than a terminal
NOT_GIVEN = re.compile(rf"(\s|{COLOR.pattern})*\(default:(\s|{COLOR.pattern})*(None|False)?\)")
OR_NONE = re.compile(r"\{None\}\|([^\s\x1b]+)((?:\x1b\[[\d;]*m)*)")  # followed by the two columns it gets shorter
HELP = {"-h", "--help"}
WIDE = mock.patch.dict(os.environ, COLUMNS="10000")  # no line of a complaint is broken: paths in it are to be copied


def parse(
    cli: Callable[..., Any],
    what: Any,
    arguments: Sequence[str] | None,
    explain: Callable[[Sequence[str]], None] | None = None,
    **options: Any,
) -> Any:
    """Give what `tyro.cli`, or another of its kind, makes of arguments, by default those of the process.

    What is wrong with them is told in plain lines, below no heading, unless `explain` knows better, and raises
    InputError; help is shown as tyro does.
    """
    given, told = sys.argv[1:] if arguments is None else arguments, io.StringIO()
    try:
        with contextlib.redirect_stderr(told), _tidied_help() if HELP & {*given} else WIDE:
            return cli(what, args=given, registry=FLAGS, **options)
    except SystemExit as end:
        if end.code:
            complaint, told = told.getvalue(), io.StringIO()
            if explain:
                explain(given)
            told.write(_without_heading(complaint))
        raise
    finally:
        print(told.getvalue(), end="", file=sys.stderr, flush=True)


class _Help(io.StringIO):
    """What help is written into, in color if standard output is a terminal."""

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


@contextlib.contextmanager
def _tidied_help() -> Generator[None]:
    """Leave out of help the defaults that only say that an option is not given, and write what it takes before None."""
    shown = _Help()
    try:
        with contextlib.redirect_stdout(shown):
            yield
    finally:
        text = OR_NONE.sub(r"\1|None\2  ", NOT_GIVEN.sub("", shown.getvalue()))
        print(LINE_END.sub(lambda match: match[0].replace(" ", ""), text), end="", flush=True)


def _without_heading(complaint: str) -> str:
    """Take away what tyro puts above the lines of a complaint, before them and between them."""
    indented = [line[2:].rstrip() for line in COLOR.sub("", complaint).splitlines()[1:]]
    words = "\n".join(line for line in indented if line.strip("- ")) or "the arguments are wrong"
    first, *more = re.sub(r"no type matching .*\nGot errors:\n- (<[^>]*>: )?", "", words).splitlines()
    first = first.removeprefix("Error parsing ")
    return "\n".join([f"error: {first[0].lower()}{first[1:]}", *more, ""])


def later(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function with the same arguments that gives the call with these, to be made when they were all read."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Callable[[], Any]:
        return functools.partial(function, *arguments, **named)

    return call


def _docstrings(config: type) -> dict[str, str]:
    """Give the docstring below each field."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, text in itertools.pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return texts


def differences(one: Any, two: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings that differ between two configs of a kind: name, as 'model.n_layer', and both values."""
    for field in dataclasses.fields(one):
        name, first, second = prefix + field.name, getattr(one, field.name), getattr(two, field.name)
        if dataclasses.is_dataclass(first):
            yield from differences(first, second, f"{name}.")
        elif first != second:
            yield name, first, second


def overlay(config: T, values: dict[str, Any], where: str = "", prefix: str = "") -> T:
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
        raise InputError(f"{where}: {error}" if where else str(error)) from None


def _typed(value: Any, expected: Any, where: str, name: str) -> Any:
    """Return `value` if it has the annotated type; an integer passes for a float and a string for a path."""
    union = typing.get_origin(expected) in (typing.Union, types.UnionType)
    options = typing.get_args(expected) if union else (expected,)
    for option in options:
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if option is types.NoneType and value is None:
            return value
        if option is Path and isinstance(value, str | Path):
            return Path(value)
        if option == tuple[str, ...] and isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            return tuple(value)
        if option is float and type(value) is int and abs(value) < LARGEST:
            return float(value)
        if isinstance(option, type) and type(value) is option and not (option is int and abs(value) > LARGEST):
            return value
    wanted = " or ".join(
        " or ".join(map(repr, typing.get_args(option)))
        if typing.get_origin(option) is Literal
        else IN_WORDS.get(option, getattr(option, "__name__", str(option)))
        for option in options
        if option is not types.NoneType  # which no file can hold
    )
    raise InputError(f"{where}: {name!r} is {value!r}; it must be {wanted}")
