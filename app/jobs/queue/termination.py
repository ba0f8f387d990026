"""Cancels, pauses and resumes a job for its user.

The requested state is written first. That UPDATE locks the row, so no worker can claim or release the job before the
second UPDATE tests whether a worker holds it. Each request that changes something writes one event: the new status, or
the request if a worker has to carry it out, and an audit entry. A request that changes nothing writes neither.
"""

from typing import Any

from sqlalchemy.orm import Session

from app.access import audit
from app.database.connection import utc_now
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.states import JobStatus, RequestedAction
from app.scope import Scope


def end(session: Session, scope: Scope, job_id: str) -> Job | None:
    """Cancel a job at once if no worker holds it, else request it of the worker. Returns None if the job has ended."""
    job, is_new = _request(session, scope, job_id, RequestedAction.CANCEL)
    if job is None:
        return None
    moved = repository.move(session, scope, job_id, JobStatus.CANCELLED, utc_now(), Job.worker.is_(None))
    return _record(session, "cancel", moved, job, is_new=is_new)


def pause(session: Session, scope: Scope, job_id: str) -> Job | None:
    """Pause a queued job at once, else request it of the worker.

    Returns None if the job has ended or is being cancelled.
    """
    job, is_new = _request(
        session, scope, job_id, RequestedAction.PAUSE, Job.requested_action != RequestedAction.CANCEL
    )
    if job is None:
        return None
    waits = (Job.worker.is_(None), Job.status == JobStatus.QUEUED)
    moved = repository.move(session, scope, job_id, JobStatus.PAUSED, utc_now(), *waits)
    return _record(session, "pause", moved, job, is_new=is_new)


def resume(session: Session, scope: Scope, job_id: str) -> Job | None:
    """Queue a paused job, or withdraw the request to pause it. Returns None if it has ended or is being cancelled."""
    job, is_new = _request(session, scope, job_id, RequestedAction.RUN, Job.requested_action != RequestedAction.CANCEL)
    if job is None:
        return None
    is_paused = Job.status == JobStatus.PAUSED
    moved = repository.move(session, scope, job_id, JobStatus.QUEUED, utc_now(), is_paused, run_after=None, error=None)
    return _record(session, "resume", moved, job, is_new=is_new)


def _request(
    session: Session, scope: Scope, job_id: str, requested_action: RequestedAction, *guards: Any
) -> tuple[Job | None, bool]:
    """Store the requested state, which locks the row. Returns the job, and whether the request differs from before."""
    changed = repository.request(
        session, scope, job_id, requested_action, Job.requested_action != requested_action, *guards
    )
    return changed or repository.request(session, scope, job_id, requested_action, *guards), changed is not None


def _record(session: Session, what: str, moved: Job | None, job: Job, *, is_new: bool) -> Job:
    """Store the event of a request that a worker has to carry out, and the audit entry of what changed anything."""
    if moved is None and is_new:
        repository.append_request(session, job, what, utc_now())
    if moved is not None or is_new:
        audit.record(session, f"job.{what}", job.id, job.project)
    return moved or job
