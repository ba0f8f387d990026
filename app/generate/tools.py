"""Calls of tools in an answer's text, in the form of Hermes and Qwen.

    <tool_call>{"name": …, "arguments": …}</tool_call>

Other forms stay text. So does a call that is no JSON, is not complete, or names a tool that was not offered.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def ends_of_calls(tools: Collection[Any], *, is_parallel: bool) -> tuple[str, ...]:
    """The texts after which an answer ends: a tool call, if tools are offered and only one call is allowed."""
    return () if is_parallel or not tools else (CLOSE,)


@dataclass(frozen=True)
class Call:
    """A call in the answer; arguments as JSON text."""

    name: str
    arguments: str


class CallScanner:
    """Lets text through and takes calls out of it, wherever the borders of the pieces are; blanks around calls too."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._rest = ""
        self._is_behind_call = False

    def feed(self, piece: str) -> list[str | Call]:
        """What is certain now: texts, never empty, and calls."""
        self._rest += piece
        found: list[str | Call] = []
        while (start := self._rest.find(OPEN)) >= 0:
            end = self._rest.find(CLOSE, start + len(OPEN))
            if end < 0:
                break
            self._take(found, start, end)
        self._let(found, self._rest[: self._certain()])
        return found

    def finish(self) -> list[str | Call]:
        """What was held back; a call that was not completed comes as the text that it is."""
        rest = self._rest
        is_blank = self._is_behind_call and not rest.strip()
        self._rest = ""
        return [rest] if rest and not is_blank else []

    def _take(self, found: list[str | Call], start: int, end: int) -> None:
        """One complete block: a call, or text where it is none."""
        call = self._read(self._rest[start + len(OPEN) : end])
        if call is None:
            self._let(found, self._rest[: end + len(CLOSE)])
            return
        before, behind = self._rest[:start].rstrip(), self._rest[end + len(CLOSE) :]
        self._let(found, before)
        found.append(call)
        self._rest, self._is_behind_call = behind, True

    def _let(self, found: list[str | Call], text: str) -> None:
        self._rest = self._rest[len(text) :]
        shown = text.lstrip() if self._is_behind_call else text
        if shown:
            self._is_behind_call = False
            found.append(shown)

    def _certain(self) -> int:
        """The length of the buffered text in which no tool call can begin, without its trailing blanks."""
        start = self._rest.find(OPEN)
        if start < 0:
            sizes = range(min(len(OPEN) - 1, len(self._rest)), 0, -1)
            start = len(self._rest) - next((size for size in sizes if OPEN.startswith(self._rest[-size:])), 0)
        return len(self._rest[:start].rstrip())

    def _read(self, text: str) -> Call | None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in self._names:
            return None
        arguments = _arguments(value.get("arguments", {}))
        return Call(name, arguments) if arguments is not None else None


def _arguments(value: Any) -> str | None:
    """The arguments as the text of a JSON object, or None where they are none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else None
