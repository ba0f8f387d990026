"""No list and no background query reads all jobs that were ever made: 50,000 of them are as quick as a few."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from app.database.connection import Base, Database
from app.jobs import idempotency, repository
from app.jobs.models import Job
from app.jobs.queue import claims
from app.jobs.states import JobStatus, Stage
from tests.support.jobs import NOW
from tests.support.many_jobs import add_jobs, jobs_read, statements

JOBS = 50_000
# Of them 50 wait, 50 are held, and a page has 20.
MOST_READ = 1000
# Those that wait and those that are held are sorted and numbered, in some dozens of steps each.
SORTED = {"places": 5000}
NAME = "job-25000"
Asked = Callable[[Session], object]
WITHIN = timedelta(seconds=30)
ASKED: dict[str, Asked] = {
    "all": lambda session: repository.page(session, after=None, limit=20),
    "after": lambda session: repository.page(session, after=NAME, limit=20),
    "status": lambda session: repository.page(session, status=JobStatus.SUCCEEDED, after=None, limit=20),
    "rare status": lambda session: repository.page(session, status=JobStatus.PAUSED, after=None, limit=20),
    "status after": lambda session: repository.page(session, status=JobStatus.FAILED, after=NAME, limit=20),
    "project": lambda session: repository.page(session, project="p3", after=None, limit=20),
    "empty project": lambda session: repository.page(session, project="none", after=None, limit=20),
    "project after": lambda session: repository.page(session, project="p3", after=NAME, limit=20),
    "status of project": lambda session: repository.page(
        session, status=JobStatus.PAUSED, project="p3", after=NAME, limit=20
    ),
    "places": lambda session: repository.places(session, Stage.TRAIN, ["job-5000"], 1),
    "among": lambda session: repository.among(session, [NAME, "job-5000"]),
    "newest_events": lambda session: repository.newest_events(session, [NAME, "job-5000"]),
    "standing": lambda session: repository.standing(session, NAME),
    "uses_file": lambda session: repository.uses_file(session, "file-x"),
    "continued_by": lambda session: repository.continued_by(session, NAME),
    "dry_runs": repository.dry_runs,
    "dry_runs_among": lambda session: repository.dry_runs_among(session, [NAME]),
    "expired": lambda session: repository.expired(session, NOW, 20),
    "none expired": lambda session: repository.expired(session, NOW - timedelta(days=9999), 20),
    "count_waiting": lambda session: repository.count_waiting(session, 1000),
    "claim": lambda session: claims.claim(session, Stage.TRAIN, "w", "s", NOW),
    "claim of a check": lambda session: claims.claim(session, Stage.CHECK, "w", "s", NOW),
    "held": claims.held,
    "job_held_by": lambda session: claims.job_held_by(session, "w5001"),
    "jobs_held_by": lambda session: claims.jobs_held_by(session, "w5001"),
    "waiting_stages": lambda session: claims.waiting_stages(session, NOW),
    "has_old": idempotency.has_old,
    "old keys": idempotency.sweep,
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
        assert read < SORTED.get(asked, MOST_READ), f"{read} rows: {statement}\n{plan}"


def test_a_query_without_an_index_is_found_out(many: Database) -> None:
    asked = statements(many, lambda session: session.query(Job.id).where(Job.name == "none").all())

    assert all(jobs_read(many, *one)[0] >= JOBS for one in asked)
