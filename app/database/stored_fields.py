"""Views of stored rows: what of a row cannot be read is left out and named, and the rest is shown."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from app.contracts.stored import Unreadable

View = TypeVar("View", bound="StoredView")
UNREADABLE = (
    "fields that are stored in a form which this version cannot read, such as one of a newer version: they have their "
    "empty value here"
)


class StoredView(BaseModel):
    """A view with a field `unreadable`. Each of its fields that is read of a document needs a default: the empty value
    that is shown where the document cannot be read."""

    model_config = ConfigDict(from_attributes=True, json_schema_serialization_defaults_required=True)


def show(view: type[View], fields: Mapping[str, Any]) -> View:
    """The view of a row. Fields of documents that cannot be read have their defaults, and stand in `unreadable`."""
    lost = {name for name, value in fields.items() if isinstance(value, Unreadable)}
    try:
        return _without(view, fields, lost)
    except ValidationError as error:
        lost |= {str(problem["loc"][0]) for problem in error.errors()}
        return _without(view, fields, lost)


def _without(view: type[View], fields: Mapping[str, Any], lost: set[str]) -> View:
    read = {name: value for name, value in fields.items() if name not in lost}
    return view.model_validate({**read, "unreadable": sorted(lost | set(fields.get("unreadable", ())))})
