"""How a worker asks the engine for the memory that both would use: a hold, which runs out when nobody renews it."""

import socket
from typing import Annotated

from pydantic import Field, StringConstraints

from app.contracts.base import Contract, Real

# A worker renews its hold every few seconds, and a lost one ends by itself.
LONGEST_HOLD_SECONDS = 600
# Of the memory that is free when the engine has loaded a model: what it takes for keys and values, at most. The rest is
# for adapters, scores and recorded graphs, and for who else uses the device: a training.
ENGINE_SHARE = 0.25
Label = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class YieldOrder(Contract):
    """What `POST /yield` is asked: step aside until this holder lets go, or has not asked again for so long."""

    holder: Label = Field(description="a slot, by a name that nobody else knows; asked again by it, a hold is renewed")
    job_id: Label = Field(description="whose training needs the memory, for those who ask the engine meanwhile")
    lease_seconds: Real = Field(gt=0, le=LONGEST_HOLD_SECONDS, description="by the engine's own clock")


class ResumeOrder(Contract):
    """What `POST /resume` is asked: this holder needs the memory no more."""

    holder: Label


class YieldState(Contract):
    """What both answer. `is_away`: nothing of any model is in memory, and nothing will be before the last hold ends."""

    is_away: bool
    held_for: list[str] = Field(description="the jobs, sorted")


def this_cpu() -> str:
    """The place of whoever computes on the CPU of this host; on a GPU it is the GPU's UUID, as nvidia-smi gives it."""
    return f"cpu@{socket.gethostname()}"
