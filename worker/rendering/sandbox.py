"""The sandbox for chat templates, which come from model repositories and are untrusted.

A template sees data and no other objects, cannot change its input, and writes the same as transformers'
`apply_chat_template`. Only `worker.rendering.render_child` runs templates, in a process whose CPU time is limited.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import wraps
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.tests import TESTS
from jinja2.utils import Namespace

from worker.rendering.refusal import TemplateRefused

# Most characters of a rendered chat: four messages of 16 MiB.
MAX_TEXT = 64 * 1024**2
# Most characters of the reason of a refusal.
MAX_REASON = 500
# The variables of a template that the chat itself defines.
OWN = {"messages", "tools", "add_generation_prompt"}

STATEMENTS = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Break, nodes.Continue)
BLOCKS = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.With, nodes.Assign, nodes.AssignBlock, nodes.NSRef)
LITERALS = (nodes.Name, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair, nodes.Scope)
CALLS = (nodes.Call, nodes.Filter, nodes.Test, nodes.Keyword)
LOOKUPS = (nodes.Getattr, nodes.Getitem, nodes.Slice)
OPERATIONS = (nodes.BinExpr, nodes.UnaryExpr, nodes.Compare, nodes.Operand, nodes.Concat, nodes.CondExpr)
ALLOWED = (*STATEMENTS, *BLOCKS, *LITERALS, *CALLS, *LOOKUPS, *OPERATIONS)

# The methods, filters and tests that public chat templates use.
TEXT_METHODS = """
    capitalize casefold count endswith find format index isalnum isalpha isascii isdecimal isdigit islower isnumeric
    isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit
    rstrip split splitlines startswith strip swapcase title upper
"""
METHODS: list[tuple[type, frozenset[str]]] = [
    (str, frozenset(TEXT_METHODS.split())),
    (dict, frozenset({"copy", "get", "items", "keys", "values"})),
    (list, frozenset({"copy", "count", "index"})),
    (tuple, frozenset({"count", "index"})),
    (float, frozenset({"is_integer"})),
    (LoopContext, frozenset({"changed", "cycle"})),
]
FILTER_NAMES = """
    abs capitalize count d default dictsort first float format indent int items join last length list lower map max min
    reject rejectattr replace reverse round safe select selectattr sort string sum title trim upper
"""
TEST_NAMES = """
    boolean callable escaped float integer iterable mapping number sequence string defined undefined none true false
    sameas == eq equalto != ne > gt greaterthan >= ge < lt lessthan <= le lower upper divisibleby even in odd
"""


def refuse(reason: str) -> NoReturn:
    raise TemplateRefused(f"the chat template {reason}")


class NoText:
    """An object that a template may call or iterate over, but not write: its text would contain a memory address."""

    def __repr__(self) -> str:
        refuse("writes a function or an iterator as if it were text")


class TemplateFunction(NoText):
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


class Method(TemplateFunction):
    """A method of data. A template may test whether it exists; calling it is refused unless it is listed."""

    def __init__(self, receiver: Any, name: str, method: Callable[..., Any]) -> None:
        super().__init__(method)
        self._receiver, self._name = receiver, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(self._receiver, kind) and self._name in names for kind, names in METHODS):
            refuse(f"calls the method {self._name!r} of a {type(self._receiver).__name__}, which no chat needs")
        return super().__call__(*args, **kwargs)


class Items(NoText):
    """The items that a filter yields."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return self._items


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, restricted to the methods, filters and tests listed here."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return _hidden(obj, attribute, super().getattr(obj, attribute))

    def getitem(self, obj: Any, argument: Any) -> Any:
        return _hidden(obj, argument, super().getitem(obj, argument))

    def is_safe_callable(self, obj: Any) -> bool:
        return isinstance(obj, TemplateFunction | Macro | LoopContext | Undefined)


def _hidden(receiver: Any, name: Any, value: Any) -> Any:
    is_method = isinstance(value, BuiltinMethodType | MethodType | FunctionType)
    return Method(receiver, name, value) if is_method else value


