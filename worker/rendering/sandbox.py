"""Chat templates come from model repositories, that is from strangers: this is what one of them can reach.

A template sees data and no other objects, changes nothing that it is given, and writes what transformers'
`apply_chat_template` writes. How long it computes is bounded by the process that it runs in
(`worker.rendering.render_child`); no other process runs one.
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

# Characters of a rendered chat: four messages of 16 MiB.
MAX_TEXT = 64 * 1024**2
# Characters of the reason of a refusal.
MAX_REASON = 500
# Variables of a template whose values are the chat's own.
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
    """What a template may call or go through, and never write: its text would be an address in memory."""

    def __repr__(self) -> str:
        refuse("writes a function or an iterator as if it were text")


class TemplateFunction(NoText):
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


class Method(TemplateFunction):
    """A method of data. A template may ask whether it is there; calling it is refused unless it is listed."""

    def __init__(self, receiver: Any, name: str, method: Callable[..., Any]) -> None:
        super().__init__(method)
        self._receiver, self._name = receiver, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(self._receiver, kind) and self._name in names for kind, names in METHODS):
            refuse(f"calls the method {self._name!r} of a {type(self._receiver).__name__}, which no chat needs")
        return super().__call__(*args, **kwargs)


class Items(NoText):
    """What a filter yields one by one."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return self._items


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's, in which a template calls only what is listed here."""

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
    """`{% generation %}`: transformers marks the assistant's text with it. Here it is its body."""

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
    """As transformers writes it, and not Jinja, which escapes what HTML would read."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateRefused(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _without_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jinja's filter, with Items in place of an iterator."""

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

    `uses_date` says whether it asks for the day on which it is used, so that its text is not the same tomorrow.
    `variables` are the names that it reads and that neither it nor a chat gives a value.
    """

    def __init__(self, source: str) -> None:
        """Raises TemplateRefused."""
        try:
            tree = ENVIRONMENT.parse(source)
            _check(tree)
            self.uses_date = any(name.name == "strftime_now" for name in tree.find_all(nodes.Name))
            self.variables = frozenset(_variables(tree)) - OWN
            self._template = ENVIRONMENT.from_string(tree)
        except Exception as error:  # noqa: BLE001  whatever a stranger's text makes Jinja raise, it is refused
            raise _refusal(error) from None

    def render(self, variables: dict[str, Any]) -> str:
        """The text of a chat, which is among the variables. Raises TemplateRefused."""
        try:
            text = self._template.render({"documents": None, **variables})
        except Exception as error:  # noqa: BLE001  whatever a stranger's program raises, it is refused
            raise _refusal(error) from None
        if len(text) > MAX_TEXT:
            refuse(f"makes a text of more than {MAX_TEXT:,} characters")
        return text


def _check(node: nodes.Node) -> None:
    """Raises TemplateRefused for what no chat template needs, such as other files."""
    for child in node.iter_child_nodes():
        if not isinstance(child, ALLOWED):
            refuse(f"uses {type(child).__name__.lower()!r}, which no chat needs")
        _check(child)


def _variables(tree: nodes.Template) -> Iterable[str]:
    """Names without a value of the template's own. To Jinja one that is set within an `if` may lack it: those are left
    out, unless they are read before."""
    first: dict[str, str] = {}
    for name in _names(tree):
        first.setdefault(name.name, name.ctx)
    return (name for name in meta.find_undeclared_variables(tree) if first[name] == "load")


def _names(node: nodes.Node) -> Iterator[nodes.Name]:
    """In the order in which they are read and set."""
    if isinstance(node, nodes.Name):
        yield node
    later = {"target"} if isinstance(node, nodes.Assign | nodes.AssignBlock) else set()
    for child in (*node.iter_child_nodes(exclude=later), *node.iter_child_nodes(only=later)):
        yield from _names(child)


def _refusal(error: Exception) -> TemplateRefused:
    """The reason of an error in words for its user, and not longer than they read."""
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
