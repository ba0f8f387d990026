"""Reads documents that another version has stored. Requests with unknown fields are refused, but in stored documents
unknown fields are ignored, and fields that were added later have their defaults."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class Unreadable:
    """A stored document that cannot be read."""


class Stored(BaseModel):
    """The needed fields of a stored document. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


def read(kind: type[Model], found: object) -> Model | None:
    """Return the document as a `kind`, without unknown fields, or None if it cannot be read."""
    try:
        return kind.model_validate(found, extra="ignore")
    except ValidationError:
        return None


def read_json(kind: type[Model], text: str | bytes) -> Model | None:
    """Do the same as `read` with JSON text."""
    try:
        return kind.model_validate_json(text, extra="ignore")
    except ValidationError:
        return None


def with_values(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a spec or plan with dotted fields set: {"training.optim": "adamw_torch_fused"}."""
    changed = dict(document)
    for path, value in values.items():
        group, _, name = path.partition(".")
        known = changed.get(group)
        changed[group] = {**(known if isinstance(known, dict) else {}), name: value}
    return changed
