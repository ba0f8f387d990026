"""Which changes of a job are told to webhooks, and what is told: ids and states, never a text of its user."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.jobs.kinds import TRAIN
from app.jobs.models import Job
from app.jobs.states import JobStatus
from app.scope import Scope
from app.webhooks import outbox
from app.webhooks.event_types import EventType

# For each status the events of a training, and of a job of another kind.
TOLD = {
    JobStatus.RUNNING: (EventType.TRAINING_STARTED, EventType.JOB_STARTED),
    JobStatus.PAUSED: (EventType.TRAINING_PAUSED, EventType.JOB_PAUSED),
    JobStatus.SUCCEEDED: (EventType.TRAINING_SUCCEEDED, EventType.JOB_SUCCEEDED),
    JobStatus.FAILED: (EventType.TRAINING_FAILED, EventType.JOB_FAILED),
    JobStatus.CANCELLED: (EventType.TRAINING_CANCELLED, EventType.JOB_CANCELLED),
}


def tell_of(session: Session, scope: Scope, job: Job, now: datetime) -> None:
    """Add the event of the job's present status to the outbox, if there is one and somebody may see the job."""
    if job.status in TOLD and not job.is_temporary:
        of_training, of_other = TOLD[job.status]
        event_type = of_training if job.kind == TRAIN else of_other
        outbox.tell(session, scope, job.project, event_type, _told(job), now)


def _told(job: Job) -> dict[str, Any]:
    error = job.error or {}
    return {
        "id": job.id,
        "kind": job.kind,
        "project": job.project,
        "status": job.status.value,
        "adapter_id": job.adapter_id,
        "error": {"category": error.get("category"), "code": error.get("code")} if job.error is not None else None,
    }
