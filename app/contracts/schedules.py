"""The schedules of the learning rate, and the arguments that each takes: transformers 5.17 `optimization`."""

from typing import Literal

from pydantic import Field

from app.contracts.base import Contract, Real, Whole

Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "cosine_with_min_lr", "constant", "constant_with_warmup", "polynomial",
    "inverse_sqrt", "warmup_stable_decay",
]  # fmt: skip
# The fields of `ScheduleArgs` that each schedule takes; the other schedules take none.
TAKEN_BY_SCHEDULE = {
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate"),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
    "warmup_stable_decay": ("num_decay_steps", "decay_type", "min_lr_ratio", "num_cycles"),
}


class ScheduleArgs(Contract):
    """Arguments of the functions in `transformers.optimization` that make the schedules."""

    num_cycles: Real | None = Field(
        None, gt=0, le=1000, description="waves of a cosine, 0.5 by default; of cosine_with_restarts whole cycles, 1"
    )
    min_lr: Real | None = Field(None, ge=0, le=1, description="the lowest learning rate of cosine_with_min_lr")
    min_lr_rate: Real | None = Field(None, ge=0, le=1, description="the same as a share of the learning rate")
    lr_end: Real | None = Field(None, ge=0, le=1, description="the last learning rate of polynomial, 1e-7 by default")
    power: Real | None = Field(None, gt=0, le=100, description="of polynomial, 1 by default, which is linear")
    timescale: Whole | None = Field(None, ge=1, le=10_000_000, description="of inverse_sqrt; steps")
    num_decay_steps: Whole | None = Field(
        None, ge=1, le=10_000_000, description="the last steps of warmup_stable_decay, in which the learning rate falls"
    )
    decay_type: Literal["linear", "cosine", "1-sqrt"] | None = None
    min_lr_ratio: Real | None = Field(None, ge=0, le=1, description="of warmup_stable_decay, 0 by default")
