"""What is read of the specs that stand in a job's row: as it was sent, and with what became of it."""

from typing import Any

from pydantic import ValidationError

from app.contracts.spec import JobSpec
from app.contracts.stored import Stored, read
from app.errors import Conflict
from app.jobs.models import Job


class ModelGroup(Stored):
    """`rope_scaled_to`: of a resolved spec, where the check has scaled the model's context."""

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
    """The fields that are asked for beside a training; of a training the whole `JobSpec` is asked for."""

    model: ModelGroup
    lora: LoraGroup = LoraGroup()
    dataset: DatasetGroup = DatasetGroup()


def is_understood(job: Job) -> bool:
    """Whether a worker of this version can do what the job says. A field that is not known is one too many here: what
    it asks for would be left out in silence."""
    try:
        JobSpec.model_validate(job.spec)
    except ValidationError:
        return False
    return read(StoredSpec, job.resolved) is not None


def read_spec(job: Job, stored: dict[str, Any]) -> StoredSpec:
    """The job's `spec` or `resolved`. Raises Conflict where it cannot be read."""
    spec = read(StoredSpec, stored)
    if spec is None:
        message = f"the spec of {job.id} is stored in a form which this version cannot read"
        raise Conflict(message, param="job_id", code="job_unreadable")
    return spec
