"""What one render of a stranger's template may do: every loop, call and copy is paid for from its `Budget`.

A unit of work is a tenth of a microsecond or less: a step of the template, an item of a list, 32 bytes of text. What
can grow is paid for before it is made, or refused by its size. No clock is read, and no thread knows of another.
"""

import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from datetime import datetime
from itertools import islice
from sys import getsizeof
from typing import Any, NoReturn

from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import SandboxedEnvironment, safe_range
from jinja2.utils import Namespace, missing

# 2,000 messages take up to a million units with most public templates, and all twenty with those that look back from
# every message over all before it. Twenty million are spent in one to two seconds, and pay for 640 MB of text at most.
MAX_WORK = 20_000_000
# Characters of one text, the result included: four messages of 16 MiB.
MAX_TEXT = 64 * 1024**2
# Items of one list: 2,000 messages with 500 parts each.
MAX_ITEMS = 1_000_000
# Integers beyond 64 bits count nothing in a chat; without a bound they take all memory.
MAX_INT = 2**63
# Characters of the form of a date.
MAX_FORM = 1000
# Text up to this length is paid for with the step that makes it.
SMALL_TEXT = 128
# A unit pays for 2**5 bytes of text, or for the copy of 2**2 items of a list.
UNIT_BITS, ITEM_BITS = 5, 2
# An attribute for which the sandbox is asked, a form filled in, a date: what takes long beside a step.
SLOW_STEP = 24

NUMBERS = frozenset({int, float})
SCALARS = frozenset({str, int, float, bool, type(None), Undefined})
ITERABLES = (list, tuple, KeysView, ValuesView, ItemsView)
# A width or precision that an argument gives, or one of four digits; and names too intricate to look behind.
WIDE = re.compile(r"%\([^()]*\(|%(?:\([^()]*\))?[-+ #0]*(?:\*|\d{4}|\d*\.(?:\*|\d{4}))")


class TemplateRefused(Exception):
    """A chat template that raised, is no valid Jinja, or went over a limit. The text is a reason for the user."""


def refuse(reason: str) -> NoReturn:
    raise TemplateRefused(f"the chat template {reason}")


def check_text(size: int) -> None:
    if size > MAX_TEXT:
        refuse(f"makes a text of more than {MAX_TEXT:,} characters")


def check_items(count: int) -> None:
    if count > MAX_ITEMS:
        refuse(f"makes a list of more than {MAX_ITEMS:,} items")


def check_number(number: int) -> None:
    if abs(number) > MAX_INT:
        refuse("has a whole number of more than 64 bits")


