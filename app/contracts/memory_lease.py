"""How a worker requests the engine's memory for a training: with a hold that expires unless it is renewed."""

import socket
from typing import Annotated

from pydantic import Field, StringConstraints

from app.contracts.base import Contract, Real

# A worker renews its hold every few seconds. The hold of a dead worker expires.
LONGEST_HOLD_SECONDS = 600
# The largest share of the memory that is free after loading a model which the engine uses for keys and values. The rest
# is for adapters, scores, recorded graphs and a training on the same device.
ENGINE_SHARE = 0.25
Label = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class YieldOrder(Contract):
    """The body of `POST /yield`: unload all models until this holder ends its hold or does not renew it in time."""

    holder: Label = Field(description="a name that only this slot knows; a request with the same name renews the hold")
    job_id: Label = Field(description="the job whose training needs the memory, for error messages")
    lease_seconds: Real = Field(gt=0, le=LONGEST_HOLD_SECONDS, description="by the engine's own clock")


class ResumeOrder(Contract):
    """The body of `POST /resume`: this holder does not need the memory any more."""

    holder: Label


class YieldState(Contract):
    """The response of both. `is_away`: no model is in memory, and none will be before the last hold ends."""

    is_away: bool
    held_for: list[str] = Field(description="the jobs, sorted")


def this_cpu() -> str:
    """Return the name of this host's CPU as a device. The name of a GPU is its UUID, as nvidia-smi shows it."""
    return f"cpu@{socket.gethostname()}"
