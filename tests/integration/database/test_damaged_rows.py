"""What another version has stored, or damaged, makes no route fail: it is shown as far as it can be read, and goes."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.config import Settings
from app.database.connection import Database
from app.jobs.queue import claims
from app.jobs.states import JobStatus
from tests.support.damaged_rows import PROGRESS, Rows, add_worker_of_another_version
from tests.support.jobs import add_job
from tests.support.jobs_api import error_of, hub_body
from tests.support.scripted_engine import ScriptedEngine

CHAT = [{"role": "user", "content": "q"}]
PARAMETERS = {
    "job_id": "jobs",
    "file_id": "files",
    "adapter_id": "adapters",
    "artifact_id": "adapters",
    "model_id": "adapters",
    "key_id": "api_keys",
}
LISTS = ("jobs", "files", "adapters")
# Of the damaged rows each n-th is written to: a write takes as long as ten reads.
WRITTEN = 7
# Of the routes without a row in their path: the bodies that name one.
BODIES: dict[str, list[tuple[str, Any]]] = {
    "/jobs": [
        ("jobs", lambda name: hub_body(continue_from={"job": name})),
        ("adapters", lambda name: hub_body(continue_from={"adapter": name})),
    ],
    "/generate": [
        ("adapters", lambda name: {"adapter": name, "messages": CHAT}),
        ("jobs", lambda name: {"model": name, "messages": CHAT}),
    ],
    "/v1/chat/completions": [("adapters", lambda name: {"model": name, "messages": CHAT})],
    "/v1/completions": [("jobs", lambda name: {"model": name, "prompt": "q"})],
    "/files": [],
    "/keys": [],
    "/jobs/validate": [],
    "/jobs/estimate": [],
}


@pytest.fixture
def api(api: TestClient) -> TestClient:
    api.app.state.engine = ScriptedEngine()  # type: ignore[attr-defined]
    return api


def requests(api: TestClient, rows: Rows, *methods: str) -> Iterator[tuple[str, str, Any]]:
    """Every route of the app about every damaged row."""
    paths = api.get("/openapi.json").json()["paths"]
    for path, known in paths.items():
        for method in {method.upper() for method in known}.intersection(methods):
            yield from ((method, asked, body) for asked, body in _asked(method, path, rows))


def _asked(method: str, path: str, rows: Rows) -> Iterator[tuple[str, Any]]:
    name = next((name for name in PARAMETERS if f"{{{name}}}" in path), None)
    if name is not None:
        record = "?record=2" if path.endswith("/data") else ""
        chosen = rows.damaged[PARAMETERS[name]][:: 1 if method == "GET" else WRITTEN]
        yield from ((path.replace(f"{{{name}}}", row) + record, None) for row in chosen)
    elif method == "POST":
        for table, body in BODIES.get(path, ()):
            yield from ((path, body(row_id)) for row_id in rows.damaged[table])
    else:
        yield path, None


def failures(api: TestClient, asked: Iterator[tuple[str, str, Any]]) -> list[tuple[str, str, str]]:
    answers = [(method, path, api.request(method, path, json=body)) for method, path, body in asked]
    assert len(answers) > 100
    return [(method, path, answer.text) for method, path, answer in answers if answer.status_code >= 500]


def test_every_damaged_row_is_shown_by_all_routes_and_can_be_deleted(
    api: TestClient, database: Database, settings: Settings
) -> None:
    rows = Rows(database, settings)
    add_worker_of_another_version(database)
    assert rows.count > 100

    assert failures(api, requests(api, rows, "GET")) == []
    for kind in LISTS:
        shown = {row["id"]: row for row in api.get(f"/{kind}", params={"limit": 1000}).json()["data"]}
        assert shown.keys() == {*rows.damaged[kind], rows.good[kind]}
        assert shown[rows.good[kind]]["unreadable"] == []
        assert any(row["unreadable"] for row in shown.values())
    for kind in LISTS:
        answers = [api.delete(f"/{kind}/{row_id}") for row_id in rows.damaged[kind]]
        assert {answer.status_code for answer in answers} == {200}
        assert [row["id"] for row in api.get(f"/{kind}").json()["data"]] == [rows.good[kind]]


def test_no_question_and_no_wish_about_a_damaged_row_fails(
    api: TestClient, database: Database, settings: Settings
) -> None:
    rows = Rows(database, settings)

    assert failures(api, requests(api, rows, "POST")) == []


@pytest.mark.parametrize("status", [JobStatus.VALIDATING, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED])
def test_a_damaged_job_that_is_alive_is_shown_and_cancelled(
    api: TestClient, database: Database, settings: Settings, status: JobStatus
) -> None:
    ids = [add_job(database, status) for _ in range(4)]
    for job_id, column in zip(ids, ("spec", "resolved", "notices", "progress"), strict=True):
        with database.writer() as session:
            session.execute(text(f"UPDATE jobs SET {column} = '[[1], 2]' WHERE id = :id"), {"id": job_id})
            session.commit()

    for job_id in ids:
        assert api.get(f"/jobs/{job_id}").json()["unreadable"] != []
        assert {api.post(f"/jobs/{job_id}/{wish}").status_code for wish in ("pause", "resume", "cancel")} == {200}
        assert api.get(f"/jobs/{job_id}").json()["status"] == "cancelled"


def test_what_cannot_be_read_of_a_job_is_named_and_the_rest_is_shown(api: TestClient, database: Database) -> None:
    job_id = add_job(database, progress={**PROGRESS, "percent": "many"}, error={"category": "x"}, labels={"a": "b"})

    shown = api.get("/jobs").json()["data"][0]

    assert (shown["id"], shown["labels"], shown["status"]) == (job_id, {"a": "b"}, "queued")
    assert (shown["progress"], shown["error"], shown["unreadable"]) == (None, None, ["error", "progress"])


def test_a_field_of_a_newer_version_is_left_out(api: TestClient, database: Database) -> None:
    job_id = add_job(database, progress={**PROGRESS, "watts": 300})

    shown = api.get(f"/jobs/{job_id}").json()

    assert shown["progress"] == {**PROGRESS, "step": 1, "metrics": {}}
    assert shown["unreadable"] == []


def test_a_held_job_of_another_version_is_left_alone_and_takes_no_place(database: Database) -> None:
    add_job(database, JobStatus.RUNNING, worker="w1", slot="s")
    known = add_job(database, JobStatus.RUNNING, worker="w1", slot="s")
    with database.writer() as session:
        session.execute(text("UPDATE jobs SET status = 'archived' WHERE id <> :id"), {"id": known})
        session.commit()

    with database.reader() as session:
        assert [job.id for job in claims.held(session)] == [known]
        assert (claims.job_held_by(session, "w1"), claims.jobs_held_by(session, "w1")) == (known, 1)


def test_a_status_of_another_version_is_unknown_and_no_wish_changes_it(api: TestClient, database: Database) -> None:
    job_id = add_job(database, JobStatus.RUNNING)
    with database.writer() as session:
        session.execute(text("UPDATE jobs SET status = 'archived'"))
        session.commit()

    assert [job["id"] for job in api.get("/jobs", params={"status": "unknown"}).json()["data"]] == [job_id]
    assert api.get(f"/jobs/{job_id}").json()["unreadable"] == ["status"]
    for wish in ("cancel", "pause", "resume"):
        assert error_of(api.post(f"/jobs/{job_id}/{wish}"))[:2] == (409, "job_status_unknown")
    with database.reader() as session:
        assert session.execute(text("SELECT status, desired FROM jobs")).all() == [("archived", "run")]
    assert api.delete(f"/jobs/{job_id}").status_code == 200
