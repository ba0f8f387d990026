"""Views of stored rows: fields that cannot be read are left out and named, and the others are shown."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from app.contracts.stored import Unreadable

View = TypeVar("View", bound="StoredView")
UNREADABLE = (
    "fields that are stored in a form that this version cannot read, such as one of a newer version; they have their "
    "empty value here"
)


class StoredView(BaseModel):
    """A view with a field `unreadable`.

    Each field that is read from a JSON document needs a default, the empty value that is shown if it cannot be read.
    """

    model_config = ConfigDict(from_attributes=True, json_schema_serialization_defaults_required=True)


def show(view: type[View], fields: Mapping[str, Any]) -> View:
    """Return the view of a row. Fields that cannot be read have their defaults, and are named in `unreadable`."""
    lost = {name for name, value in fields.items() if isinstance(value, Unreadable)}
    try:
        return _without(view, fields, lost)
    except ValidationError as error:
        lost |= {str(problem["loc"][0]) for problem in error.errors()}
        return _without(view, fields, lost)


def _without(view: type[View], fields: Mapping[str, Any], lost: set[str]) -> View:
    read = {name: value for name, value in fields.items() if name not in lost}
    return view.model_validate({**read, "unreadable": sorted(lost | set(fields.get("unreadable", ())))})
