"""Chat templates come from model repositories, that is from strangers: they are compiled and run here and nowhere else.

A template sees data, not objects; it changes nothing that it is given; and all it does is paid for from a budget of its
render, which no loop, recursion or doubling outruns. Otherwise it renders as transformers' `apply_chat_template` does.
"""

from collections.abc import Callable, Mapping, Sequence
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined

from worker.rendering.sandbox_budget import (
    FUNCTIONS,
    SLOW_STEP,
    SMALL_TEXT,
    UNIT_BITS,
    Budget,
    TemplateRefused,
    check_number,
    refuse,
)
from worker.rendering.sandbox_calls import FILTERS, METHODS, TESTS, Sandbox
from worker.rendering.work import Work

__all__ = ["MAX_SOURCE", "ChatTemplate", "TemplateRefused"]

# Characters of a template: the longest public ones have 40,000.
MAX_SOURCE = 256 * 1024
# Steps of a template: the public ones have up to 4,000. Compiling takes up to quadratic time.
MAX_NODES = 8_000
# Characters of the reason of a refusal.
MAX_REASON = 500

STATEMENTS = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Break, nodes.Continue)
BLOCKS = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.With, nodes.Assign, nodes.AssignBlock, nodes.NSRef)
LITERALS = (nodes.Name, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair)
CALLS = (nodes.Call, nodes.Filter, nodes.Test, nodes.Keyword, nodes.ExtensionAttribute)
LOOKUPS = (nodes.Getattr, nodes.Getitem, nodes.Slice)
OPERATIONS = (nodes.BinExpr, nodes.UnaryExpr, nodes.Compare, nodes.Operand, nodes.Concat, nodes.CondExpr)
ALLOWED = (*STATEMENTS, *BLOCKS, *LITERALS, *CALLS, *LOOKUPS, *OPERATIONS)
# Units of a node, beyond what it does with long texts and lists; any other takes one.
WEIGHTS: dict[type[nodes.Node], int] = {
    **dict.fromkeys((nodes.Call, nodes.Filter), 20),
    **dict.fromkeys((nodes.Macro, nodes.CallBlock), 32),
    **dict.fromkeys((nodes.For, nodes.Dict), 8),
    **dict.fromkeys((nodes.Test, nodes.List, nodes.Tuple, nodes.Concat), 4),
    **dict.fromkeys((nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow), 6),
    **dict.fromkeys((nodes.Getattr, nodes.Getitem, nodes.Add, nodes.Slice, nodes.Output), 2),
}


