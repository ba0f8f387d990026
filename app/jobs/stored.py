"""Reads the stored plans of jobs, also those of older versions.

| spec_version | columns of the row                                                                                |
|--------------|---------------------------------------------------------------------------------------------------|
| 1, 2         | `sent`; `plan` is the spec with its defaults, in which the check and the trainer replaced values    |
| 3            | `sent`, `plan` (`app.contracts.plan`), and `observed`                                              |
"""

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from app.contracts.plan import JobPlan, plan_of
from app.contracts.spec import JobSpec
from app.contracts.stored import Stored, read, with_values
from app.errors import Conflict
from app.jobs.models import Job

# What a check pinned in versions without a plan of its own. All else in that document is a default, or was observed.
PINNED_BY_CHECKS = ("model.revision", "model.max_seq_length", "model.rope_scaled_to")
PINNED_SOURCES = ("dataset.source", "dataset.eval_source")


class ModelGroup(Stored):
    model_name: str
    revision: str | None = None
    max_seq_length: int | None = None
    full_finetuning: bool = False
    rope_scaled_to: int | None = None


class LoraGroup(Stored):
    loftq_config: dict[str, Any] | None = None


class DatasetGroup(Stored):
    eval_source: dict[str, Any] | None = None


class StoredPlan(Stored):
    """The fields of a plan that are read outside of a training, whatever version stored it."""

    model: ModelGroup
    lora: LoraGroup = LoraGroup()
    dataset: DatasetGroup = DatasetGroup()


def read_plan(job: Job) -> JobPlan | None:
    """Return the plan of a job, or None if this version cannot do all that it says.

    An unknown field means that it cannot, because the field would silently be ignored.
    """
    upgrade = UPGRADES.get(job.spec_version)
    try:
        return JobPlan.model_validate(job.plan) if upgrade is None else upgrade(job.sent, job.plan)
    except ValidationError:
        return None


def _from_a_resolved_spec(sent: dict[str, Any], resolved: dict[str, Any]) -> JobPlan:
    """Upgrade versions 1 and 2: plan what was sent, as those versions did at each attempt, with what the check pinned.

    Raises ValidationError.
    """
    plan = plan_of(JobSpec.model_validate(sent)).model_dump()
    pinned = {path: value for path in PINNED_BY_CHECKS if (value := _at(resolved, path)) is not None}
    hubs = {path: value for path in PINNED_SOURCES if isinstance(value := _at(resolved, path), dict)}
    return JobPlan.model_validate(with_values(plan, pinned | hubs))


def _at(document: dict[str, Any], path: str) -> Any:
    group, _, name = path.partition(".")
    fields = document.get(group)
    return fields.get(name) if isinstance(fields, dict) else None


UPGRADES: dict[int, Callable[[dict[str, Any], dict[str, Any]], JobPlan]] = {
    1: _from_a_resolved_spec,
    2: _from_a_resolved_spec,
}


def look_at_plan(job: Job) -> StoredPlan:
    """Return the fields of the plan that are read outside of a training. Raises Conflict if they cannot be read."""
    plan = read(StoredPlan, job.plan)
    if plan is None:
        message = f"the spec of {job.id} is stored in a form that this version cannot read"
        raise Conflict(message, param="job_id", code="job_unreadable")
    return plan


def observed_values(job: Job) -> dict[str, Any]:
    """Return what the libraries really used, by dotted field. Versions 1 and 2 wrote it over the document of `plan`."""
    if job.spec_version not in UPGRADES:
        return job.observed or {}
    groups = {group: fields for group, fields in job.plan.items() if isinstance(fields, dict)}
    before = {f"{group}.{name}": value for group, fields in groups.items() for name, value in fields.items()}
    return before | (job.observed or {})
