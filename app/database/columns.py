"""Column types that load whatever stands in the row: a value of another version, or a damaged one, fails no query.

A document that has not the shape which it should have is loaded empty, and says by its type that it could not be read.
"""

import json
import re
from enum import StrEnum
from typing import Any, NoReturn

from sqlalchemy import JSON, Dialect, String
from sqlalchemy.types import TypeDecorator

from app.contracts.stored import Unreadable

# What JSON can write and no answer can hold: half a character, and a number beyond all floats.
SUSPICIOUS = re.compile(r"\\u[dD][89a-fA-F]|[eE]\+?[0-9]{3}")


class UnreadableObject(dict[str, Any], Unreadable):
    """In place of an object."""


class UnreadableList(list[Any], Unreadable):
    """In place of a list."""


class Document(TypeDecorator[Any]):
    """A JSON object, or a JSON list where `shape` is `list`. `is_optional`: null is a value, and stored as SQL's."""

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
    """A member of an enum, stored by its value. A value of another version is loaded as `unknown`, else as its text."""

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
    """The value of a JSON column. Text that is no JSON is the value itself, which has the shape of no document."""
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
