"""Where templates in Jinja are at work: the sandbox of transformers, and bounds, as a template may be anybody's.

What is bounded is the work of one thread, in Python, on every platform; nothing need be killed.

1. A template is charged for all that it makes, in letters and items, so that this bounds its memory as well. What makes
   much of little, such as `'a' * 10**9`, is charged before it does so.
2. It goes on for long only by loops, calls, filters, tests and operators. Each of them looks at the clock, which is the
   thread's processor time: a busy machine refuses nothing.
3. Some filters and methods are not there, as what they make grows with a number or a format that they are given, or
   their time with the square of a text; no chat template that we know uses them.
"""

import functools
import json
import threading
import time
from collections.abc import Callable, Generator, Sized
from contextlib import contextmanager
from typing import Any, cast

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from gpt.errors import InputError

MOST_SECONDS = 3.0
MOST_MADE = 20_000_000  # letters and items in all,
MADE_PER_LETTER = 100  # and this many more for each letter that is given
ITEM = 16  # letters, to which an item of a list comes, in memory and in the time to go through it
LARGEST_SOURCE = 1_000_000  # letters
LARGEST_NUMBER = 1 << 64
OPEN, CLOSE = "generation", "endgeneration"
WITHOUT = ["batch", "center", "filesizeformat", "format", "pprint", "random", "round", "slice", "striptags"]
WITHOUT += ["sum", "urlize", "wordwrap", "xmlattr"]  # filters
METHODS = frozenset(dir(str)) - {"center", "encode", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"}
METHODS -= {"maketrans", "translate"}  # all that strings and numbers have here


class TooMuch(InputError):
    """A template goes on for too long, or makes too much."""


class Generation(jinja2.ext.Extension):
    """The block `{% generation %}`: marks where what it encloses begins and ends."""

    tags = {OPEN}  # noqa: RUF012  # as Jinja wants it

    def parse(self, parser: Any) -> Any:
        """Read a block as a call of `_marked` with what it encloses."""
        line = next(parser.stream).lineno
        body = parser.parse_statements((f"name:{CLOSE}",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        begin, end = cast("Environment", self.environment).bounds.marks
        return f"{begin}{caller()}{end}"


class Bounds(threading.local):
    """What a thread may still do, and by what it marks blocks."""

    left, until = 0, 0.0
    marks = "", ""

    def charge(self, size: int = 1) -> None:
        """Charge letters or items, and look at the clock. Raises TooMuch."""
        self.left -= size
        if self.left < 0:
            raise TooMuch(f"it makes more than {MOST_MADE:,} letters and items of lists, by far more than it is given")
        if time.thread_time() > self.until:
            raise TooMuch(f"it takes more than {MOST_SECONDS:g} seconds")

    def weight(self, value: Any) -> int:
        """Count the letters and items in a value, as they are when it is printed: what is there twice counts twice.

        Counting ends where it is more than may still be made. Raises TooMuch for a number that is too large.
        """
        if isinstance(value, str):
            return 1 + len(value)
        weight, waiting = 1, [value]
        while waiting and weight <= self.left:
            found = waiting.pop()
            if isinstance(found, Namespace):
                found = object.__getattribute__(found, "_Namespace__attrs")  # a name of its own is a template's
            if isinstance(found, dict):
                found = [*found.keys(), *found.values()]
            if isinstance(found, str | bytes):
                weight += len(found)
            elif isinstance(found, list | tuple | set | frozenset):
                weight += ITEM * len(found)
                waiting += found
            elif isinstance(found, int) and not -LARGEST_NUMBER < found < LARGEST_NUMBER:
                raise TooMuch("it makes numbers of more than 64 bits")
        return weight

    def require_small(self, *values: Any) -> None:
        """Raise TooMuch for values that are too much to work on. They are there already, so that this is no charge."""
        weight = self.weight(values)
        self.charge(weight if weight > self.left else 1)


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox; a template is compiled and at work `within_bounds`."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
        self.bounds, self.finalize = Bounds(), self._printed
        cast("dict[str, Any]", self.globals).update(raise_exception=_raise, strftime_now=_refuse_date)
        del self.globals["lipsum"]
        self.filters |= {"tojson": self._as_json}  # that of transformers
        self.filters = {name: self._bounded(name, f) for name, f in self.filters.items() if name not in WITHOUT}
        self.tests = {name: self._bounded(name, f) for name, f in self.tests.items()}

    @contextmanager
    def within_bounds(self, letters: int = 0, marks: tuple[str, str] = ("", "")) -> Generator[None]:
        """Let a template work on so many letters. What is enclosed twice is within the bounds of the outer one."""
        bounds, outer = self.bounds, self.bounds.until > 0
        if not outer:
            bounds.left, bounds.until = MOST_MADE + MADE_PER_LETTER * letters, time.thread_time() + MOST_SECONDS
        bounds.marks = marks
        try:
            yield
        finally:
            bounds.until = bounds.until if outer else 0.0

    # ---- what a template calls, as `_Charging` changed it ----

    def charge(self, letters: int) -> str:
        """Charge a text that stands in the template. Writes nothing."""
        self.bounds.charge(1 + letters)
        return ""

    def weighed(self, value: Any) -> Any:
        """Charge a value, with all that is in it, and return it."""
        self.bounds.charge(self.bounds.weight(value))
        return value

    def sized(self, value: Any) -> Any:
        """Charge a value whose items were there before, and return it."""
        is_list = isinstance(value, list | tuple)
        self.bounds.charge(ITEM * len(value) if is_list else self.bounds.weight(value))
        return value

    @jinja2.pass_context  # so that Jinja prints constants no earlier
    def _printed(self, _: Any, value: Any) -> Any:
        return self.weighed(value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Charging().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    # ---- what the sandbox asks ----

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        own = getattr(__obj, "__self__", None)
        if own is __self:
            return __obj(*args)
        __self.bounds.require_small(own, args, kwargs)
        if isinstance(own, str):
            args = __self._foreseen(__obj.__name__, own, args)
        return __self.sized(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return self.weighed(left + right)
        self.bounds.require_small(left, right)
        if operator == "%" and isinstance(left, str):
            raise TooMuch("it formats by %, which a chat template cannot do here; let it join texts by ~")
        if operator == "*" and isinstance(left, Sized) != isinstance(right, Sized):
            sized, times = (left, right) if isinstance(left, Sized) else (right, left)
            self.bounds.charge((1 if isinstance(sized, str) else ITEM) * len(sized) * max(0, times))
        if operator == "**" and abs(right) > 64:
            raise TooMuch("it makes numbers of more than 64 bits")
        return self.sized(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        known = attr in METHODS or not isinstance(obj, str | int | float)
        return known and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Have no `format`, which is no safe attribute."""

    # ---- filters and tests ----

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        place = int(hasattr(function, "jinja_pass_arg"))  # of the value: behind what Jinja gives itself

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            value, rest = args[place], args[place + 1 :]
            if rest or kwargs or not isinstance(value, str):
                self.bounds.require_small(value, rest, kwargs)
            if name == "join":
                separator = kwargs.get("d", rest[0] if rest else "")
                (value,) = self._foreseen(name, str(separator), (value,))
            elif name == "replace":
                old, new = (kwargs.get(key, rest[i] if i < len(rest) else "") for i, key in enumerate(("old", "new")))
                self._foreseen(name, str(value), (old, new))
            elif name == "indent":
                width = kwargs.get("width", rest[0] if rest else 4)
                self.bounds.charge((len(str(value)) + 1) * (len(width) if isinstance(width, str) else max(0, width)))
            return self.sized(function(*args[:place], value, *rest, **kwargs))

        return bounded

    def _foreseen(self, name: str, text: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Charge what a method of a text makes, before it does; the arguments may be replaced by equal ones."""
        self.bounds.charge(1 + len(text))
        if name == "replace" and len(args) > 1:
            self.bounds.charge(text.count(str(args[0])) * len(str(args[1])))
        elif name == "join" and args:
            args = (list(args[0]), *args[1:])
            self.bounds.charge(len(text) * len(args[0]) + self.bounds.weight(args[0]))
        return args

    def _as_json(
        self, x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        self.bounds.charge(
            1000 * max(0, indent) if isinstance(indent, int) else 0
        )  # at the depth that Python can go to
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return "".join(map(self.sized, encoder.iterencode(x)))


class _Charging(NodeTransformer):
    """Puts into a template what charges it for what neither the sandbox nor a filter sees."""

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        letters = sum(len(part.data) for part in node.nodes if isinstance(part, nodes.TemplateData))
        if letters:
            node.nodes.insert(0, _call("charge", nodes.Const(letters)))
        return node

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.body.insert(0, nodes.Output([_call("charge", nodes.Const(0))]))
        if node.test is not None:
            node.test = nodes.Or(_call("charge", nodes.Const(0)), node.test)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:
        self.generic_visit(node)
        node.nodes = [_call("weighed", part) for part in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _call("sized", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else _call("weighed", node)

    visit_Dict = visit_Tuple = visit_List


def _call(method: str, argument: nodes.Expr) -> nodes.Call:
    """Call a method of the environment."""
    return nodes.Call(nodes.EnvironmentAttribute(method), [argument], [], None, None)


def _raise(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _refuse_date(*_: object) -> None:
    raise InputError("it asks by strftime_now for today's date, and would write another text each day: let it name one")


def compiled(source: str) -> tuple[Environment, jinja2.Template]:
    """Compile a template. Raises InputError if it is none."""
    environment = Environment()
    try:
        if len(source) > LARGEST_SOURCE:
            raise TooMuch(f"it has more than {LARGEST_SOURCE:,} letters")
        with environment.within_bounds():
            return environment, environment.from_string(source)
    except (jinja2.TemplateError, SyntaxError, RecursionError, TooMuch) as error:  # as what is nested too deeply
        raise InputError(f"it is no template in Jinja ({error})") from None
