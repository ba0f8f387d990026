"""What is over a limit is refused with its name and a time to come back, and taken once there is room."""

import pytest
from fastapi.testclient import TestClient

from app.cli.errors import ApiError, error_lines
from app.config import Settings
from app.database.connection import Database, utc_now
from app.jobs.repository import LONGEST_VALIDATION
from app.jobs.states import JobStatus
from tests.support.jobs import add_job
from tests.support.jobs_api import error_of, hub_body


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_waiting_jobs": 2, "max_validations": 2})


def waiting(database: Database) -> list[str]:
    return [add_job(database, JobStatus.VALIDATING), add_job(database, JobStatus.QUEUED)]


def test_a_job_over_the_limit_of_waiting_ones_is_refused(api: TestClient, database: Database) -> None:
    waiting(database)

    answer = api.post("/jobs", json=hub_body())

    assert error_of(answer)[:2] == (429, "too_many_waiting_jobs")
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert answer.headers["retry-after"] == "60"
    assert "TUNESMITH_MAX_WAITING_JOBS is 2" in answer.json()["error"]["message"]
    assert len(api.get("/jobs").json()["data"]) == 2


def test_a_job_below_the_limit_is_taken(api: TestClient, database: Database) -> None:
    first, _ = waiting(database)
    for status in (JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.SUCCEEDED):
        add_job(database, status)
    add_job(database, JobStatus.VALIDATING, is_temporary=True)

    assert api.post(f"/jobs/{first}/cancel").status_code == 200

    assert api.post("/jobs", json=hub_body()).status_code == 201


def test_a_request_that_is_sent_again_is_no_further_job(api: TestClient, database: Database) -> None:
    add_job(database)
    key = {"Idempotency-Key": "k"}

    assert [api.post("/jobs", json=hub_body(), headers=key).status_code for _ in range(2)] == [201, 200]


def test_a_validation_over_the_limit_is_refused(api: TestClient, database: Database) -> None:
    for _ in range(2):
        add_job(database, JobStatus.VALIDATING, is_temporary=True, created_at=utc_now())

    answer = api.post("/jobs/validate", json=hub_body())

    assert error_of(answer)[:2] == (429, "too_many_validations")
    assert answer.headers["retry-after"] == "10"
    assert "TUNESMITH_MAX_VALIDATIONS is 2" in answer.json()["error"]["message"]


def test_validations_that_are_over_or_that_nobody_waits_for_do_not_count(api: TestClient, database: Database) -> None:
    now = utc_now()
    for created_at, finished_at in ((now, now), (now - LONGEST_VALIDATION, None), (now, None)):
        add_job(database, JobStatus.VALIDATING, is_temporary=True, created_at=created_at, finished_at=finished_at)

    assert error_of(api.post("/jobs/validate", json=hub_body()))[1] == "no_checker"


def test_the_command_says_which_limit_it_is(api: TestClient, database: Database) -> None:
    waiting(database)
    answer = api.post("/jobs", json=hub_body())

    assert error_lines(ApiError.of(answer.status_code, answer.text)) == [
        "too_many_waiting_jobs: 2 jobs are waiting already: try again once some of them have begun "
        "(TUNESMITH_MAX_WAITING_JOBS is 2)"
    ]
