"""A job whose spec a worker does not understand waits for a newer worker; it costs no attempt, and blocks none."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.config import Settings
from app.contracts.plan import plan_of
from app.contracts.spec import SPEC_VERSION
from app.contracts.stored import with_values
from app.database.connection import Database, utc_now
from app.jobs.models import Attempt, Worker
from app.jobs.queue import claims
from app.jobs.states import JobStatus, Stage
from tests.support.jobs import NOW, add_job, read
from tests.support.specs import a_body, a_spec
from tests.support.workers import a_context
from worker.supervising.context import WorkerContext
from worker.supervising.lifecycle import take

PLAN = plan_of(a_spec()).model_dump(mode="json")
NEWER = with_values(PLAN, {"model.use_dora": True})
NOT_UNDERSTOOD: dict[str, dict[str, Any]] = {
    "an unknown field": {"plan": NEWER},
    "an unknown group": {"plan": {**PLAN, "reward": {"model": "m"}}},
    "a value out of range": {"plan": with_values(PLAN, {"lora.r": 100_000})},
    "a missing field": {"plan": {"model": {}}},
    "another shape": {"plan": {"a": 1}},
    "a plan without a model": {"plan": {**PLAN, "model": {}}},
    "an unknown field of a version without plans": {"spec_version": 2, "sent": a_body(model={"use_dora": True})},
    "a kind of job that only a newer version has": {"kind": "reward"},
    "a newer version": {"spec_version": SPEC_VERSION + 1},
}


@pytest.fixture
def context(settings: Settings, database: Database) -> WorkerContext:
    return a_context(settings, database)


@pytest.mark.parametrize("case", NOT_UNDERSTOOD)
def test_a_job_that_is_not_understood_is_not_claimed(database: Database, context: WorkerContext, case: str) -> None:
    left = add_job(database, age=9, priority=5, **NOT_UNDERSTOOD[case])
    behind = add_job(database)

    taken = take(context)

    assert taken is not None
    assert taken.job.id == behind
    assert take(context) is None
    job = read(database, left)
    assert (job.status, job.epoch, job.worker, job.last_seq) == (JobStatus.QUEUED, 0, None, 1)
    with database.reader() as session:
        assert [attempt.job_id for attempt in session.scalars(select(Attempt))] == [behind]
        assert claims.waiting_stages(session, NOW) == set()


def test_a_job_that_waits_for_a_newer_worker_says_so(
    api: TestClient, database: Database, context: WorkerContext
) -> None:
    job_id = add_job(database, plan=NEWER)
    with database.writer() as session:
        named = {"name": "w", "stage": Stage.TRAIN, "host": "h", "device": "cpu"}
        claims.record_worker(session, Worker(**named, started_at=utc_now()))
        session.commit()
    assert take(context) is None

    reason = api.get(f"/jobs/{job_id}").json()["queue"]["reason"]

    assert reason == (
        "its spec is of a newer version: it waits for a worker that understands it "
        f"(it needs version {SPEC_VERSION + 1}, the present workers have {SPEC_VERSION})"
    )


def test_a_newer_worker_is_said_to_take_it(api: TestClient, database: Database) -> None:
    job_id = add_job(database, spec_version=SPEC_VERSION + 1)
    with database.writer() as session:
        named = {"name": "w", "stage": Stage.TRAIN, "host": "h", "device": "cpu"}
        claims.record_worker(session, Worker(**named, started_at=utc_now()))
        session.get_one(Worker, "w").spec_version = SPEC_VERSION + 1
        session.commit()

    assert api.get(f"/jobs/{job_id}").json()["queue"]["reason"] == "the next free worker takes it"


def test_a_job_that_waits_for_a_newer_worker_can_be_cancelled(
    api: TestClient, database: Database, context: WorkerContext
) -> None:
    job_id = add_job(database, plan=NEWER)
    assert take(context) is None

    assert api.post(f"/jobs/{job_id}/cancel").json()["status"] == "cancelled"
