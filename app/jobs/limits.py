"""How much may wait at once. What is over a limit is refused with the name of the limit, and a time to come back.

The count and the new row are one transaction. On PostgreSQL requests of the same moment do not see each other's rows,
so a limit may be passed by as many as arrive together.
"""

from sqlalchemy.orm import Session

from app.config import PREFIX, Settings
from app.database.connection import utc_now
from app.errors import TooMany
from app.jobs import repository

JOBS_COME_BACK_SECONDS, VALIDATIONS_COME_BACK_SECONDS = 60, 10


def check(session: Session, settings: Settings, *, is_dry_run: bool) -> None:
    """Whether one more may be made. Raises TooMany."""
    if is_dry_run:
        _check_validations(session, settings.max_validations)
    else:
        _check_waiting(session, settings.max_waiting_jobs)


def _check_waiting(session: Session, most: int) -> None:
    waiting = repository.count_waiting(session, most)
    if waiting >= most:
        what = f"{waiting} jobs wait already: try again once some of them have begun"
        raise _too_many(what, "too_many_waiting_jobs", "MAX_WAITING_JOBS", most, JOBS_COME_BACK_SECONDS)


def _check_validations(session: Session, most: int) -> None:
    """Nobody waits any more for one that is older than the longest wait."""
    since = utc_now() - repository.LONGEST_DRY_RUN
    running = sum(run.finished_at is None and run.created_at > since for run in repository.dry_runs(session))
    if running >= most:
        what = f"{running} validations run already: try again once some of them are answered"
        raise _too_many(what, "too_many_validations", "MAX_VALIDATIONS", most, VALIDATIONS_COME_BACK_SECONDS)


def _too_many(what: str, code: str, name: str, most: int, seconds: int) -> TooMany:
    error = TooMany(f"{what} ({PREFIX}{name} is {most})", code=code)
    error.retry_after_seconds = seconds
    return error
