"""The base class of every message between two processes: frozen, and without unknown keys."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

# JSON Schema's names of the bounds that pydantic's `Field` takes.
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


class Contract(BaseModel):
    """A value that crosses a process boundary. Unknown keys, NaN and infinity are refused at every level."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """pydantic leaves the bounds of an optional `Whole` or `Real` under its own names, which no client reads."""
        schema = handler(core)
        _rename_bounds(handler.resolve_ref_schema(schema))
        return schema


def _rename_bounds(schema: Any) -> None:
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _rename_bounds(inner)
    if isinstance(schema, dict):
        for name in schema.keys() & BOUNDS.keys():
            if not isinstance(schema[name], dict):  # a property may have this name
                schema[BOUNDS[name]] = schema.pop(name)


Part = TypeVar("Part", bound=Contract)


def extract(value: BaseModel, kind: type[Part], **others: Any) -> Part:
    """Make a `kind` from the fields that `value` has under the same names. `others` are added or replace them."""
    shared = kind.model_fields.keys() & type(value).model_fields.keys()
    return kind(**{name: getattr(value, name) for name in shared} | others)


def check_text(value: Any, path: str = "") -> None:
    """Raise an error for text that cannot be stored, in `value` or any text inside it: a NUL or a lone surrogate."""
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


# pydantic accepts `true` as 1, but a rank of `true` is a mistake.
Whole = Annotated[int, BeforeValidator(_refuse_bool)]
Real = Annotated[float, BeforeValidator(_refuse_bool)]
