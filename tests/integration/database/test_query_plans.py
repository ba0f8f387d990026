"""No list and no background query reads all jobs that were ever made: 50,000 of them are as quick as a few."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from app.database.connection import Base, Database
from app.jobs import idempotency, listing, metric_summaries, repository
from app.jobs.listing import JobFilter
from app.jobs.models import Job
from app.jobs.queue import claims, figures, order, totals
from app.jobs.states import JobStatus, Stage
from app.scope import EVERY_PROJECT, Scope
from tests.support.jobs import NOW
from tests.support.many_jobs import add_jobs, jobs_read, statements

JOBS = 50_000
# Of them 50 wait, 50 are held, and a page has 20.
MOST_READ = 1000
# Those that wait and those that are held are sorted and numbered, in some dozens of steps each. Of those that are
# searched, all the columns are read that a filter compares.
MORE_READ = {"places": 5000, "claim": 1400}
MOST_SEARCHED = 2000
NAME = "job-25000"
Asked = Callable[[Session], object]
WITHIN = timedelta(seconds=30)
TEAM, RARE = (("team", "a"),), (("run", "25000"),)
FILTERS = {
    "status": JobFilter(JobStatus.SUCCEEDED),
    "rare status": JobFilter(JobStatus.PAUSED),
    "project": JobFilter(project="p3"),
    "empty project": JobFilter(project="none"),
    "status of project": JobFilter(JobStatus.PAUSED, "p3"),
    "label": JobFilter(labels=TEAM),
    "rare label": JobFilter(labels=RARE),
    "label that none has": JobFilter(labels=(("team", "z"),)),
    "two labels": JobFilter(labels=(*TEAM, *RARE)),
    "label and status": JobFilter(JobStatus.FAILED, labels=TEAM),
    "label and status of the few": JobFilter(JobStatus.RUNNING, labels=TEAM),
    "label, status and project": JobFilter(JobStatus.FAILED, "p3", TEAM),
    "label and a rare status": JobFilter(JobStatus.CANCELLED, "p3", TEAM),
    "text": JobFilter(text="JOB-2"),
    "text that none has": JobFilter(text="none"),
    "all filters": JobFilter(JobStatus.FAILED, "p3", TEAM, "none"),
}


def listed(scope: Scope, chosen: JobFilter, after: str | None) -> Asked:
    return lambda session: listing.page(session, scope, chosen, after=after, limit=20)


def asked_in(scope: Scope) -> dict[str, Asked]:
    return {
        "all": listed(scope, JobFilter(), None),
        "after": listed(scope, JobFilter(), NAME),
        **{name: listed(scope, chosen, None) for name, chosen in FILTERS.items()},
        **{f"{name}, after": listed(scope, chosen, NAME) for name, chosen in FILTERS.items()},
        "counts": lambda session: listing.counts(session, scope, None, 100),
        "counts of a project": lambda session: listing.counts(session, scope, "p3", 100),
        "among": lambda session: repository.among(session, scope, [NAME, "job-5000"]),
        "newest_events": lambda session: repository.newest_events(session, scope, [NAME, "job-5000"]),
        "standing": lambda session: repository.standing(session, scope, NAME),
        "continued_by": lambda session: repository.continued_by(session, scope, NAME),
        "shown_among": lambda session: repository.shown_among(session, scope, [NAME]),
        "events": lambda session: repository.events(session, scope, NAME, after=0, limit=20),
        "attempts": lambda session: repository.attempts_of(session, scope, [NAME, "job-5000"]),
        "summaries": lambda session: metric_summaries.covering(session, scope, NAME, "step", 20),
        "known key": lambda session: idempotency.find(session, scope, "default", "key", {}),
    }


ASKED: dict[str, Asked] = {
    **asked_in(EVERY_PROJECT),
    **{f"{name}, in a scope": asked for name, asked in asked_in(Scope(frozenset({"p3"}))).items()},
    "places": lambda session: order.places(session, Stage.TRAIN, ["job-5000"], 1),
    "uses_file": lambda session: repository.uses_file(session, EVERY_PROJECT, "file-x"),
    "temporary_jobs": lambda session: repository.temporary_jobs(session, EVERY_PROJECT),
    "expired": lambda session: repository.expired(session, EVERY_PROJECT, NOW, 20),
    "none expired": lambda session: repository.expired(session, EVERY_PROJECT, NOW - timedelta(days=9999), 20),
    "count_waiting": lambda session: repository.count_waiting(session, EVERY_PROJECT, 1000),
    "claim": lambda session: claims.claim(session, Stage.TRAIN, "w", "s", NOW),
    "claim of a check": lambda session: claims.claim(session, Stage.CHECK, "w", "s", NOW),
    "held": claims.held,
    "job_held_by": lambda session: claims.job_held_by(session, "w5001"),
    "jobs_held_by": lambda session: claims.jobs_held_by(session, "w5001"),
    "waiting_stages": lambda session: claims.waiting_stages(session, NOW),
    "queue_figures": lambda session: figures.queue_figures(session, NOW),
    "worker_figures": lambda session: figures.worker_figures(session, WITHIN),
    "totals": totals.all_of,
    "has_old": lambda session: idempotency.has_old(session, EVERY_PROJECT),
    "old keys": lambda session: idempotency.sweep(session, EVERY_PROJECT),
}

SEARCHED = {
    f"{name}{after}{scope}"
    for name, chosen in FILTERS.items()
    if chosen.labels or chosen.text
    for after in ("", ", after")
    for scope in ("", ", in a scope")
}


@pytest.fixture(scope="module")
def many(database_url: str) -> Iterator[Database]:
    database = Database.open(database_url)
    add_jobs(database, JOBS)
    yield database
    with database.writer() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())
        session.commit()
    database.close()


@pytest.mark.parametrize("asked", ASKED)
def test_a_query_reads_few_of_many_jobs(many: Database, asked: str) -> None:
    for statement, parameters in statements(many, ASKED[asked]):
        read, plan = jobs_read(many, statement, parameters)
        assert read < MORE_READ.get(asked, MOST_SEARCHED if asked in SEARCHED else MOST_READ), (
            f"{read} rows: {statement}\n{plan}"
        )


def test_a_query_without_an_index_is_found_out(many: Database) -> None:
    asked = statements(many, lambda session: session.query(Job.id).where(Job.name == "none").all())

    assert all(jobs_read(many, *one)[0] >= JOBS for one in asked)
