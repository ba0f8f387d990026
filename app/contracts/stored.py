"""Reads what another version has stored. At the door a field that is not known is refused; of what is stored it is
dropped, and one that was added later has its default."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class Unreadable:
    """A stored document that cannot be read."""


class Stored(BaseModel):
    """What is read of a stored document: the fields that are needed, and no others."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


def read(kind: type[Model], found: object) -> Model | None:
    """The document in the form of `kind`, strict or not, without what is not known here. None: it cannot be read."""
    try:
        return kind.model_validate(found, extra="ignore")
    except ValidationError:
        return None


def read_json(kind: type[Model], text: str | bytes) -> Model | None:
    """As `read`, of a file's content."""
    try:
        return kind.model_validate_json(text, extra="ignore")
    except ValidationError:
        return None
