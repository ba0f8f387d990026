"""`Idempotency-Key`: the same POST /jobs sent again, at any time and however often, makes one job."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from app.config import Settings
from app.database.connection import Database, utc_now
from app.jobs import idempotency
from app.jobs.idempotency import KEPT_FOR, LONGEST_KEY
from app.jobs.models import IdempotencyKey, Job
from app.jobs.queue import retention
from app.scope import EVERY_PROJECT
from tests.support.jobs_api import an_app, error_of, hub_body
from tests.support.serving import serving


def post(api: TestClient, key: str, **groups: Any) -> Any:
    return api.post("/jobs", json=hub_body(**groups), headers={"Idempotency-Key": key})


def count(database: Database, table: Any) -> int:
    with database.reader() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def grow_older(database: Database, age: timedelta) -> None:
    with database.writer() as session:
        session.execute(update(IdempotencyKey).values(created_at=utc_now() - age))
        session.commit()


def end(api: TestClient, job_id: str) -> None:
    assert api.post(f"/jobs/{job_id}/cancel").json()["status"] == "cancelled"


def test_the_same_request_again_is_answered_with_the_first_job(api: TestClient, database: Database) -> None:
    first, second = post(api, "k", name="fib"), post(api, "k", name="fib")

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    assert count(database, Job) == 1


def test_the_checkers_are_rung_once(api: TestClient) -> None:
    post(api, "k")
    post(api, "k")

    assert len(api.app.state.notifier.notified) == 1  # type: ignore[attr-defined]


def test_the_order_of_a_bodys_keys_does_not_count(api: TestClient) -> None:
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    body = hub_body(name="fib")
    texts = [json.dumps(body), json.dumps(dict(reversed(body.items())), indent=3)]

    assert len({api.post("/jobs", content=text, headers=headers).json()["id"] for text in texts}) == 1


def test_another_body_under_a_known_key_is_refused(api: TestClient, database: Database) -> None:
    first = post(api, "k", name="a").json()["id"]
    answer = post(api, "k", name="b")

    assert error_of(answer) == (422, "idempotency_key_reused", "Idempotency-Key")
    assert first in answer.json()["error"]["message"]
    assert count(database, Job) == 1


def test_a_field_left_out_and_one_sent_with_its_default_are_two_bodies(api: TestClient) -> None:
    post(api, "k")

    assert post(api, "k", lora={"r": 16}).status_code == 422


def test_two_keys_are_two_jobs_and_so_is_no_key(api: TestClient, database: Database) -> None:
    for key in ("a", "A"):
        post(api, key)
    for _ in range(2):
        api.post("/jobs", json=hub_body())

    assert count(database, Job) == 4


@pytest.fixture
def http(database: Database, database_url: str, settings: Settings) -> Iterator[httpx.Client]:
    """A client of a real server, which takes many requests at once."""
    with serving(an_app(settings, database_url)) as url, httpx.Client(base_url=url, timeout=30, verify=False) as client:
        yield client


def post_at_once(http: httpx.Client, *bodies: dict[str, Any]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: http.post("/jobs", json=body, headers={"Idempotency-Key": "k"}), bodies))


def test_twenty_requests_at_once_make_one_job(http: httpx.Client, database: Database) -> None:
    answers = post_at_once(http, *[hub_body()] * 20)

    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (count(database, Job), count(database, IdempotencyKey)) == (1, 1)


def test_two_bodies_at_once_under_one_key_make_one_job(http: httpx.Client, database: Database) -> None:
    answers = post_at_once(http, *[hub_body(name="a"), hub_body(name="b")] * 5)

    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [201] + [422] * 5
    assert count(database, Job) == 1


def test_a_key_makes_a_job_again_after_a_day(api: TestClient, database: Database) -> None:
    first = post(api, "k").json()["id"]
    grow_older(database, KEPT_FOR - timedelta(minutes=1))
    same = post(api, "k")
    grow_older(database, KEPT_FOR + timedelta(seconds=1))
    other = post(api, "k")

    assert (same.status_code, same.json()["id"]) == (200, first)
    assert other.status_code == 201
    assert other.json()["id"] != first
    assert count(database, IdempotencyKey) == 1


def test_old_keys_are_swept_and_young_ones_stay(api: TestClient, database: Database, settings: Settings) -> None:
    post(api, "old")
    grow_older(database, KEPT_FOR + timedelta(seconds=1))
    post(api, "young")
    retention.sweep(database, settings)

    with database.reader() as session:
        assert session.scalars(select(IdempotencyKey.key)).all() == ["young"]


@pytest.mark.parametrize("key", ["", "x" * (LONGEST_KEY + 1), "a\tb", b"\xc3\xa9", "\x7f"])
def test_a_key_that_cannot_be_kept_is_refused(api: TestClient, database: Database, key: str | bytes) -> None:
    sent = key if isinstance(key, bytes) else key.encode()
    answer = api.post("/jobs", json=hub_body(), headers={b"Idempotency-Key": sent})

    assert error_of(answer) == (400, "invalid_idempotency_key", "Idempotency-Key")
    assert count(database, Job) == 0


def test_the_longest_key_is_kept(api: TestClient) -> None:
    assert [post(api, "x" * LONGEST_KEY).status_code for _ in range(2)] == [201, 200]


def test_a_key_is_known_though_the_file_of_its_job_was_deleted(api: TestClient) -> None:
    rows = b'{"text": "a"}\n{"text": "b"}\n'
    file_id = api.post("/files", files={"file": ("rows.jsonl", rows)}).json()["id"]
    body, headers = hub_body(dataset={"source": {"file": file_id}}), {"Idempotency-Key": "k"}
    first = api.post("/jobs", json=body, headers=headers).json()["id"]
    end(api, first)
    assert api.delete(f"/files/{file_id}").status_code == 200

    again = api.post("/jobs", json=body, headers=headers)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (200, first, "cancelled")


def test_a_deleted_job_frees_its_key(api: TestClient, database: Database) -> None:
    first = post(api, "k").json()["id"]
    end(api, first)
    api.delete(f"/jobs/{first}")

    assert count(database, IdempotencyKey) == 0
    assert post(api, "k", name="another").status_code == 201


def test_a_refused_request_keeps_no_key(api: TestClient, database: Database) -> None:
    refused = [post(api, "k", model={"model_name": "nothing"}), post(api, "k", lora={"r": -1})]

    assert [answer.status_code for answer in refused] == [422, 422]
    assert count(database, IdempotencyKey) == 0
    assert post(api, "k").status_code == 201


def test_a_job_that_is_deleted_between_two_reads_is_no_error(api: TestClient, database: Database) -> None:
    """PostgreSQL shows each statement the rows of its own moment, SQLite a transaction those of its first one."""
    job_id = post(api, "k").json()["id"]
    end(api, job_id)
    with database.reader() as session:
        assert session.get_one(IdempotencyKey, ("default", "k")).job_id == job_id
        api.delete(f"/jobs/{job_id}")
        found = idempotency.find(session, EVERY_PROJECT, "default", "k", hub_body())

    assert found is None or (found.id == job_id and database.engine.dialect.name == "sqlite")
