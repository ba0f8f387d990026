"""What lists of jobs read: pages with filters, and the numbers of jobs by status. Each reads few of many jobs.

Status and project have indexes. A label has one too, but not together with a status or with a second label, and a text
has none. A page with such a filter therefore looks at a limited number of jobs, and says where the next one goes on.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, literal, select, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session, defer

from app.database.newest_first import is_behind
from app.jobs.models import Job, JobLabel
from app.jobs.repository import DETAILS
from app.jobs.states import ALIVE, ENDED, JobStatus
from app.scope import EVERY_PROJECT, Scope

# The most jobs that one page with a label or a text looks at, in queries of so many.
MOST_SEARCHED = 2000
SEARCHED_AT_ONCE = 250
# A list does not load what it does not show. Of the spec, which is small, it shows the model.
SHOWN = tuple(defer(document, raiseload=True) for document in DETAILS if document is not Job.sent)
# The jobs of a status are counted up to this number.
MOST_COUNTED = 10_000


@dataclass(frozen=True)
class JobFilter:
    """What a list is limited to. All of it has to hold, each of the labels too."""

    status: JobStatus | None = None
    project: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    text: str | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield what an index of the jobs holds. With `status` UNKNOWN: a status that only another version knows."""
        if self.status is not None:
            is_meant = Job.status == self.status
            yield is_meant if self.status is not JobStatus.UNKNOWN else Job.status.not_in((*ALIVE, *ENDED))
        if self.project is not None:
            yield Job.project == self.project

    def fits(self, job: Row[*tuple[Any, ...]]) -> bool:
        """Return whether all of it holds. Case does not matter to the text."""
        is_meant = self.status in (None, job.status) and self.project in (None, job.project)
        if not is_meant or any(job.labels.get(label) != value for label, value in self.labels):
            return False
        sought = (self.text or "").casefold()
        return any(sought in str(each).casefold() for each in (job.id, job.name, *job.labels.values()))


@dataclass(frozen=True)
class FoundJobs:
    """A page, newest first. `last_id` is where the next one begins: the last job that was looked at."""

    jobs: Sequence[Job]
    last_id: str | None
    has_more: bool


def page(session: Session, scope: Scope, chosen: JobFilter, *, after: str | None, limit: int) -> FoundJobs:
    """Return jobs without temporary jobs. `after` is the `last_id` of the previous page."""
    if chosen.labels or chosen.text:
        return _search(session, scope, chosen, after, limit)
    query = select(Job).options(*SHOWN).where(~Job.is_temporary, *chosen.conditions(), scope.permits(Job.project))
    query = _newest_first(session, scope, query, (Job.created_at, Job.id), after)
    jobs = session.scalars(query.limit(limit + 1)).all()
    shown = jobs[:limit]
    return FoundJobs(shown, shown[-1].id if shown else None, has_more=len(jobs) > limit)


Place = tuple[InstrumentedAttribute[datetime], InstrumentedAttribute[str]]


def _newest_first(session: Session, scope: Scope, query: Select[Any], place: Place, after: str | None) -> Select[Any]:
    """Order a query by the time and the id of jobs, and let it begin behind a job."""
    created_at, job_id = place
    query = query.order_by(created_at.desc(), job_id.desc())
    place_of = select(Job.created_at).where(Job.id == after, scope.permits(Job.project))
    last = session.scalar(place_of) if after else None
    if last is None:
        return query
    return query.where(is_behind(created_at, job_id, last, after))


def _search(session: Session, scope: Scope, chosen: JobFilter, after: str | None, limit: int) -> FoundJobs:
    """Look at the jobs of an index, part by part, until the page is full or MOST_SEARCHED of them were looked at."""
    found: list[str] = []
    at_once, searched, has_more = min(limit + 1, SEARCHED_AT_ONCE), 0, True
    while has_more and len(found) <= limit and searched < MOST_SEARCHED:
        looked_at = session.scalars(_candidates(session, scope, chosen, after).limit(at_once)).all()
        found += _fitting(session, scope, chosen, looked_at)
        has_more = len(looked_at) == at_once
        after = looked_at[-1] if looked_at else after
        searched, at_once = searched + at_once, SEARCHED_AT_ONCE
    if len(found) > limit:
        after, has_more = found[limit - 1], True
    query = select(Job).options(*SHOWN).where(Job.id.in_(found[:limit]))
    jobs = session.scalars(_newest_first(session, scope, query, (Job.created_at, Job.id), None)).all()
    return FoundJobs(jobs, after, has_more)


def _candidates(session: Session, scope: Scope, chosen: JobFilter, after: str | None) -> Select[Any]:
    """Select ids from the index that leaves the fewest jobs: few jobs have not ended, and a label is rarer than a
    status or a project. The index of labels knows no projects, so in a scope the jobs of its projects are looked at."""
    if chosen.labels and chosen.status not in ALIVE and scope == EVERY_PROJECT:
        name, value = chosen.labels[0]
        labelled = select(JobLabel.job_id).where(JobLabel.name == name, JobLabel.value == value)
        return _newest_first(session, scope, labelled, (JobLabel.created_at, JobLabel.job_id), after)
    indexed = select(Job.id).where(~Job.is_temporary, *chosen.conditions(), scope.permits(Job.project))
    return _newest_first(session, scope, indexed, (Job.created_at, Job.id), after)


def _fitting(session: Session, scope: Scope, chosen: JobFilter, job_ids: Sequence[str]) -> list[str]:
    """Return those of the jobs that the whole filter fits, in their order.

    The query names only ids. SQLite would use the index of another condition, and read all that it has.
    """
    columns = (Job.id, Job.name, Job.labels, Job.status, Job.project)
    found = session.execute(select(*columns).where(Job.id.in_(job_ids)))
    fitting = {job.id for job in found if scope.includes(job.project) and chosen.fits(job)}
    return [job_id for job_id in job_ids if job_id in fitting]


def counts(session: Session, scope: Scope, project: str | None, most: int) -> dict[JobStatus, int]:
    """Count the jobs of each status, each up to `most`, without temporary jobs.

    The indexes do not know temporary jobs, so these few are counted by themselves and taken off.
    """
    hidden = session.execute(select(Job.status, Job.project).where(Job.is_temporary))
    temporary_jobs = Counter(
        job.status for job in hidden if project in (None, job.project) and scope.includes(job.project)
    )
    of_project = tuple(JobFilter(project=project).conditions())
    each = [_count(scope, status, of_project, most + temporary_jobs[status]) for status in (*ALIVE, *ENDED)]
    found = {JobStatus(status): count for status, count in session.execute(union_all(*each))}
    return {status: max(0, count - temporary_jobs[status]) for status, count in found.items()}


def _count(scope: Scope, status: JobStatus, of_project: Sequence[ColumnElement[bool]], most: int) -> Select[str, int]:
    """Count in the order of the index: without an order, PostgreSQL would read the table itself."""
    jobs = (
        select(Job.id)
        .where(Job.status == status, *of_project, scope.permits(Job.project))
        .order_by(Job.created_at)
        .limit(most)
        .subquery()
    )
    return select(literal(status.value), func.count()).select_from(jobs)
