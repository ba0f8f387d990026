"""The methods, filters and tests that public chat templates use: a stranger's template has no others.

Each pays for what it reads, and for what it makes before it makes it, unless that is no more than its node.
"""

import json
import re
from collections.abc import Callable, Iterator, Sized
from typing import Any

from jinja2 import pass_context
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from markupsafe import Markup, escape

from worker.rendering.sandbox_budget import MAX_ITEMS, SLOW_STEP, SMALL_TEXT, Budget, check_items, check_text, refuse

Function = Callable[..., Any]

# How much slower than a copy of its text a step is: changing the case of it, writing it as JSON, sorting it.
CASE, JSON, SORT = 8, 4, 16
# Characters of a text that is read as a number; reading more takes quadratic time.
MAX_NUMBER = 1000
# The widest step of an indented JSON, and the longest separator in it.
MAX_STEP = 16
# In the braces of `str.format`: a width or precision of four digits, or one that an argument gives.
WIDE_SPEC = re.compile(r"\d{4}|\{")
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's, with a lighter `str.format`: the method itself, which templates can call only through `_format`."""

    def wrap_str_format(self, *_: Any) -> None:
        return None


# Jinja's own filters and tests.
JINJA = Sandbox()


# Methods: of the budget, the receiver, its bound method and the arguments.
def _free(_: Budget, __: Any, method: Function, /, *args: Any, **kwargs: Any) -> Any:
    return method(*args, **kwargs)


def _read_all(budget: Budget, receiver: Any, method: Function, /, *args: Any) -> Any:
    budget.weigh(receiver, CASE)
    return method(*budget.weigh(args))


def _read_end(budget: Budget, _: Any, method: Function, /, *args: Any) -> Any:
    return method(*budget.weigh(args))


def _search(budget: Budget, text: str, method: Function, /, *args: Any) -> Any:
    for arg in args or ("",):
        budget.search(text, arg if isinstance(arg, str) else "")
    return method(*args)


def _split(budget: Budget, text: str, method: Function, /, sep: Any = None, maxsplit: int = -1) -> Any:
    budget.search(text, sep or "")
    parts = method(sep, MAX_ITEMS if maxsplit < 0 else min(maxsplit, MAX_ITEMS))
    budget.spend(len(parts))
    return parts


def _lines(budget: Budget, text: str) -> int:
    """How many lines there are, at most."""
    budget.weigh(text, CASE)
    lines = sum(map(text.count, LINE_ENDS)) + 1
    check_items(lines)
    return lines


def _split_lines(budget: Budget, text: str, method: Function, /, keepends: bool = False) -> Any:
    budget.spend(_lines(budget, text))
    return method(keepends)


def _replace(budget: Budget, text: str, method: Function, /, old: str, new: str, count: int = -1) -> Any:
    budget.search(text, old)
    budget.weigh(new)
    found = text.count(old)
    check_text(len(text) + (found if count < 0 else min(count, found)) * max(0, len(new) - len(old)))
    return method(old, new, count)


def _join(budget: Budget, text: str, method: Function, /, items: Any) -> Any:
    parts = budget.weigh(budget.collect(items))
    check_text(sum(map(len, parts)) + len(text) * len(parts))
    return method(parts)


def _format(budget: Budget, text: str, _: Function, /, *args: Any, **kwargs: Any) -> str:
    budget.spend((len(text) + SLOW_STEP) * CASE)
    formatter = (
        SandboxedEscapeFormatter(JINJA, escape=escape) if isinstance(text, Markup) else SandboxedFormatter(JINJA)
    )
    specs = [spec or "" for _, name, spec, _ in formatter.parse(text) if name is not None]
    if any(map(WIDE_SPEC.search, specs)):
        refuse("formats a text with a width or a precision that is too large")
    check_text((budget.length(args) + budget.length(kwargs) + SMALL_TEXT) * len(specs))
    return type(text)(formatter.vformat(text, args, kwargs))


