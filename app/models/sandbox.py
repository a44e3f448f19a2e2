"""A Jinja environment for templates that strangers wrote: chat templates come with models.

Jinja's own immutable sandbox keeps a template away from Python's insides and from its input.
What it does not keep in check is time and memory, so here every loop, call, join and arithmetic
step of a template asks first: `tick` for time, `fits` for size. Single operations of C code are
bounded by looking at their operands, because nothing can interrupt them.
"""

import json
import operator
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MOST_TEXT = 2**25  # characters of any one string, the result included
MOST_ITEMS = 2**20  # of any one list, nested ones counted in
MOST_BITS = 4096  # of any one number
WIDEST = 1000  # padding, indentation and the like

# What pads, indents or fills to a width given as a number.
WIDTHS = {"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "batch"}
WIDTHS |= {"slice", "tojson"}
WIDE_FORMAT = re.compile(r"\d{4,}|\*|\{[^}]*\{")  # %99999d, %*d, {:{width}}


class LimitExceeded(TemplateRuntimeError):
    """The template wants more time or memory than it may have."""


class Clock(threading.local):
    """Of the render that this thread is in."""

    deadline = float("inf")
    now: datetime | None = None


clock = Clock()


def tick() -> None:
    if time.monotonic() > clock.deadline:
        raise LimitExceeded("out of time")


def fits(size: int, most: int) -> None:
    tick()
    if size > most:
        raise LimitExceeded("too large")


def watched(items: Iterable[Any]) -> Iterator[Any]:
    """What every `for` runs over."""
    for item in items:
        tick()
        yield item


def weighed(value: Any) -> Any:
    """`value`, once it is known that writing it out is affordable."""
    if isinstance(value, list | tuple | dict):
        items, text, stack = 0, 0, [value]
        while stack:
            container = stack.pop()
            inner = [*container, *container.values()] if isinstance(container, dict) else container
            items += len(inner)
            text += sum(len(item) for item in inner if isinstance(item, str))
            fits(items, MOST_ITEMS)
            fits(text, MOST_TEXT)
            stack += [item for item in inner if isinstance(item, list | tuple | dict)]
    return value


def joined(parts: Iterable[str]) -> str:
    """`"".join`, as it goes: block sets, macros and the whole result are put together here."""
    size, kept = 0, []
    for part in parts:
        size += len(part)
        fits(size, MOST_TEXT)
        kept.append(part)
    return "".join(kept)


def concatenated(parts: list[Any]) -> str:
    """The operator `~`."""
    return joined(str(weighed(part)) for part in parts)


def checked(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Refuse a filter or a method of a string whose result would be out of proportion."""
    tick()
    if name in WIDTHS:
        for value in (*arguments[1:], *keywords.values()):
            if isinstance(value, int) and abs(value) > WIDEST:
                raise LimitExceeded("too wide")
    if name in {"indent", "expandtabs", "wordwrap"}:
        fits(len(str(arguments[0])) * 8, MOST_TEXT * 8)
        fits((str(arguments[0]).count("\n") + 1) * WIDEST, MOST_TEXT * 8)
    elif name == "replace" and len(arguments) > 2:
        text, old, new = (str(weighed(part)) for part in arguments[:3])
        fits(len(text) + (text.count(old) if old else len(text) + 1) * len(new), MOST_TEXT)
    for value in (*arguments, *keywords.values()):
        weighed(value)
    if name == "format":
        pattern = str(arguments[0])
        if WIDE_FORMAT.search(pattern):
            raise LimitExceeded("too wide")
        parts = (*arguments[1:], *keywords.values())
        length = sum(len(part) if isinstance(part, str) else 1000 for part in parts)
        fits(len(pattern) + (pattern.count("{") + pattern.count("%")) * length, 4 * MOST_TEXT)


def guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of the same kind (jinja passes some of them its environment first)."""
    offset = 1 if hasattr(function, "jinja_pass_arg") else 0

    def run(*arguments: Any, **keywords: Any) -> Any:
        rest = arguments[offset:]
        if name == "join" and rest:
            separator = str(rest[1]) if len(rest) > 1 else str(keywords.get("d", ""))
            items = [str(weighed(item)) for item in watched(rest[0])]
            if "attribute" not in keywords and len(rest) < 3:
                fits(sum(map(len, items)) + len(separator) * len(items), MOST_TEXT)
        else:
            checked(name, rest, keywords)
        return function(*arguments, **keywords)

    if offset:
        run.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return run


class Watch(NodeTransformer):
    """Send what Jinja compiles to plain Python, loops and `~`, through our own functions."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - jinja's name
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "watched", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802 - jinja's name
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "concatenated", [], [], None, None, lineno=node.lineno)


class Generation(Extension):
    """`{% generation %}`: marks what the assistant wrote. It changes nothing in the text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class SafeNamespace(Namespace):
    """No attribute of a namespace may look like one of Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            SafeNamespace.check(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        SafeNamespace.check(name)
        super().__setitem__(name, value)

    @staticmethod
    def check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError("names that start with _ are not for templates")


class SafeDict:
    """`dict`, without the class behind it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: no HTML escapes, Chinese stays Chinese."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def raise_exception(message: str) -> None:
    """How a template says that it does not like a conversation."""
    raise TemplateRuntimeError(message)


def strftime_now(pattern: str) -> str:
    return (clock.now or datetime.now()).strftime(pattern)  # noqa: DTZ005 - the template's wall clock


class Sandbox(ImmutableSandboxedEnvironment):
    """The functions, filters and whitespace rules of transformers' chat templates, with limits."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})
    concat = staticmethod(joined)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, loopcontrols],
            finalize=weighed,
        )
        self.filters["tojson"] = tojson
        self.filters = {name: guarded(name, run) for name, run in self.filters.items()}
        self.filters |= {"watched": watched, "concatenated": concatenated}
        self.globals |= {
            "raise_exception": raise_exception,
            "strftime_now": strftime_now,
            "namespace": SafeNamespace,
            "dict": SafeDict(),
        }
        del self.globals["lipsum"]  # makes text of any length

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = Watch().visit(super()._parse(source, name, filename))
        return tree

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: PYI063 - jinja's
        tick()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            name = getattr(__obj, "__name__", "")
            checked(name, (owner, *args), kwargs)
            if name == "join" and args:
                items = [str(item) for item in watched(args[0])]
                fits(sum(map(len, items)) + len(owner) * len(items), MOST_TEXT)
                args = (items,)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def run(*args: Any, **kwargs: Any) -> str:
            checked("format", (value.__self__, *args), kwargs)
            return wrapped(*args, **kwargs)

        return run

    def call_binop(self, context: Any, op: str, left: Any, right: Any) -> Any:
        if isinstance(left, int | float) and isinstance(right, int | float):
            return self.arithmetic(op, left, right)
        if op == "%" and isinstance(left, str):
            checked("format", (left, *(right if isinstance(right, tuple) else (right,))), {})
        elif op == "*":
            many, times = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(times, int) and isinstance(many, str | list | tuple):
                fits(len(many) * times, MOST_TEXT if isinstance(many, str) else MOST_ITEMS)
        elif op == "+" and isinstance(left, str | list | tuple) and hasattr(right, "__len__"):
            fits(len(left) + len(right), MOST_TEXT if isinstance(left, str) else MOST_ITEMS)
        return super().call_binop(context, op, left, right)

    def arithmetic(self, op: str, left: float, right: float) -> Any:
        """Two numbers, whose result has at most `MOST_BITS`."""
        tick()
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length()
            grown = {"*": bits + right.bit_length(), "**": bits * abs(right)}.get(op, bits)
            fits(max(grown, right.bit_length()), MOST_BITS)
        functions = {"*": operator.mul, "**": operator.pow, "+": operator.add, "%": operator.mod}
        return functions[op](left, right)