class GenerationBlock(Extension):
    """`{% generation %}`: transformers marks the assistant's text with it. Here it is its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("render_body"), [], [], body).set_lineno(line)

    def render_body(self, caller: Callable[[], str]) -> str:
        return caller()


class RenderContext(Context):
    """The variables of one render and its budget. Renders share nothing, whatever thread they are in."""

    budget: Budget

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """What `function(...)` gives. Raises TemplateRefused unless it is a macro or one of those that are listed."""
        kind = type(function)
        self.budget.spend(len(args) + len(kwargs) + (SLOW_STEP if kind is LoopContext else 0))
        if kind is Macro or kind is LoopContext:
            return function(*args, **kwargs)
        if kind is FunctionType and function in FUNCTIONS.values():
            return function(self.budget, *args, **kwargs)
        if kind is BuiltinMethodType or kind is MethodType:
            return self._call_method(function.__self__, function.__name__, function, args, kwargs)
        if kind is Undefined:
            return function()
        return refuse(f"calls a {kind.__name__}, which is no function")

    def _call_method(self, receiver: Any, name: str, method: Any, args: Any, kwargs: Any) -> Any:
        for kind, methods in METHODS:
            if isinstance(receiver, kind) and name in methods:
                made = methods[name](self.budget, receiver, method, *args, **kwargs)
                return self.budget.settle(made) if kind is str else made
        return refuse(f"calls the method {name!r} of a {type(receiver).__name__}, which no chat needs")


def _is_small(node: nodes.Node) -> bool:
    """Whether comparing with it takes no time: a constant, or a list of them."""
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(_is_small(item) for item in node.items)
    return isinstance(node, nodes.Const) and not (isinstance(node.value, str) and len(node.value) > SMALL_TEXT)


def _units(node: nodes.Node) -> int:
    """What running it takes, without the bodies in it: each of those is paid for when it is run."""
    size = len(node.data) if isinstance(node, nodes.TemplateData) else 0
    inner = sum(map(_units, node.iter_child_nodes(exclude=("body", "else_"))))
    return WEIGHTS.get(type(node), 1) + (size >> UNIT_BITS) + inner


class PayingCode(CodeGenerator):
    """Compiles a template to Python that pays: at the head of every body for its nodes, and in each operation that may
    cost more than its node. Nothing is computed at compile time."""

    def write_commons(self) -> None:
        super().write_commons()
        self.writeline("budget = context.budget")
        self.writeline("concat = budget.join")

    def blockvisit(self, nodes: Any, frame: Frame) -> None:
        self.writeline(f"budget.spend({1 + sum(map(_units, nodes))})")
        super().blockvisit(nodes, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        if node.test is not None:
            node.test = nodes.MarkSafe(node.test)
        super().visit_For(node, frame)

    def visit_MarkSafe(self, node: nodes.MarkSafe, frame: Frame) -> None:
        """Stands for the condition of a loop, which is run before its body is paid for. No template can write it."""
        self.write(f"(budget.spend({1 + _units(node.expr)}) and ")
        self.visit(node.expr, frame)
        self.write(")")

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData | nodes.Const):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def _output_child_pre(self, *_: Any) -> None:
        self.write("budget.text(")

    def _write_call(self, function: str, parts: Sequence[nodes.Node | str | None], frame: Frame) -> None:
        self.write(f"budget.{function}(")
        for part in parts:
            if isinstance(part, nodes.Node):
                self.visit(part, frame)
            else:
                self.write(repr(part))
            self.write(", ")
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self._write_call("glue", node.nodes, frame)

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:
        parts: list[nodes.Node] = []
        first: nodes.Node = node
        while isinstance(first, nodes.Add):
            parts.append(first.right)
            first = first.left
        self._write_call("add", [first, *reversed(parts)], frame)

    def _visit_arithmetic(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._write_call("calculate", [node.operator, node.left, node.right], frame)

    visit_Sub = visit_Mul = visit_Div = visit_FloorDiv = visit_Mod = visit_Pow = _visit_arithmetic

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        first = node.ops[0]
        is_search, is_chain = any(operand.op in ("in", "notin") for operand in node.ops), len(node.ops) > 1
        if is_search and is_chain:
            refuse(f"compares with `in` and something more in line {node.lineno}: use brackets")
        if not is_chain and (_is_small(first.expr) or (not is_search and _is_small(node.expr))):
            super().visit_Compare(node, frame)
            return
        self.write("(not " if first.op == "notin" else "(")
        if is_search:
            self._write_call("contains", [node.expr, first.expr], frame)
        else:
            self._write_call("weigh", [node.expr], frame)
            for operand in node.ops:
                self.write(f" {operators[operand.op]} ")
                self._write_call("weigh", [operand.expr], frame)
        self.write(")")

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        is_special = hasattr(dict, node.attr) or node.attr.startswith("_")
        self._write_call("attribute" if is_special else "field", [node.node, node.attr], frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Slice):
            self._write_call("cut", [node.node, node.arg.start, node.arg.stop, node.arg.step], frame)
        else:
            self._write_call("item", [node.node, node.arg], frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for pair in node.items:
            self._write_call("new_key", [pair.key], frame)
            self.write(": ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        self.write("context.call(")
        self.visit(node.node, frame)
        self.signature(node, frame, {"caller": "caller"} if forward_caller else None)
        self.write(")")


ENVIRONMENT = Sandbox(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[GenerationBlock, loopcontrols])
ENVIRONMENT.code_generator_class = PayingCode
ENVIRONMENT.context_class = RenderContext
ENVIRONMENT.filters = FILTERS
ENVIRONMENT.tests = TESTS
ENVIRONMENT.globals = dict(FUNCTIONS)


def _check(node: nodes.Node) -> None:
    """Raises TemplateRefused for what no chat template needs: other files, blocks, `loop` as a value, huge numbers."""
    for child in node.iter_child_nodes():
        if not isinstance(child, ALLOWED):
            refuse(f"uses {type(child).__name__.lower()!r}, which no chat needs")
        if isinstance(child, nodes.Name) and child.name == "loop" and not _may_hold_loop(node, child):
            refuse(f"uses `loop` as if it were data in line {child.lineno}")
        if isinstance(child, nodes.Const) and isinstance(child.value, int):
            check_number(child.value)
        _check(child)


def _may_hold_loop(parent: nodes.Node, child: nodes.Name) -> bool:
    """Reading a loop runs it, unpaid for; but a template may read its parts, call it, and ask whether there is one."""
    is_looked_at = isinstance(parent, nodes.Getattr | nodes.Getitem | nodes.Call) and parent.node is child
    return is_looked_at or (isinstance(parent, nodes.Test) and parent.name in ("defined", "undefined"))


class ChatTemplate:
    """One compiled template; threads may share it.

    `uses_date` says whether it asks for the day on which it is used, so that its text is not the same tomorrow.
    """

    def __init__(self, source: str) -> None:
        """Raises TemplateRefused."""
        if len(source) > MAX_SOURCE:
            refuse(f"has {len(source):,} characters, more than {MAX_SOURCE:,}")
        try:
            tree = ENVIRONMENT.parse(source)
            if sum(1 for _ in tree.find_all(nodes.Node)) > MAX_NODES:
                refuse(f"has more than {MAX_NODES:,} steps")
            _check(tree)
            self.uses_date = any(name.name == "strftime_now" for name in tree.find_all(nodes.Name))
            self._template = ENVIRONMENT.from_string(tree)
        except Exception as error:  # noqa: BLE001  whatever a stranger's text makes Jinja raise, it is refused
            raise _refusal(error) from None

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
        work: Work | None = None,
    ) -> str:
        """The text of a chat. `variables`: what else the template may read. `work`: what it and other renders may take
        together. Raises TemplateRefused.
        """
        own = {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
        # A context of its own and not the template's, which would copy Jinja's variables every time.
        context = RenderContext(ENVIRONMENT, {**FUNCTIONS, "documents": None, **variables, **own}, None, {})
        context.budget = budget = Budget(ENVIRONMENT, work.left if work is not None else None)
        try:
            return budget.join(list(self._template.root_render_func(context)))
        except Exception as error:  # noqa: BLE001  whatever a stranger's program raises, it is refused
            raise _refusal(error) from None
        finally:
            if work is not None:
                work.take(budget.spent)


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