TEXT_METHODS: dict[str, Function] = {
    **dict.fromkeys(("capitalize", "casefold", "lower", "swapcase", "title", "upper"), _read_all),
    **dict.fromkeys(("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric"), _read_all),
    **dict.fromkeys(("isspace", "istitle", "isupper"), _read_all),
    **dict.fromkeys(("endswith", "removeprefix", "removesuffix", "startswith"), _read_end),
    **dict.fromkeys(("count", "find", "index", "lstrip", "partition", "rfind", "rindex"), _search),
    **dict.fromkeys(("rpartition", "rstrip", "strip"), _search),
    **dict.fromkeys(("rsplit", "split"), _split),
    "format": _format,
    "join": _join,
    "replace": _replace,
    "splitlines": _split_lines,
}
METHODS: list[tuple[type, dict[str, Function]]] = [
    (str, TEXT_METHODS),
    (dict, {"copy": _read_all, "get": _read_end, "items": _free, "keys": _free, "values": _free}),
    (list, dict.fromkeys(("copy", "count", "index"), _read_all)),
    (tuple, dict.fromkeys(("count", "index"), _read_all)),
    (float, {"is_integer": _free}),
    (LoopContext, {"changed": _read_end, "cycle": _free}),
    (Extension, {"render_body": _free}),
]


