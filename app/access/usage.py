"""Counts what is used: by day (UTC), project, caller and adapter. It never commits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.access.models import UsageCount
from app.database.upsert import insert_into
from app.scope import Scope

UNKNOWN = ""
COUNTS = ("jobs", "gpu_seconds", "requests", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class UsageKey:
    """What a count belongs to. `adapter` is empty for a base model, and for what is not about an adapter."""

    day: date
    project: str
    caller: str | None
    adapter: str = UNKNOWN


def add(session: Session, scope: Scope, key: UsageKey, **counts: float) -> None:
    """Add to the counts of a key. Two processes may do so at once. Raises InvalidRequest for a foreign project."""
    scope.check(key.project)
    names = {"day": key.day, "project": key.project, "caller": key.caller or UNKNOWN, "adapter": key.adapter}
    statement = insert_into(session, UsageCount).values(**names, **counts)
    primary = [UsageCount.day, UsageCount.project, UsageCount.caller, UsageCount.adapter]
    added = {name: getattr(UsageCount, name) + statement.excluded[name] for name in counts}
    session.execute(statement.on_conflict_do_update(index_elements=primary, set_=added))


def totals(
    session: Session, scope: Scope, since: date, until: date, by: Sequence[str], project: str | None = None
) -> Sequence[Any]:
    """Return the sums of these days, one row for each value of the columns `by`, of which there is at least one."""
    columns = [getattr(UsageCount, name) for name in by]
    sums = [func.sum(getattr(UsageCount, name)).label(name) for name in COUNTS]
    query = select(*columns, *sums).where(UsageCount.day.between(since, until), scope.permits(UsageCount.project))
    if project is not None:
        query = query.where(UsageCount.project == project)
    return session.execute(query.group_by(*columns).order_by(*columns)).all()


def gpu_seconds(session: Session, scope: Scope, since: date) -> dict[str, float]:
    """Return the seconds of trainings since a day, by project."""
    seconds = func.sum(UsageCount.gpu_seconds)
    query = select(UsageCount.project, seconds).where(UsageCount.day >= since, scope.permits(UsageCount.project))
    return {project: total or 0.0 for project, total in session.execute(query.group_by(UsageCount.project))}


def tokens(session: Session, scope: Scope, day: date, *, project: str | None = None, caller: str | None = None) -> int:
    """Return the prompt and completion tokens of a day, of a project or of a caller."""
    both = func.sum(UsageCount.prompt_tokens + UsageCount.completion_tokens)
    query = select(both).where(UsageCount.day == day, scope.permits(UsageCount.project))
    if project is not None:
        query = query.where(UsageCount.project == project)
    if caller is not None:
        query = query.where(UsageCount.caller == caller)
    return int(session.scalar(query) or 0)
