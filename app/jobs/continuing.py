"""Check whether a job can continue from what it names: an adapter, or a checkpoint of a job that has ended."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.adapters.models import Adapter
from app.config import Settings
from app.contracts import lora
from app.contracts.model_card import ADAPTER_CONFIG
from app.contracts.plan import JobPlan
from app.contracts.spec import JobSpec
from app.errors import Conflict, InvalidRequest, NotFound
from app.jobs import lineage as adapters
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.states import ENDED
from app.jobs.stored import observed_values, read_plan
from app.scope import Scope
from app.sources import invalid

# The fields on which the base weights and the optimizer's state of a checkpoint depend.
BASE = ("model.model_name", "model.full_finetuning", "model.load_in_4bit", "model.load_in_8bit", "training.optim")


def check(session: Session, scope: Scope, settings: Settings, spec: JobSpec) -> str | None:
    """Return the id of the adapter or job that the spec continues from, or None if it names none.

    It cannot be deleted until the session ends. Raises InvalidRequest if it does not exist or does not fit this spec.
    """
    if spec.continue_from is None:
        return None
    if spec.continue_from.adapter is not None:
        return _check_adapter(session, scope, settings, spec, spec.continue_from.adapter)
    assert spec.continue_from.job is not None, "the spec names an adapter or a job"
    return _check_checkpoint(session, scope, spec, spec.continue_from.job, spec.continue_from.step)


def _check_adapter(session: Session, scope: Scope, settings: Settings, spec: JobSpec, name: str) -> str:
    field = "continue_from.adapter"
    try:
        adapter = adapters.find_and_keep(session, scope, name, field)
    except (NotFound, Conflict) as error:
        raise InvalidRequest(f"{field}: {error.message}", param=field, code=error.code) from error
    if adapter.kind != "lora":
        raise invalid(field, "not_a_lora", f"{name}, which is a whole model", "a LoRA adapter")
    if adapter.base_model != spec.model.model_name:
        raise invalid("model.model_name", "another_base", spec.model.model_name, f"{adapter.base_model}, as {name} has")
    if spec.model.full_finetuning:
        raise invalid("model.full_finetuning", "not_a_lora", "true", f"false: {name} is a LoRA adapter")
    _check_lora(spec, _config_of(adapter, settings), f"as {name} has")
    return adapter.id


def _config_of(adapter: Adapter, settings: Settings) -> dict[str, Any]:
    """Return peft's config of the adapter, or only its rank if the file cannot be read; the trainer compares again."""
    try:
        config = json.loads(settings.files.text(settings.locate(adapter.path), ADAPTER_CONFIG))
    except (OSError, ValueError):
        config = {}
    return {"r": adapter.rank, **config}


def _check_checkpoint(session: Session, scope: Scope, spec: JobSpec, job_id: str, step: int | None) -> str:
    job = repository.lock_against_removal(session, scope, job_id)
    if job is None or job.is_temporary:
        raise invalid("continue_from.job", "unknown_job", job_id, "the id of a job that has ended")
    if job.status not in ENDED:
        found, expected = f"{job_id}, which is {job.status.value}", "a job that has ended"
        raise invalid("continue_from.job", "job_is_alive", found, expected)
    begins = _step_of(job_id, [one.step for one in repository.checkpoints(session, scope, job_id)], step)
    before = read_plan(job)
    if before is None:
        raise invalid("continue_from.job", "job_unreadable", job_id, "a job whose spec this version can read")
    _check_base(job, before, spec)
    if not spec.model.full_finetuning:
        _check_lora(spec, before.lora.model_dump(), f"as {job_id} had")
    ends = spec.training.max_steps
    if ends is not None and ends <= begins:
        found = f"{ends}, and a checkpoint of step {begins}"
        raise invalid("training.max_steps", "nothing_left", found, "more steps than the checkpoint has done")
    return job.id


def _step_of(job_id: str, kept: Sequence[int], step: int | None) -> int:
    """Return the step to continue after. `kept` are the steps of the stored checkpoints, the newest first."""
    if not kept:
        raise invalid("continue_from.job", "unknown_checkpoint", job_id, "a job that has kept a checkpoint")
    if step is not None and step not in kept:
        expected = f"one of its checkpoints: {', '.join(map(str, dict.fromkeys(kept)))}"
        raise invalid("continue_from.step", "unknown_checkpoint", str(step), expected)
    return step or kept[0]


def _check_base(job: Job, plan: JobPlan, spec: JobSpec) -> None:
    """A value fits if it equals the planned or the observed one: the trainer may have replaced the optimizer."""
    before, now, observed = plan.model_dump(), spec.model_dump(), observed_values(job)
    for name in BASE:
        group, _, field = name.partition(".")
        was, is_now = before[group][field], now[group][field]
        if is_now not in (was, observed.get(name, was)):
            raise invalid(name, "another_base", str(is_now), f"{was}, as {job.id} had: a checkpoint fits no other")
    was, is_now = (spec["training"]["embedding_learning_rate"] for spec in (before, now))
    if (was is None) != (is_now is None):  # the optimizer's state has a group of its own for embeddings
        expected = f"{'null' if was is None else 'a rate'}, as {job.id} had: the checkpoint's optimizer fits no other"
        raise invalid("training.embedding_learning_rate", "another_base", str(is_now), expected)


def _check_lora(spec: JobSpec, there: dict[str, Any], whose: str) -> None:
    for field, expected, found in lora.differences(there, spec.lora.model_dump()):
        raise invalid(f"lora.{field}", "another_lora", found, f"{expected}, {whose}")
