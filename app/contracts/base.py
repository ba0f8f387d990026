"""What every message between two processes has in common: frozen, bounded, and closed to unknown keys."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError


class Contract(BaseModel):
    """A value that crosses a process boundary. Unknown keys, NaN and infinity are refused at every level."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


Part = TypeVar("Part", bound=Contract)


def extract(value: BaseModel, kind: type[Part], **others: Any) -> Part:
    """A `kind` made of the fields that `value` has under the same names; `others` come beside or instead of them."""
    shared = kind.model_fields.keys() & type(value).model_fields.keys()
    return kind(**{name: getattr(value, name) for name in shared} | others)


def check_text(value: Any, path: str = "") -> None:
    """Refuse text that no database and no file can keep: a NUL, or half a character."""
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        raise PydanticCustomError("broken_text", "text of whole characters, without NUL", {"path": path})
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        check_text(key, path)
        check_text(item, f"{path}.{key}" if path else str(key))


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("should be a number, not true or false")
    return value


# pydantic takes `true` for 1; a rank of `true` is a mistake and is refused.
Whole = Annotated[int, BeforeValidator(_refuse_bool)]
Real = Annotated[float, BeforeValidator(_refuse_bool)]
