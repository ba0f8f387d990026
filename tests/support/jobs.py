"""Jobs in the database, without the API in front."""

from datetime import UTC, datetime, timedelta
from typing import Any

from app.contracts.devices import CPU
from app.contracts.spec import SPEC_VERSION, JobSpec
from app.database.connection import Database, utc_now
from app.jobs import repository, service
from app.jobs.kinds import KINDS, TRAIN
from app.jobs.models import Job, Worker
from app.jobs.queue.claims import Claim, claim
from app.jobs.states import JobStatus, Stage
from app.jobs.trainings import training_columns
from app.scope import EVERY_PROJECT
from tests.support.specs import a_body, a_spec

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def a_job(spec: JobSpec | None = None, sent: dict[str, Any] | None = None) -> Job:
    """The row of a new training, not stored yet."""
    spec = spec or a_spec()
    return service.new_job(KINDS[TRAIN], spec, a_body() if sent is None else sent, training_columns(spec))


def add_job(
    database: Database,
    status: JobStatus = JobStatus.QUEUED,
    *,
    age: int = 0,
    body: dict[str, Any] | None = None,
    **values: Any,
) -> str:
    """A stored job, `age` seconds old, with the plan of the body."""
    job = a_job(a_spec() if body is None else JobSpec.model_validate(body), body)
    job.status, job.created_at = status, NOW - timedelta(seconds=age)
    for name, value in values.items():
        setattr(job, name, value)
    with database.writer() as session:
        repository.add(session, EVERY_PROJECT, job)
        repository.append_event(session, job, "status", {"status": status.value}, NOW)
        session.commit()
    return job.id


def take(database: Database, worker: str = "w1", stage: Stage = Stage.TRAIN) -> Claim | None:
    """What a worker does when it is rung."""
    with database.writer() as session:
        job = claim(session, stage, worker, f"slot-{worker}", NOW)
        session.commit()
    return Claim(job.id, job.epoch, stage, worker) if job is not None else None


def taken(database: Database, worker: str = "w1", stage: Stage = Stage.TRAIN) -> Claim:
    """The same where a job waits."""
    claim = take(database, worker, stage)
    assert claim is not None
    return claim


def read(database: Database, job_id: str) -> Job:
    with database.reader() as session:
        return session.get_one(Job, job_id)


def add_worker(database: Database, stage: Stage = Stage.TRAIN, *, seconds_ago: float = 0, **values: Any) -> None:
    """A worker that was seen so long ago."""
    at = utc_now() - timedelta(seconds=seconds_ago)
    row = {"name": f"{stage}-{seconds_ago}", "stage": stage, "host": "h", "device": CPU, "started_at": at}
    with database.writer() as session:
        session.merge(Worker(**{**row, "last_seen": at, "spec_version": SPEC_VERSION, **values}))
        session.commit()