# Filters and tests: of the budget, the value and the arguments.
def _paid(function: Function) -> Function:
    @pass_context
    def apply(context: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget: Budget = context.budget
        budget.spend(4)
        return budget.settle(function(budget, *args, **kwargs))

    return apply


def _read(function: Any, times: int = 1) -> Function:
    """Jinja's filter or test that reads the whole of its value `times` times."""

    def apply(budget: Budget, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget.weigh(value, times)
        return function(value, *budget.weigh(args), **budget.weigh(kwargs))

    return _paid(apply)


def _read_items(name: str, times: int = 1) -> Function:
    """Jinja's filter that looks something up in each of its items."""

    @pass_context
    def apply(context: Any, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget: Budget = context.budget
        items = budget.collect(value) if isinstance(value, Iterator) else budget.weigh(value, times)
        _pay_lookups(budget, items, *args, *kwargs.values())
        return budget.settle(JINJA.call_filter(name, items, args, kwargs, context=context))

    return apply


def _pay_lookups(budget: Budget, items: Any, *names: Any) -> None:
    """Pay for a name looked up in each item. Every dot and comma in it is one more to look up."""
    budget.weigh(names)
    parts = 1 + sum(name.count(".") + name.count(",") for name in names if isinstance(name, str))
    budget.spend((4 + len(items) if isinstance(items, Sized) else 4) * parts * CASE)


def _attributes(budget: Budget, items: Any, attribute: Any) -> list[Any]:
    """The attribute of every item, or the items."""
    found = budget.collect(items)
    if attribute is None:
        return found
    _pay_lookups(budget, found, attribute)
    return list(map(make_attrgetter(JINJA, attribute), found))


def _soft(budget: Budget, value: Any) -> str:
    """A text, which may be one that is marked safe."""
    return value if isinstance(value, str) else budget.text(value)


def _case(name: str) -> Function:
    def apply(budget: Budget, value: Any) -> Any:
        return getattr(budget.weigh(_soft(budget, value), CASE), name)()

    return _paid(apply)


def _trim(budget: Budget, value: Any, chars: str | None = None) -> Any:
    text = _soft(budget, value)
    return budget.weigh(text).strip() if chars is None else _search(budget, text, text.strip, chars)


def _replace_text(budget: Budget, value: Any, old: Any, new: Any, count: int | None = None) -> Any:
    text = budget.text(value)
    return _replace(budget, text, text.replace, budget.text(old), budget.text(new), -1 if count is None else count)


def _join_items(budget: Budget, value: Any, d: Any = "", attribute: Any = None) -> Any:
    separator = budget.text(d)
    return _join(budget, separator, separator.join, map(budget.text, _attributes(budget, value, attribute)))


def _indent(budget: Budget, value: Any, width: Any = 4, first: bool = False, blank: bool = False) -> Any:
    text = _soft(budget, value)
    step = len(width) if isinstance(width, str) else int(width)
    check_text(len(text) + _lines(budget, text) * (step + 1))
    return JINJA.filters["indent"](text, width, first, blank)


def _read_short(name: str, longest: int) -> Function:
    """Jinja's filter of a text that is not too long for it."""

    def apply(budget: Budget, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, str) and len(value) > longest:
            refuse(f"uses the filter {name!r} on a text of more than {longest:,} characters")
        return JINJA.filters[name](budget.weigh(value, CASE), *args, **kwargs)

    return _paid(apply)


def _round(_: Budget, value: Any, precision: int = 0, method: str = "common") -> Any:
    if not isinstance(value, int | float) or abs(precision) > MAX_STEP:
        refuse(f"rounds something that is no number, or to more than {MAX_STEP} digits")
    return JINJA.filters["round"](value, precision, method)


def _to_json(
    budget: Budget,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """As transformers writes it, and not Jinja, which escapes what HTML would read."""
    steps = [len(step) if isinstance(step, str) else step for step in (indent, *(separators or ())) if step is not None]
    if any(step > MAX_STEP for step in steps):
        refuse(f"writes JSON with steps or separators of more than {MAX_STEP} characters")
    # Every character may be written with six, though few are.
    check_text(budget.length(value, JSON) * 3)
    writer = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return writer.encode(value) if indent is None else "".join(_bounded(budget, writer.iterencode(value)))


def _bounded(budget: Budget, parts: Iterator[str]) -> Iterator[str]:
    size = 0
    for part in parts:
        budget.spend(JSON)
        size += len(part)
        check_text(size)
        yield part


FILTERS: dict[str, Any] = {
    **{name: JINJA.filters[name] for name in ("abs", "count", "d", "default", "first", "last", "length")},
    **{name: _case(name) for name in ("capitalize", "lower", "upper")},
    **{name: _read_items(name) for name in ("map", "max", "min", "reject", "rejectattr", "reverse", "select")},
    **{name: _read_short(name, MAX_NUMBER) for name in ("float", "int")},
    "dictsort": _read(JINJA.filters["dictsort"], SORT),
    "format": _paid(lambda budget, value, *args, **kwargs: budget.calculate("%", _soft(budget, value), kwargs or args)),
    "indent": _paid(_indent),
    "items": _paid(lambda _, value: JINJA.filters["items"](value)),
    "join": _paid(_join_items),
    "list": _paid(Budget.collect),
    "replace": _paid(_replace_text),
    "round": _paid(_round),
    "safe": _paid(lambda budget, value: Markup(_soft(budget, value))),
    "selectattr": _read_items("selectattr"),
    "sort": _read_items("sort", SORT),
    "string": _paid(_soft),
    "sum": _paid(
        lambda budget, value, attribute=None, start=0: budget.add(start, *_attributes(budget, value, attribute))
    ),
    "title": _read_short("title", MAX_ITEMS),
    "tojson": _paid(_to_json),
    "trim": _paid(_trim),
}
KINDS = ("boolean", "callable", "escaped", "float", "integer", "iterable", "mapping", "number", "sequence", "string")
VALUES = ("defined", "undefined", "none", "true", "false", "sameas")
EQUALITY = ("==", "eq", "equalto", "!=", "ne")
ORDER = (">", "gt", "greaterthan", ">=", "ge", "<", "lt", "lessthan", "<=", "le")
TESTS: dict[str, Any] = {
    **{name: JINJA.tests[name] for name in (*KINDS, *VALUES)},
    **{name: _read(JINJA.tests[name]) for name in (*EQUALITY, *ORDER, "lower", "upper")},
    "divisibleby": _paid(lambda budget, value, by: budget.calculate("%", value, by) == 0),
    "even": _paid(lambda budget, value: budget.calculate("%", value, 2) == 0),
    "in": _paid(Budget.contains),
    "odd": _paid(lambda budget, value: budget.calculate("%", value, 2) == 1),
}
