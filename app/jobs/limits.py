"""Limits on waiting jobs and running validations. A refusal names the limit, and the seconds after which to try again.

The count and the new row are one transaction. On PostgreSQL concurrent requests do not see each other's new rows, so
they can exceed a limit together. Limits of the settings are those of the whole service: the jobs of every project
count. Those of projects and keys come from `app.access.quotas`.
"""

from sqlalchemy.orm import Session

from app.access import quotas
from app.access.caller import Caller
from app.artifacts import repository as artifacts
from app.config import PREFIX, Settings
from app.database.connection import utc_now
from app.errors import TooMany
from app.jobs import repository
from app.jobs.kinds import JobKind
from app.scope import EVERY_PROJECT, Scope

JOBS_RETRY_SECONDS, VALIDATIONS_RETRY_SECONDS = 60, 10


def check(session: Session, settings: Settings, kind: JobKind, caller: Caller, project: str) -> None:
    """Raise TooMany if no further job of this kind is allowed now, and DiskFull if the project stores too much."""
    if kind.is_temporary:
        _check_validations(session, settings.max_validations)
        return
    _check_waiting(session, settings.max_waiting_jobs)
    of_project, limits = Scope(frozenset({project})), quotas.limits_of(session, caller.scope, settings, project)
    for quota in quotas.quotas(session, caller, settings, project, "waiting_jobs"):
        counted = of_project if quota.caller is None else caller.scope
        waiting = repository.count_waiting(session, counted, quota.most, created_by=quota.caller)
        if waiting >= quota.most:
            raise quota.refusal(f"{waiting} waiting jobs", JOBS_RETRY_SECONDS)
    quotas.check_gpu_minutes(session, of_project, limits, project)
    if limits.artifact_bytes is not None:
        stored = artifacts.stored_bytes(session, of_project).get(project, 0)
        quotas.check_bytes("artifact_bytes", project, limits.artifact_bytes, stored, 1)


def _check_waiting(session: Session, most: int) -> None:
    waiting = repository.count_waiting(session, EVERY_PROJECT, most)
    if waiting >= most:
        what = f"{waiting} jobs are waiting already: try again once some of them have begun"
        raise _too_many(what, "too_many_waiting_jobs", "MAX_WAITING_JOBS", most, JOBS_RETRY_SECONDS)


def _check_validations(session: Session, most: int) -> None:
    """Runs older than the longest wait do not count: their clients are gone."""
    since = utc_now() - repository.LONGEST_VALIDATION
    running = sum(
        run.finished_at is None and run.created_at > since for run in repository.temporary_jobs(session, EVERY_PROJECT)
    )
    if running >= most:
        what = f"{running} validations are running already: try again once some of them have ended"
        raise _too_many(what, "too_many_validations", "MAX_VALIDATIONS", most, VALIDATIONS_RETRY_SECONDS)


def _too_many(what: str, code: str, name: str, most: int, seconds: int) -> TooMany:
    error = TooMany(f"{what} ({PREFIX}{name} is {most})", code=code)
    error.retry_after_seconds = seconds
    return error
