"""Says what a value is, in JSON's words and in at most 200 characters that can be shown and stored anywhere."""

from collections.abc import Iterable
from typing import Any

LONGEST_QUOTE = 200


def describe(value: Any) -> str:
    """The type, and of a scalar also the value: `a number (6)`. Of a container never what it holds."""
    match value:
        case None:
            return "null"
        case bool():
            return f"a boolean ({str(value).lower()})"
        case int() | float():
            return clip(f"a number ({value})")
        case str():
            return clip(repr(value[: LONGEST_QUOTE + 1]))
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case dict():
            return clip(f"an object with the keys {names(value)}") if value else "an empty object"
        case _:
            return f"a {type(value).__name__}"


def names(keys: Iterable[Any]) -> str:
    """Names as a list in a sentence, in their own order."""
    return clip(", ".join(printable(str(key)) for key in keys)) or "none"


def printable(name: str) -> str:
    """A name with what cannot be shown or stored (NUL, lone surrogates, line breaks) written as escapes."""
    return clip(name if name.isprintable() else repr(name)[1:-1])


def clip(text: str) -> str:
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 1]}…"
