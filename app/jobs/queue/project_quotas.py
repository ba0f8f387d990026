"""Which projects may not begin another training now, because of their limits."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.access import repository, usage
from app.access.limits import NO_LIMITS, Limits, read_limits
from app.access.quotas import month_start
from app.jobs.models import Job
from app.jobs.queue.order import jobs_at_work, waits_for
from app.jobs.states import Stage
from app.scope import EVERY_PROJECT


def reasons(session: Session, default: Limits = NO_LIMITS) -> dict[str, str]:
    """Return why each of these projects may begin no training, by name. `default`: of projects without limits."""
    limits = {row.name: read_limits(Limits, row.limits) for row in repository.projects(session, EVERY_PROJECT)}
    known = [default, *limits.values()]
    at_work: dict[str, int] = {}
    if any(one.running_jobs is not None for one in known):
        at_work = {row.project: row.jobs for row in session.execute(select(jobs_at_work(Stage.TRAIN)))}
    seconds: dict[str, float] = {}
    if any(one.gpu_minutes_per_month is not None for one in known):
        seconds = usage.gpu_seconds(session, EVERY_PROJECT, month_start())
    names = limits.keys() | at_work.keys() | seconds.keys()
    if _reason(default, 0, 0.0) is not None:  # projects without limits of their own may train nothing
        names |= set(session.scalars(select(Job.project).where(*waits_for(Stage.TRAIN)).distinct()))
    found: dict[str, str] = {}
    for name in names:
        reason = _reason(limits.get(name, default), at_work.get(name, 0), seconds.get(name, 0.0))
        found |= {} if reason is None else {name: reason}
    return found


def _reason(limits: Limits, at_work: int, seconds: float) -> str | None:
    if limits.running_jobs is not None and at_work >= limits.running_jobs:
        return f"its project has {at_work} trainings running, of at most {limits.running_jobs} (running_jobs)"
    minutes = limits.gpu_minutes_per_month
    if minutes is not None and seconds / 60 >= minutes:
        return f"its project has used its {minutes:,} minutes of this month (gpu_minutes_per_month)"
    return None
