"""A file is not deleted while a job that reads it is being stored, nor named by a job while it is being deleted."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.contracts.spec import JobSpec
from app.database.connection import Database
from app.files import repository
from app.jobs import service
from app.jobs.kinds import KINDS, TRAIN
from app.jobs.trainings import TrainingSubmission
from app.scope import EVERY_PROJECT
from tests.support.jobs_api import an_api, error_of, hub_body

ROWS = b'{"text": "a"}\n{"text": "b"}\n'
MOMENT = 0.5


@pytest.fixture
def api(database: Database, database_url: str, settings: Settings) -> Iterator[TestClient]:
    with an_api(settings, database_url) as client:
        yield client


@pytest.fixture
def body(api: TestClient) -> dict[str, Any]:
    """A job on an uploaded file."""
    file = api.post("/files", files={"file": ("rows.jsonl", ROWS)}).json()
    return {**hub_body(), "dataset": {"source": {"file": file["id"]}}}


def file_of(body: dict[str, Any]) -> str:
    return str(body["dataset"]["source"]["file"])


def test_a_file_is_kept_for_a_job_that_is_being_stored(
    api: TestClient, database: Database, settings: Settings, body: dict[str, Any]
) -> None:
    spec = JobSpec.model_validate(body)
    with database.writer() as session, ThreadPoolExecutor(1) as threads:
        columns = TrainingSubmission().columns(session, EVERY_PROJECT, settings, spec)
        deleting = threads.submit(api.delete, f"/files/{file_of(body)}")
        assert not wait([deleting], MOMENT).done

        session.add(service.new_job(KINDS[TRAIN], spec, body, columns))
        session.commit()

        assert error_of(deleting.result())[:2] == (409, "file_in_use")
    assert api.get(f"/files/{file_of(body)}").status_code == 200


def test_a_file_that_is_being_deleted_is_named_by_no_job(
    api: TestClient, database: Database, body: dict[str, Any]
) -> None:
    with database.writer() as session, ThreadPoolExecutor(1) as threads:
        assert repository.lock(session, EVERY_PROJECT, file_of(body)) is not None
        submitting = threads.submit(api.post, "/jobs", json=body)
        assert not wait([submitting], MOMENT).done

        repository.remove(session, EVERY_PROJECT, file_of(body))
        session.commit()

        assert error_of(submitting.result()) == (422, "invalid_request", "dataset.source.file")
    assert api.get("/jobs").json()["data"] == []