class Budget:
    """The work that is left to one render, and the operations of its template that may cost more than a step."""

    __slots__ = ("_limit", "_sandbox", "left")

    def __init__(self, sandbox: SandboxedEnvironment, most: int | None = None) -> None:
        """`most`: the units that this render may take, where that is less than any render may."""
        self._limit = self.left = MAX_WORK if most is None else min(MAX_WORK, max(0, most))
        self._sandbox = sandbox

    @property
    def spent(self) -> int:
        return self._limit - max(0, self.left)

    def spend(self, units: int) -> bool:
        """Pay. True, so that a condition can begin with it. Raises TemplateRefused when nothing is left."""
        self.left -= units
        if self.left < 0:
            refuse(f"does more work than a chat needs: stopped after {self._limit:,} steps")
        return True

    def weigh(self, value: Any, times: int = 1) -> Any:
        """Pay for reading the whole of a value `times` times, with all that it holds, and hand it on."""
        kind = type(value)
        if kind not in SCALARS:
            self._weigh_parts(value, times)
        elif kind is str and len(value) > SMALL_TEXT:
            self.spend(len(value) * times >> UNIT_BITS)
        return value

    def _weigh_parts(self, value: Any, times: int) -> None:
        if isinstance(value, dict):
            self.spend((8 * len(value) + 1) * times)
            for key, item in value.items():
                self.weigh(key, times)
                self.weigh(item, times)
        elif isinstance(value, ITERABLES):
            self.spend((4 * len(value) + 1) * times)
            for item in value:
                self.weigh(item, times)
        elif isinstance(value, range):
            self.spend(len(value) * times)
        elif isinstance(value, str):
            self.spend(len(value) * times >> UNIT_BITS)
        else:
            refuse(f"uses a {type(value).__name__} as if it were data")

    def length(self, value: Any, times: int = 1) -> int:
        """How many characters a value has or more, as far as it was paid for; it is weighed."""
        before = self.left
        self.weigh(value, times)
        return (before - self.left << UNIT_BITS) // times

    def settle(self, value: Any) -> Any:
        """Pay for what an operation has made, and hand it on. Iterators are paid for as they go."""
        if isinstance(value, str):
            size = len(value)
            if size > SMALL_TEXT:
                check_text(size)
                self.spend(getsizeof(value) >> UNIT_BITS)
        elif isinstance(value, list | tuple | dict):
            check_items(len(value))
            self.spend(len(value) >> ITEM_BITS)
        elif isinstance(value, int):
            check_number(value)
        elif isinstance(value, Iterator):
            return self._walk(value)
        return value

    def _walk(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(2)
            yield item

    def collect(self, items: Iterable[Any]) -> list[Any]:
        """The items in a list of its own, not weighed."""
        collected = list(islice(items, MAX_ITEMS + 1))
        check_items(len(collected))
        self.spend(len(collected))
        return collected

    def text(self, value: Any) -> str:
        """What `str` makes of data. Of functions and other objects it makes addresses, which are no text to learn."""
        if type(value) in SCALARS:
            return str(value)
        if not isinstance(value, str):
            # Every character may be written with ten.
            check_text(self.length(value) * 10)
        return str(self.settle(str(value)))

    def join(self, parts: list[str]) -> str:
        """The parts in one text."""
        size = sum(map(len, parts))
        check_text(size)
        return str(self.settle("".join(parts)))

    def glue(self, *parts: Any) -> str:
        """`a ~ b ~ c`."""
        return self.join([part if type(part) is str else self.text(part) for part in parts])

    def add(self, *parts: Any) -> Any:
        """`a + b + c`, from the left."""
        size = 0
        for part in parts:
            if type(part) is not str:
                return self._add_in_turn(parts)
            size += len(part)
        check_text(size)
        return self.settle("".join(parts))

    def _add_in_turn(self, parts: tuple[Any, ...]) -> Any:
        total = parts[0]
        for part in parts[1:]:
            total = self.settle(total + part)
        return total

    def calculate(self, sign: str, left: Any, right: Any) -> Any:
        """`left sign right`: of numbers, but `*` repeats texts and lists too, and `%` fills in a text."""
        if type(left) not in NUMBERS or type(right) not in NUMBERS:
            self.weigh(left)
            length = self.length(right)
            if sign == "*":
                _check_repeat(left, right)
                _check_repeat(right, left)
            elif sign == "%" and isinstance(left, str):
                _check_form(left, length)
        elif sign == "**":
            _check_power(left, right)
        return self.settle(self._sandbox.binop_table[sign](left, right))

    def cut(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """`value[start:stop:step]`."""
        return self.settle(value[start:stop:step])

    def contains(self, needle: Any, haystack: Any) -> bool:
        """`needle in haystack`."""
        if isinstance(haystack, Iterator):
            haystack = self.collect(haystack)
        self.weigh(needle)
        if isinstance(haystack, str) and isinstance(needle, str):
            self.search(haystack, needle)
        elif not isinstance(haystack, dict):
            self.weigh(haystack)
        return bool(needle in haystack)

    def search(self, text: str, needle: str) -> None:
        """Pay for a search: it may compare each character of the one with each of the other, four in a step."""
        self.spend((len(text) * (4 + len(needle)) >> UNIT_BITS + 2) + (len(needle) >> UNIT_BITS))

    def new_key(self, key: Any) -> Any:
        """A key of a mapping that the template makes. Tuples can be chosen to collide, which takes quadratic time."""
        if type(key) not in SCALARS and not isinstance(key, str):
            refuse("makes a mapping with a key that is neither a text nor a number")
        return key

    def field(self, holder: Any, name: str) -> Any:
        """`holder.name`, of a public name that no mapping has as an attribute. What is read most is read directly."""
        kind = type(holder)
        if kind is dict:
            return holder[name] if name in holder else Undefined(obj=holder, name=name)
        if kind is Namespace or kind is LoopContext:
            found = getattr(holder, name, missing)
            return Undefined(obj=holder, name=name) if found is missing else found
        return self.attribute(holder, name)

    def attribute(self, holder: Any, name: str) -> Any:
        """`holder.name`, as far as the sandbox shows it."""
        self.spend(SLOW_STEP)
        return self._sandbox.getattr(holder, name)

    def item(self, holder: Any, key: Any) -> Any:
        """`holder[key]`."""
        kind = type(holder)
        if kind is dict and type(key) is str and len(key) <= SMALL_TEXT and key in holder:
            return holder[key]
        if kind is list and type(key) is int and -len(holder) <= key < len(holder):
            return holder[key]
        self.spend(SLOW_STEP)
        return self._sandbox.getitem(holder, self.weigh(key))


def _check_repeat(value: Any, count: Any) -> None:
    if isinstance(value, str) and isinstance(count, int):
        check_text(len(value) * count)
    elif isinstance(value, list | tuple) and isinstance(count, int):
        check_items(len(value) * count)


def _check_form(form: str, length: int) -> None:
    if len(form) > MAX_ITEMS or WIDE.search(form):
        refuse("formats a text with a width or a precision that is too large")
    check_text((length + SMALL_TEXT) * form.count("%"))


def _check_power(base: float, exponent: float) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > 2 * MAX_INT.bit_length():
        refuse("has a whole number of more than 64 bits")


def _range(_: Budget, *bounds: int) -> range:
    return safe_range(*bounds)


def _dict(budget: Budget, /, *mappings: Any, **fields: Any) -> dict[str, Any]:
    if not all(isinstance(mapping, dict) for mapping in mappings):
        refuse("makes a mapping of something that is none")
    budget.spend(SLOW_STEP)
    made: dict[str, Any] = budget.settle(dict(*mappings, **fields))
    return made


def _namespace(budget: Budget, /, *mappings: Any, **fields: Any) -> Namespace:
    return Namespace(_dict(budget, *mappings, **fields))


def _raise_exception(budget: Budget, message: Any) -> None:
    raise TemplateRefused(budget.text(message))


def _strftime_now(budget: Budget, form: str) -> str:
    budget.spend(SLOW_STEP + len(form))
    if len(form) > MAX_FORM:
        refuse("asks for the date in too long a form")
    return str(budget.settle(datetime.now().strftime(form)))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "range": _range,
    "dict": _dict,
    "namespace": _namespace,
    "raise_exception": _raise_exception,
    "strftime_now": _strftime_now,
}
