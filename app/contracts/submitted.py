"""The fields that the spec of every kind of job has."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator, model_validator

from app.contracts.base import Contract, Whole, check_text
from app.contracts.training_args import SafeName

LOWEST_PRIORITY, HIGHEST_PRIORITY = -100, 100
WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


class SubmittedSpec(Contract):
    """What says who a job is for, and when its turn is."""

    name: SafeName = "job"
    project: SafeName = Field("default", description="waiting jobs of different projects take turns")
    labels: Annotated[
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=64)],
            Annotated[str, StringConstraints(max_length=512)],
        ],
        Field(max_length=16),
    ] = {}
    priority: Whole = Field(0, ge=LOWEST_PRIORITY, le=HIGHEST_PRIORITY, description="higher runs first")

    @model_validator(mode="before")
    @classmethod
    def _text_can_be_kept(cls, value: Any) -> Any:
        check_text(value)
        return value

    @field_validator("name")
    @classmethod
    def _name_is_no_device(cls, name: str) -> str:
        if name.split(".")[0].lower() in WINDOWS_DEVICES:
            raise ValueError("should be another name than that of a Windows device")
        return name
