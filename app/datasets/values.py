"""Describes values in JSON's terms for error messages, in at most 200 printable characters."""

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from app.datasets.strict_json import JsonFault, parse
from app.errors import LONGEST_QUOTE

# Unicode categories of invisible characters: control, format (such as zero-width space), separators.
INVISIBLE = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})


def describe(value: Any) -> str:
    """Returns the type of a value, and for a scalar also the value, such as `a number (6)`.

    A text that is the JSON of a list or object is described as such: a table can only hold the text of it.
    """
    match value:
        case None:
            return "null"
        case bool():
            return f"a boolean ({str(value).lower()})"
        case int() | float():
            return clip(f"a number ({value})")
        case str():
            container = json_container(value)
            if container is not None:
                return clip(f"a text that holds JSON: {describe(container)}")
            return clip(repr(value[: LONGEST_QUOTE + 1]))
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case dict():
            return clip(f"an object with the keys {join_names(value)}") if value else "an empty object"
        case _:
            return f"a {type(value).__name__}"


def json_container(text: str) -> list[Any] | dict[str, Any] | None:
    """Returns the list or object if the text is the JSON of one, else None."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        value = parse(text)
    except JsonFault:
        return None
    return value if isinstance(value, list | dict) else None


def is_blank(text: str) -> bool:
    """Whether the text has no visible character."""
    return not text.strip() or all(unicodedata.category(char) in INVISIBLE for char in text)


def describe_missing(values: Mapping[str, Any], key: str, known: Collection[str], *, is_arrow: bool) -> str:
    """Describes an absent or null key, and names the unknown keys that have values.

    Arrow gives every object the keys of all objects: there, null beside an unknown key counts as absent.
    """
    others = [name for name, value in values.items() if name not in known and value is not None]
    is_absent = key not in values or (is_arrow and bool(others))
    text = f"no {key!r}" if is_absent else "null"
    return f"{text}, but the key{'s' * (len(others) > 1)} {join_names(map(repr, others))}" if others else text


def join_names(keys: Iterable[Any]) -> str:
    """Returns the names as a comma-separated list, or "none"."""
    return clip(", ".join(printable(str(key)) for key in keys)) or "none"


def printable(name: str) -> str:
    """Returns the name with unprintable characters (NUL, lone surrogates, line breaks) as escapes."""
    return clip(name if name.isprintable() else repr(name)[1:-1])


def clip(text: str) -> str:
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 1]}…"
