"""The bodies and responses of the secret routes. No response has a value."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, field_validator
from pydantic_core import PydanticCustomError

from app.contracts.base import Contract

if TYPE_CHECKING:  # the command line uses this module without SQLAlchemy
    from app.secrets.models import ProjectSecret

# Shorter ones could not be replaced in logs: they may be parts of words.
LEAST_CHARACTERS, MOST_CHARACTERS = 8, 4096


class SecretValue(Contract):
    value: str = Field(
        repr=False,
        description=f"{LEAST_CHARACTERS} to {MOST_CHARACTERS} visible ASCII characters without spaces",
        json_schema_extra={"minLength": LEAST_CHARACTERS, "maxLength": MOST_CHARACTERS, "pattern": "^[!-~]+$"},
    )

    @field_validator("value", mode="before")
    @classmethod
    def _can_be_kept(cls, value: Any) -> Any:
        """The error is one of its own, because the value is not repeated."""
        is_visible = isinstance(value, str) and all("!" <= char <= "~" for char in value)
        if not is_visible or not LEAST_CHARACTERS <= len(value) <= MOST_CHARACTERS:
            raise PydanticCustomError(
                "secret_value",
                "should be {least} to {most} visible ASCII characters without spaces",
                {"least": LEAST_CHARACTERS, "most": MOST_CHARACTERS},
            )
        return value


class SecretView(BaseModel):
    """A secret without its value, which is never returned."""

    object: Literal["secret"] = "secret"
    project: str
    name: str
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None = Field(description="when a job last got it")

    @classmethod
    def of(cls, secret: "ProjectSecret") -> "SecretView":
        return cls.model_validate(secret, from_attributes=True)


class SecretList(BaseModel):
    object: Literal["list"] = "list"
    data: list[SecretView]

    @classmethod
    def of(cls, secrets: "Sequence[ProjectSecret]") -> "SecretList":
        return cls(data=[SecretView.of(secret) for secret in secrets])


class SecretDeleted(BaseModel):
    name: str
    object: Literal["secret"] = "secret"
    deleted: bool = True
