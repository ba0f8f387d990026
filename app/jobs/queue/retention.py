"""Removes ended jobs, on request or at an age that the operator chose, and old temporary jobs, keys and workers.

It also adds rows that older workers leave out.

What a crash left on the disk without a row is removed by `app.jobs.queue.orphans`.
"""

import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy.orm import Session

from app.adapters import repository as adapters
from app.artifacts.names import job_id_of
from app.config import Settings
from app.database.connection import Database, utc_now
from app.jobs import idempotency, repository
from app.jobs.queue.termination import end
from app.scope import EVERY_PROJECT, Scope

# The request reads an ended temporary job at once; one that is still there after this time has lost its request.
RESULT_IS_READ_WITHIN = timedelta(minutes=1)
IS_ABANDONED_AFTER = timedelta(hours=1)
WORKER_IS_FORGOTTEN_AFTER = timedelta(days=1)
# An older worker adds an adapter without its row among the artifacts. Frequent sweeps look only at newer ones.
ARTIFACT_IS_MISSED_WITHIN = timedelta(days=1)
MISSED_AT_ONCE = 100
# The most jobs that one sweep removes, so that the first sweep of an old installation is short.
EXPIRED_AT_ONCE = 20


def remove(session: Session, scope: Scope, settings: Settings, job_id: str) -> bool:
    """Remove rows and folder of an ended job. Returns False, with nothing done, if it does not exist or has not ended.

    The rows go first. After a crash between the two a folder without a row is left, which `app.jobs.queue.orphans`
    removes.
    """
    if not repository.remove(session, scope, job_id):
        session.rollback()
        return False
    session.commit()
    _remove_path(settings.job_dir(job_id))
    settings.files.forget(settings.job_dir(job_id))
    return True


def end_temporary(session: Session, scope: Scope, settings: Settings, job_id: str) -> None:
    """Remove a temporary job whose request is over. One that a checker holds is only cancelled: a later sweep removes
    it.
    """
    job = end(session, scope, job_id)
    session.commit()
    if job is None or job.status.is_final:
        remove(session, scope, settings, job_id)


def sweep(database: Database, settings: Settings) -> None:
    """Remove expired jobs, abandoned temporary jobs, old keys and workers that are gone. Add missing rows of artifacts.

    Safe to repeat and to run twice at once.
    """
    with database.reader() as session:
        over = [run.id for run in repository.temporary_jobs(session, EVERY_PROJECT) if _is_over(run)]
        expired = _expired(session, settings.keep_jobs_days)
        has_old_keys = idempotency.has_old(session, EVERY_PROJECT)
        gone = repository.silent_workers(session, WORKER_IS_FORGOTTEN_AFTER)
    for job_id in over:
        with database.writer() as session:
            end_temporary(session, EVERY_PROJECT, settings, job_id)
    for job_id in expired:
        with database.writer() as session:
            _expire(session, settings, job_id)
    add_missing_artifacts(database, utc_now() - ARTIFACT_IS_MISSED_WITHIN)
    if has_old_keys or gone:
        with database.writer() as session:
            idempotency.sweep(session, EVERY_PROJECT)
            repository.forget_workers(session, gone, WORKER_IS_FORGOTTEN_AFTER)
            session.commit()


def add_missing_artifacts(database: Database, since: datetime | None) -> None:
    """Add the rows of adapters among the artifacts that are missing. `since`: look only at adapters after a moment."""
    with database.reader() as session:
        missing = adapters.without_artifact(session, EVERY_PROJECT, since, MISSED_AT_ONCE)
    for adapter_id in missing:
        with database.writer() as session:
            job = repository.get(session, EVERY_PROJECT, job_id_of(adapter_id))
            adapters.add_artifact(session, EVERY_PROJECT, adapter_id, job.project if job is not None else None)
            session.commit()


def _is_over(run: repository.TemporaryJob) -> bool:
    now = utc_now()
    is_read = run.finished_at is not None and run.finished_at < now - RESULT_IS_READ_WITHIN
    return is_read or run.created_at < now - IS_ABANDONED_AFTER


def _expired(session: Session, keep_days: int | None) -> Sequence[str]:
    if keep_days is None:
        return ()
    return repository.expired(session, EVERY_PROJECT, utc_now() - timedelta(days=keep_days), EXPIRED_AT_ONCE)


def _expire(session: Session, settings: Settings, job_id: str) -> None:
    """Remove an ended job, unless another job continues from it."""
    repository.lock(session, EVERY_PROJECT, job_id)
    if repository.continued_by(session, EVERY_PROJECT, job_id) is None:
        remove(session, EVERY_PROJECT, settings, job_id)


def _remove_path(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
