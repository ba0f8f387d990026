"""What a caller and its project may use: refuses what is beyond their limits, and names the limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy.orm import Session

from app.access import repository, usage
from app.access.caller import Caller
from app.access.limits import KeyLimits, Limits, parse_limits, read_limits
from app.access.models import Project
from app.config import Settings
from app.database.connection import utc_now
from app.errors import DiskFull, TooMany
from app.scope import Scope

BUSY_SECONDS = 60


@dataclass(frozen=True)
class Quota:
    """One limit of a project, or of a caller if `caller` is not None. `name` is that of a field of `Limits`."""

    name: str
    most: int
    project: str | None = None
    caller: str | None = None

    @property
    def of(self) -> str:
        """Whose it is, in words."""
        return f"of {self.caller}" if self.caller is not None else f"of the project {self.project}"

    def refusal(self, found: str, retry_after_seconds: int) -> TooMany:
        error = TooMany(f"{self.name}: found {found}, expected at most {self.most:,} {self.of}", code="limit_reached")
        error.param, error.retry_after_seconds = self.name, retry_after_seconds
        return error


def limits_of(session: Session, scope: Scope, settings: Settings, project: str) -> Limits:
    """Return the limits of a project: its own, or else those of the settings."""
    return stored_limits(repository.project(session, scope, project), settings)


def stored_limits(project: Project | None, settings: Settings) -> Limits:
    """Return the limits of a project. `project`: its row, None if no limits of its own were set."""
    return parse_limits(settings.project_limits) if project is None else read_limits(Limits, project.limits)


def quotas(session: Session, caller: Caller, settings: Settings, project: str, name: str) -> Sequence[Quota]:
    """Return the limits of this name that the caller has in a project: its own, and that of the project."""
    return both_quotas(name, caller.name, caller.limits, project, limits_of(session, caller.scope, settings, project))


def both_quotas(name: str, caller: str, own: KeyLimits, project: str | None, limits: Limits) -> Sequence[Quota]:
    """Return those of the two limits of this name that are set."""
    of_caller, of_project = getattr(own, name), getattr(limits, name)
    found = [] if of_caller is None else [Quota(name, of_caller, caller=caller)]
    return found if of_project is None else [*found, Quota(name, of_project, project=project)]


def check_tokens(session: Session, caller: Caller, settings: Settings, project: str) -> None:
    """Raise TooMany if the caller, or the project, has used its tokens of today."""
    today = utc_now().date()
    for quota in quotas(session, caller, settings, project, "tokens_per_day"):
        used = usage.tokens(session, caller.scope, today, project=quota.project, caller=quota.caller)
        if used >= quota.most:
            raise quota.refusal(f"{used:,} tokens today", seconds_until_tomorrow())


def check_gpu_minutes(session: Session, scope: Scope, limits: Limits, project: str) -> None:
    """Raise TooMany if the trainings of a project have used its minutes of this month."""
    if limits.gpu_minutes_per_month is None:
        return
    minutes = usage.gpu_seconds(session, scope, month_start()).get(project, 0.0) / 60
    if minutes >= limits.gpu_minutes_per_month:
        quota = Quota("gpu_minutes_per_month", limits.gpu_minutes_per_month, project=project)
        raise quota.refusal(f"{minutes:,.0f} minutes of this month", seconds_until_next_month())


def check_bytes(name: str, project: str, most: int | None, stored: int, more: int) -> None:
    """Raise DiskFull if a project would store more bytes than it may."""
    if most is not None and stored + more > most:
        message = f"{name}: found {stored + more:,} bytes, expected at most {most:,} of the project {project}"
        raise DiskFull(message, param=name, code="limit_reached")


def month_start() -> date:
    return utc_now().date().replace(day=1)


def seconds_until_tomorrow() -> int:
    now = utc_now()
    return _seconds_until(now, now.date() + timedelta(days=1))


def seconds_until_next_month() -> int:
    now = utc_now()
    return _seconds_until(now, (now.date().replace(day=28) + timedelta(days=4)).replace(day=1))


def _seconds_until(now: datetime, day: date) -> int:
    return int((datetime(day.year, day.month, day.day, tzinfo=UTC) - now).total_seconds()) + 1
