"""What a user may wish of a job that is there: its end, a pause, and to go on.

The wish is written first: its UPDATE locks the row, so that no worker takes the job, or gives it back, before it is
seen whether somebody holds the job.
"""

from sqlalchemy.orm import Session

from app.db import utc_now
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.states import Desire, JobStatus


def end(session: Session, job_id: str) -> Job | None:
    """Cancel at once what no worker holds; leave the wish for the worker else. None when it has ended."""
    asked = repository.request(session, job_id, Desire.CANCEL)
    if asked is None:
        return None
    return repository.move(session, job_id, JobStatus.CANCELLED, utc_now(), Job.worker.is_(None)) or asked


def pause(session: Session, job_id: str) -> Job | None:
    """Pause at once what waits for its training; leave the wish for the worker else. None when it cannot be paused."""
    asked = repository.request(session, job_id, Desire.PAUSE, Job.desired != Desire.CANCEL)
    if asked is None:
        return None
    waits = (Job.worker.is_(None), Job.status == JobStatus.QUEUED)
    return repository.move(session, job_id, JobStatus.PAUSED, utc_now(), *waits) or asked


def resume(session: Session, job_id: str) -> Job | None:
    """Queue a paused job; take the wish back where it is not paused yet. None where it has ended, or is to end."""
    asked = repository.request(session, job_id, Desire.RUN, Job.desired != Desire.CANCEL)
    if asked is None:
        return None
    is_paused = Job.status == JobStatus.PAUSED
    return repository.move(session, job_id, JobStatus.QUEUED, utc_now(), is_paused, run_after=None, error=None) or asked
