"""The parts of a job's stored specs (`spec` as it was sent, `resolved` with defaults) that the service reads again."""

from typing import Any

from pydantic import ValidationError

from app.contracts.spec import JobSpec
from app.contracts.stored import Stored, read
from app.errors import Conflict
from app.jobs.models import Job


class ModelGroup(Stored):
    """`rope_scaled_to`: only in a resolved spec, if the check has scaled the model's context."""

    model_name: str
    revision: str | None = None
    max_seq_length: int | None = None
    full_finetuning: bool = False
    rope_scaled_to: int | None = None


class LoraGroup(Stored):
    loftq_config: dict[str, Any] | None = None


class DatasetGroup(Stored):
    eval_source: dict[str, Any] | None = None


class StoredSpec(Stored):
    """The fields that are read outside of a training. A training reads the whole `JobSpec`."""

    model: ModelGroup
    lora: LoraGroup = LoraGroup()
    dataset: DatasetGroup = DatasetGroup()


def is_understood(job: Job) -> bool:
    """Return whether a worker of this version can do all that the job requests. An unknown field means that it cannot,
    because the field would silently be ignored."""
    try:
        JobSpec.model_validate(job.spec)
    except ValidationError:
        return False
    return read(StoredSpec, job.resolved) is not None


def read_spec(job: Job, stored: dict[str, Any]) -> StoredSpec:
    """Read the job's `spec` or `resolved`. Raises Conflict if this version cannot read it."""
    spec = read(StoredSpec, stored)
    if spec is None:
        message = f"the spec of {job.id} is stored in a form that this version cannot read"
        raise Conflict(message, param="job_id", code="job_unreadable")
    return spec
