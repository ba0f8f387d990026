"""A JSON parser that refuses duplicate keys and deep nesting, and locates errors by line and column."""

import json
from collections import Counter
from typing import Any

LONGEST_NAME = 60
UNTERMINATED = "a string is not closed"


class JsonFault(ValueError):
    """Invalid JSON. Line and column count from 1; `position` is an index into the text, or None if unknown."""

    def __init__(self, reason: str, position: int | None = None, line: int = 1, column: int = 1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position
        self.line = line
        self.column = column


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:LONGEST_NAME]!r} occurs twice in one object")
    return value


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def parse(text: str) -> Any:
    """Returns the value of a JSON text. Raises JsonFault."""
    start = len(text) - len(text.lstrip(" \t\r\n"))
    value, end = parse_at(text, start)
    rest = text[end:].lstrip(" \t\r\n")
    if rest:
        raise _located("more text after the value", text, len(text) - len(rest))
    return value


def parse_at(text: str, start: int) -> tuple[Any, int]:
    """Returns the value that starts at an index, and the index after it. Raises JsonFault."""
    try:
        return DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise _located(_reason(error), text, error.pos) from None
    except RecursionError:
        raise JsonFault("nested too deeply") from None
    except ValueError as error:  # a duplicate key, or a number with thousands of digits
        raise JsonFault(str(error)) from None


def _reason(error: json.JSONDecodeError) -> str:
    if error.msg.startswith("Unterminated string"):
        return UNTERMINATED
    if error.msg.startswith("Invalid control") and error.doc[error.pos] in "\r\n":
        return f"{UNTERMINATED} on its line"
    return (error.msg[0].lower() + error.msg[1:]).removesuffix(" at")


def _located(reason: str, text: str, position: int) -> JsonFault:
    line = text.count("\n", 0, position) + 1
    return JsonFault(reason, position, line, position - text.rfind("\n", 0, position))
