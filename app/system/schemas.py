"""The lists of workers and of base models, as `GET /workers` and `GET /models` show them."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.contracts.gpu_readings import GpuReading
from app.contracts.stored import read


class WorkerView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str
    stage: str
    host: str
    device: str
    gpus: int = Field(description="that it can give to one training, if all are free; 1 also without any")
    version: str | None = Field(description="the worker's version of Tunesmith; versions differ during an upgrade")
    problem: str | None
    gpu_readings: list[GpuReading] = Field(description="what its GPUs measured when it was last seen")
    job_id: str | None
    started_at: datetime
    last_seen: datetime

    @field_validator("gpu_readings", mode="before")
    @classmethod
    def _as_stored(cls, stored: list[object] | None) -> list[GpuReading]:
        """Leave out what only another version can read."""
        return [found for found in (read(GpuReading, one) for one in stored or ()) if found is not None]


class WorkerList(BaseModel):
    object: Literal["list"] = "list"
    data: list[WorkerView]


class ModelView(BaseModel):
    id: str
    object: Literal["model"] = "model"
    source: Literal["local"] = "local"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelView]
