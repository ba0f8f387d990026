"""What `GET /metrics` says of jobs, attempts and workers."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.contracts.gpu_readings import GpuReading
from app.database.connection import Database, utc_now
from app.jobs import repository
from app.jobs.queue.claims import finish, record, take_back
from app.jobs.queue.figures import UNKNOWN
from app.jobs.states import JobStatus, Stage
from app.scope import EVERY_PROJECT
from tests.support.api_engines import let_answer
from tests.support.events import a_step
from tests.support.jobs import NOW, add_job, add_worker, read, take, taken
from tests.support.jobs_api import an_api
from tests.support.scraping import scrape, value
from tests.support.scripted_engine import ScriptedEngine

READING = GpuReading(gpu="GPU-1", name="H200", memory_used_bytes=5, utilization=0.5, temperature_celsius=40)


@pytest.fixture
def api(settings: Settings, database: Database, database_url: str) -> Iterator[TestClient]:
    """An API of its own: what a scrape has found is kept for a second."""
    settings.root.mkdir()
    with an_api(settings, database_url) as client:
        let_answer(client.app, ScriptedEngine())
        yield client


def test_jobs_are_counted_by_status_and_kind_without_temporary_ones(api: TestClient, database: Database) -> None:
    for status in (JobStatus.QUEUED, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED):
        add_job(database, status)
    add_job(database, JobStatus.VALIDATING, is_temporary=True)
    add_job(database, JobStatus.PAUSED, kind="of-another-version")

    found = scrape(api)

    assert value(found, "tunesmith_jobs", status="queued", kind="train") == 2
    assert value(found, "tunesmith_jobs", status="running", kind="train") == 1
    assert value(found, "tunesmith_jobs", status="validating", kind="train") == 0
    assert value(found, "tunesmith_jobs", status="paused", kind=UNKNOWN) == 1
    assert value(found, "tunesmith_jobs", status="succeeded", kind="train") is None


def test_the_age_of_a_queue_is_that_of_the_oldest_job_that_could_be_claimed(
    api: TestClient, database: Database
) -> None:
    now = utc_now()
    add_job(database, created_at=now - timedelta(seconds=50), waiting_since=now - timedelta(seconds=20))
    add_job(database, created_at=now - timedelta(seconds=90), run_after=now + timedelta(seconds=60))
    add_job(database, JobStatus.RUNNING, created_at=now - timedelta(seconds=90), worker="w1")
    add_job(database, JobStatus.VALIDATING, created_at=now - timedelta(seconds=70))

    found = scrape(api)

    ages = {stage: value(found, "tunesmith_queue_age_seconds", stage=stage) for stage in Stage}
    assert ages[Stage.TRAIN] == pytest.approx(20, abs=10)
    assert ages[Stage.CHECK] == pytest.approx(70, abs=10)
    assert ages[Stage.RUN] == 0
    assert value(found, "tunesmith_jobs_waiting", stage="train") == 1


def test_a_job_that_is_queued_again_waits_from_then_on(database: Database) -> None:
    job_id = add_job(database, JobStatus.PAUSED, age=3600)

    with database.writer() as session:
        repository.move(session, EVERY_PROJECT, job_id, JobStatus.QUEUED, NOW)
        session.commit()

    assert read(database, job_id).waiting_since == NOW


def test_what_has_ended_is_counted_once_however_it_ended(api: TestClient, database: Database) -> None:
    for _ in range(2):
        add_job(database)
        with database.writer() as session:
            finish(session, taken(database), JobStatus.FAILED, NOW, outcome="user_error", reason=None)
            session.commit()
    lost = add_job(database)
    take(database)
    with database.writer() as session:
        take_back(session, read(database, lost), NOW, reason="x", max_attempts=3, pause=None)
        session.commit()

    found = scrape(api)

    assert value(found, "tunesmith_jobs_ended_total", kind="train", status="failed") == 2
    assert value(found, "tunesmith_attempts_total", stage="train", outcome="user_error") == 2
    assert value(found, "tunesmith_attempts_total", stage="train", outcome="worker_lost") == 1


def test_what_is_rolled_back_is_not_counted(api: TestClient, database: Database) -> None:
    add_job(database)
    with database.writer() as session:
        finish(session, taken(database), JobStatus.FAILED, NOW, outcome="user_error", reason=None)
        session.rollback()

    assert not [name for name, _ in scrape(api) if name == "tunesmith_jobs_ended_total"]


def test_a_worker_tells_its_gpus_its_problem_and_its_training(api: TestClient, database: Database) -> None:
    job_id = add_job(database)
    claim = taken(database, "w1")
    with database.writer() as session:
        record(session, claim, [a_step(4, seconds=8.0, tokens_per_second=512.0, loss=1.5)], 10)
        session.commit()
    add_worker(database, name="w1", job_id=job_id, gpu_readings=[READING.model_dump(), "of another version"])
    add_worker(database, name="w2", seconds_ago=31, gpu_readings=[READING.model_dump()], problem="no slot")

    found = scrape(api)

    assert value(found, "tunesmith_worker_alive", worker="w1", stage="train") == 1
    assert value(found, "tunesmith_worker_busy", worker="w1", stage="train") == 1
    assert value(found, "tunesmith_worker_problem", worker="w1", stage="train") == 0
    assert value(found, "tunesmith_training_loss", worker="w1") == 1.5
    assert value(found, "tunesmith_training_step_seconds", worker="w1") == 2.0
    assert value(found, "tunesmith_training_tokens_per_second", worker="w1") == 512
    assert value(found, "tunesmith_gpu_utilization_ratio", worker="w1", gpu="GPU-1") == 0.5
    assert value(found, "tunesmith_gpu_power_watts", worker="w1", gpu="GPU-1") is None
    assert value(found, "tunesmith_worker_alive", worker="w2", stage="train") == 0
    assert value(found, "tunesmith_worker_problem", worker="w2", stage="train") == 1
    assert value(found, "tunesmith_gpu_utilization_ratio", worker="w2", gpu="GPU-1") is None


def test_the_list_of_workers_has_the_readings(api: TestClient, database: Database) -> None:
    add_worker(database, name="w1", gpu_readings=[READING.model_dump()])
    add_worker(database, name="w2")

    shown = {worker["name"]: worker["gpu_readings"] for worker in api.get("/workers").json()["data"]}

    assert shown == {"w1": [READING.model_dump()], "w2": []}


def test_no_name_of_a_job_or_a_project_is_told(api: TestClient, database: Database) -> None:
    job_id = add_job(database, name="secret-plan", project="canary", labels={"team": "hidden"})
    claim = taken(database)
    api.get(f"/jobs/{job_id}")
    with database.writer() as session:
        finish(session, claim, JobStatus.FAILED, NOW, outcome="user_error", reason="a secret row")
        session.commit()

    told = api.get("/metrics").text

    assert "/jobs/{job_id}" in told
    assert not [word for word in ("secret", "canary", "hidden", job_id) if word in told]


def test_a_database_that_is_away_is_told_and_all_else_too(settings: Settings) -> None:
    settings.root.mkdir()
    url = f"sqlite:///{settings.root / 'none' / 'gone.db'}"
    with an_api(settings, url) as client:
        let_answer(client.app, ScriptedEngine())
        found = scrape(client)

    assert value(found, "tunesmith_part_ok", part="database") == 0
    assert value(found, "tunesmith_part_ok", part="engine") == 1
    assert value(found, "tunesmith_engine_waiting_requests", engine="engine") == 0
    assert not [name for name, _ in found if name == "tunesmith_jobs"]
