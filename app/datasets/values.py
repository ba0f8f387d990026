"""Says what a value is, in JSON's words and in at most 200 characters that can be shown and stored anywhere."""

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from app.datasets.strict_json import JsonFault, parse
from app.errors import LONGEST_QUOTE

# Unicode's categories of characters that leave no mark: control, format (such as zero-width space), separators.
INVISIBLE = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})


def describe(value: Any) -> str:
    """The type, and of a scalar also the value: `a number (6)`. Of a container never what it holds.

    Text that is JSON of a container is called that: it is what a table's cell holds where the container was meant.
    """
    match value:
        case None:
            return "null"
        case bool():
            return f"a boolean ({str(value).lower()})"
        case int() | float():
            return clip(f"a number ({value})")
        case str():
            held = json_container(value)
            said = repr(value[: LONGEST_QUOTE + 1]) if held is None else f"a text that holds JSON: {describe(held)}"
            return clip(said)
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case dict():
            return clip(f"an object with the keys {names(value)}") if value else "an empty object"
        case _:
            return f"a {type(value).__name__}"


def json_container(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or the object that the text is the JSON of; None for any other text."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        value = parse(text)
    except JsonFault:
        return None
    return value if isinstance(value, list | dict) else None


def is_blank(text: str) -> bool:
    """Whether it has no character that leaves a mark."""
    return not text.strip() or all(unicodedata.category(char) in INVISIBLE for char in text)


def lacking(values: Mapping[str, Any], key: str, known: Collection[str], *, is_arrow: bool) -> str:
    """What stands where the value of a key should: nothing or null, and the keys that are not known.

    Arrow gives every object the keys of all others: there, null beside such a key means that the key is absent.
    """
    others = [name for name, value in values.items() if name not in known and value is not None]
    is_absent = key not in values or (is_arrow and bool(others))
    said = f"no {key!r}" if is_absent else "null"
    return f"{said}, but the key{'s' * (len(others) > 1)} {names(map(repr, others))}" if others else said


def names(keys: Iterable[Any]) -> str:
    """Names as a list in a sentence, in their own order."""
    return clip(", ".join(printable(str(key)) for key in keys)) or "none"


def printable(name: str) -> str:
    """A name with what cannot be shown or stored (NUL, lone surrogates, line breaks) written as escapes."""
    return clip(name if name.isprintable() else repr(name)[1:-1])


def clip(text: str) -> str:
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 1]}…"
