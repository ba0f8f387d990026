"""What is read of the specs that stand in a job's row: as it was sent, and with what became of it."""

from typing import Any

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


def read_spec(job: Job, stored: dict[str, Any]) -> StoredSpec:
    """The job's `spec` or `resolved`. Raises Conflict where it cannot be read."""
    spec = read(StoredSpec, stored)
    if spec is None:
        message = f"the spec of {job.id} is stored in a form which this version cannot read"
        raise Conflict(message, param="job_id", code="job_unreadable")
    return spec