class GenerationBlock(Extension):
    """`{% generation %}`, with which transformers marks the assistant's text. Here only its body is rendered."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it; Jinja's own filter would escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateRefused(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _without_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """A Jinja filter that returns Items instead of an iterator."""

    @wraps(function)
    def apply(*args: Any, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        return Items(made) if isinstance(made, Iterator) else made

    return apply


ENVIRONMENT = Sandbox(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[GenerationBlock, loopcontrols])
ENVIRONMENT.filters = {"tojson": _to_json, **{name: _without_text(FILTERS[name]) for name in FILTER_NAMES.split()}}
ENVIRONMENT.tests = {name: TESTS[name] for name in TEST_NAMES.split()}
ENVIRONMENT.globals = {
    "range": TemplateFunction(safe_range),
    "dict": TemplateFunction(dict),
    "namespace": TemplateFunction(Namespace),
    "raise_exception": TemplateFunction(_raise_exception),
    "strftime_now": TemplateFunction(_strftime_now),
}


class SandboxedTemplate:
    """One compiled template.

    `uses_date` says whether it reads the current date, so that its text changes from day to day. `variables` are the
    names that it reads and that neither it nor a chat defines.
    """

    def __init__(self, source: str) -> None:
        """Raises TemplateRefused."""
        try:
            tree = ENVIRONMENT.parse(source)
            _check(tree)
            self.uses_date = any(name.name == "strftime_now" for name in tree.find_all(nodes.Name))
            self.variables = frozenset(_variables(tree)) - OWN
            self._template = ENVIRONMENT.from_string(tree)
        except Exception as error:  # noqa: BLE001  an untrusted template may make Jinja raise anything
            raise _refusal(error) from None

    def render(self, variables: dict[str, Any]) -> str:
        """The text of a chat, which is one of the variables. Raises TemplateRefused."""
        try:
            text = self._template.render({"documents": None, **variables})
        except Exception as error:  # noqa: BLE001  an untrusted template may raise anything
            raise _refusal(error) from None
        if len(text) > MAX_TEXT:
            refuse(f"makes a text of more than {MAX_TEXT:,} characters")
        return text


def _check(node: nodes.Node) -> None:
    """Raises TemplateRefused for constructs that no chat template needs, such as other files."""
    for child in node.iter_child_nodes():
        if not isinstance(child, ALLOWED):
            refuse(f"uses {type(child).__name__.lower()!r}, which no chat needs")
        _check(child)


def _variables(tree: nodes.Template) -> Iterable[str]:
    """The names that the template reads without defining them. Jinja also lists a name that is set only within an `if`;
    it is left out here unless it is read before.
    """
    first: dict[str, str] = {}
    for name in _names(tree):
        first.setdefault(name.name, name.ctx)
    return (name for name in meta.find_undeclared_variables(tree) if first[name] == "load")


def _names(node: nodes.Node) -> Iterator[nodes.Name]:
    """The names, in the order in which they are read and set."""
    if isinstance(node, nodes.Name):
        yield node
    later = {"target"} if isinstance(node, nodes.Assign | nodes.AssignBlock) else set()
    for child in (*node.iter_child_nodes(exclude=later), *node.iter_child_nodes(only=later)):
        yield from _names(child)


def _refusal(error: Exception) -> TemplateRefused:
    """The error as a short message for the user."""
    match error:
        case TemplateRefused():
            reason = str(error)
        case TemplateSyntaxError():
            reason = f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
        case TemplateError():
            reason = f"the chat template failed: {error.message}"
        case RecursionError():
            reason = "the chat template is nested or calls itself too deeply"
        case MemoryError():
            reason = "the chat template needs too much memory"
        case _:
            reason = f"the chat template failed: {type(error).__name__}: {error}"
    return TemplateRefused(reason[:MAX_REASON] or "the chat template refused the chat")
