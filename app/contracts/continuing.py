"""What a job can continue from."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from app.contracts.base import Contract, Whole


class ContinueFrom(Contract):
    """The weights of an adapter, or a whole checkpoint with optimizer, schedule and position in the data."""

    adapter: Annotated[str, StringConstraints(min_length=1, max_length=120)] | None = Field(
        None, description="the id of an adapter: its weights, with a fresh optimizer"
    )
    job: Annotated[str, StringConstraints(pattern=r"^job-[a-z2-7]{24}$")] | None = Field(
        None, description="the id of a job that has ended: its newest checkpoint, or the one of `step`"
    )
    step: Whole | None = Field(None, ge=1, le=10_000_000, description="of the job's checkpoint; null: the newest")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.adapter is None) == (self.job is None):
            raise ValueError("should have exactly one of adapter and job")
        if self.step is not None and self.job is None:
            raise ValueError("step should be left out beside adapter, which has no steps")
        return self
