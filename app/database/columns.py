"""Column types that load any stored value, so that a damaged value or one of another version fails no query.

A document of the wrong shape is loaded as an empty one whose type says that it could not be read.
"""

import json
import re
from enum import StrEnum
from typing import Any, NoReturn

from sqlalchemy import JSON, Dialect, String
from sqlalchemy.types import TypeDecorator

from app.contracts.stored import Unreadable

# JSON text that a response cannot contain: half a surrogate pair, and a number beyond the range of floats.
SUSPICIOUS = re.compile(r"\\u[dD][89a-fA-F]|[eE]\+?[0-9]{3}")


class UnreadableObject(dict[str, Any], Unreadable):
    """Stands for an object that cannot be read."""


class UnreadableList(list[Any], Unreadable):
    """Stands for a list that cannot be read."""


class Document(TypeDecorator[Any]):
    """A JSON object, or a JSON list if `shape` is `list`. `is_optional`: None is allowed, and stored as SQL NULL."""

    impl = JSON
    cache_ok = True

    def __init__(self, shape: type[dict[str, Any]] | type[list[Any]] = dict, *, is_optional: bool = False) -> None:
        super().__init__(none_as_null=is_optional)
        self.shape, self.is_optional = shape, is_optional

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if isinstance(value, self.shape) or (value is None and self.is_optional):
            return value
        return UnreadableList() if self.shape is list else UnreadableObject()


class Choice(TypeDecorator[Any]):
    """A member of an enum, stored as its value. An unknown value is loaded as `unknown`, or as text if that is None."""

    impl = String
    cache_ok = True

    def __init__(self, values: type[StrEnum], unknown: StrEnum | None = None) -> None:
        super().__init__(length=16)
        self.values, self.unknown = values, unknown

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return self.values(value).value if value is not None else None

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        try:
            return self.values(value) if value is not None else None
        except ValueError:
            return value if self.unknown is None else self.unknown


def read_document(text: str | bytes) -> Any:
    """Return the value of a JSON column. Text that is no JSON is returned itself, which no `Document` accepts."""
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    try:
        value = json.loads(text, parse_constant=_refuse)
        if SUSPICIOUS.search(text):
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return text
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
