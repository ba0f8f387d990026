"""What is removed, and when: jobs on request, and at their age where the operator says so, with all that is theirs; dry
runs, old keys and workers that are gone in passing. What a crash left on the disk without a row is for
`app.jobs.queue.orphans`."""

import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from sqlalchemy.orm import Session

from app.config import Settings
from app.database.connection import Database, utc_now
from app.jobs import idempotency, repository
from app.jobs.queue.termination import end

# An answer is read from an ended dry run within moments; whose request is gone is swept after so long.
DRY_RUN_IS_READ_WITHIN = timedelta(minutes=1)
DRY_RUN_IS_ABANDONED_AFTER = timedelta(hours=1)
WORKER_IS_FORGOTTEN_AFTER = timedelta(days=1)
# In one round, so that a first sweep of years of jobs holds nobody up.
EXPIRED_AT_ONCE = 20


def remove(session: Session, settings: Settings, job_id: str) -> bool:
    """Rows and folder of an ended job. False, and nothing was done, when it is not there or has not ended.

    The rows go first: cut off between the two, a folder is left that nobody can name, which `app.jobs.queue.orphans`
    sweeps.
    """
    if not repository.remove(session, job_id):
        session.rollback()
        return False
    session.commit()
    _remove_path(settings.job_dir(job_id))
    return True


def end_dry_run(session: Session, settings: Settings, job_id: str) -> None:
    """Nobody waits for its answer: it is removed, or ended by the checker that holds it and swept afterwards."""
    job = end(session, job_id)
    session.commit()
    if job is None or job.status.is_final:
        remove(session, settings, job_id)


def sweep(database: Database, settings: Settings) -> None:
    """Remove what has had its time: dry runs whose requests are gone, jobs, keys, workers. Safe to run anywhere, any
    number of times."""
    with database.reader() as session:
        over = [run.id for run in repository.dry_runs(session) if _is_over(run)]
        expired = _expired(session, settings.keep_jobs_days)
        has_old_keys = idempotency.has_old(session)
        gone = repository.silent_workers(session, WORKER_IS_FORGOTTEN_AFTER)
    for job_id in over:
        with database.writer() as session:
            end_dry_run(session, settings, job_id)
    for job_id in expired:
        with database.writer() as session:
            _expire(session, settings, job_id)
    if has_old_keys or gone:
        with database.writer() as session:
            idempotency.sweep(session)
            repository.forget_workers(session, gone, WORKER_IS_FORGOTTEN_AFTER)
            session.commit()


def _is_over(run: repository.DryRun) -> bool:
    now = utc_now()
    is_read = run.finished_at is not None and run.finished_at < now - DRY_RUN_IS_READ_WITHIN
    return is_read or run.created_at < now - DRY_RUN_IS_ABANDONED_AFTER


def _expired(session: Session, keep_days: int | None) -> Sequence[str]:
    if keep_days is None:
        return ()
    return repository.expired(session, utc_now() - timedelta(days=keep_days), EXPIRED_AT_ONCE)


def _expire(session: Session, settings: Settings, job_id: str) -> None:
    """Remove an ended job, unless somebody began to go on from it meanwhile."""
    repository.lock(session, job_id)
    if repository.continued_by(session, job_id) is None:
        remove(session, settings, job_id)


def _remove_path(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
