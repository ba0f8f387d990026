"""What a user may wish of a job that is there: its end, a pause, and to go on.

The wish is written first: its UPDATE locks the row, so that no worker takes the job, or gives it back, before it is
seen whether somebody holds the job. Each wish that changes something writes one event: the new status, or where a
worker has to bring that about, the request.
"""

from typing import Any

from sqlalchemy.orm import Session

from app.database.connection import utc_now
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.states import Desire, JobStatus


def end(session: Session, job_id: str) -> Job | None:
    """Cancel at once what no worker holds; leave the wish for the worker else. None when it has ended."""
    asked, is_new = _ask(session, job_id, Desire.CANCEL)
    if asked is None:
        return None
    moved = repository.move(session, job_id, JobStatus.CANCELLED, utc_now(), Job.worker.is_(None))
    return moved or _leave(session, asked, "cancel", is_new=is_new)


def pause(session: Session, job_id: str) -> Job | None:
    """Pause at once what waits for its training; leave the wish for the worker else. None when it cannot be paused."""
    asked, is_new = _ask(session, job_id, Desire.PAUSE, Job.desired != Desire.CANCEL)
    if asked is None:
        return None
    waits = (Job.worker.is_(None), Job.status == JobStatus.QUEUED)
    moved = repository.move(session, job_id, JobStatus.PAUSED, utc_now(), *waits)
    return moved or _leave(session, asked, "pause", is_new=is_new)


def resume(session: Session, job_id: str) -> Job | None:
    """Queue a paused job; take the wish back where it is not paused yet. None where it has ended, or is to end."""
    asked, is_new = _ask(session, job_id, Desire.RUN, Job.desired != Desire.CANCEL)
    if asked is None:
        return None
    is_paused = Job.status == JobStatus.PAUSED
    moved = repository.move(session, job_id, JobStatus.QUEUED, utc_now(), is_paused, run_after=None, error=None)
    return moved or _leave(session, asked, "resume", is_new=is_new)


def _ask(session: Session, job_id: str, desired: Desire, *guards: Any) -> tuple[Job | None, bool]:
    """The job with the wish in its row, which is locked; and whether the wish is another one than before."""
    changed = repository.request(session, job_id, desired, Job.desired != desired, *guards)
    return changed or repository.request(session, job_id, desired, *guards), changed is not None


def _leave(session: Session, job: Job, what: str, *, is_new: bool) -> Job:
    """The job as it is, for a worker to do what was asked."""
    if is_new:
        repository.append_request(session, job, what, utc_now())
    return job
