"""JSON as a dataset may hold it: no key twice in an object, no endless nesting; every fault has a line and column."""

import json
from collections import Counter
from typing import Any

LONGEST_NAME = 60
UNTERMINATED = "a string is not closed"


class JsonFault(ValueError):
    """Text that is no JSON. Line and column count from 1; `position` is an index into the text, if it is known."""

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
        raise ValueError(f"the key {twice[:LONGEST_NAME]!r} stands twice in one object")
    return value


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def parse(text: str) -> Any:
    """The one value that the text holds. Raises JsonFault."""
    start = len(text) - len(text.lstrip(" \t\r\n"))
    value, end = parse_at(text, start)
    rest = text[end:].lstrip(" \t\r\n")
    if rest:
        raise _located("more text behind the value", text, len(text) - len(rest))
    return value


def parse_at(text: str, start: int) -> tuple[Any, int]:
    """The value that starts at an index, and the index behind it. Raises JsonFault."""
    try:
        return DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise _located(_reason(error), text, error.pos) from None
    except RecursionError:
        raise JsonFault("nested too deeply") from None
    except ValueError as error:  # a key that stands twice, or a number of thousands of digits
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
