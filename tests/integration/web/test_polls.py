"""Polls: many read at once, each client its own answer, and a 304 exactly where nothing has changed."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.config import Settings
from app.contracts.spec import SPEC_VERSION
from app.database.connection import Database, utc_now
from app.errors import NotFound, ServiceError
from app.ids import new_id
from app.jobs.models import Job, Worker
from app.jobs.queue import order
from app.jobs.queue.claims import record
from app.jobs.states import JobStatus, Stage
from app.jobs.views import details
from app.jobs.views.polls import Polls
from app.scope import EVERY_PROJECT, Scope
from tests.integration.jobs.test_stream import NOTICE
from tests.support.jobs import add_job, add_worker, read, take
from tests.support.jobs_api import an_api


@pytest.fixture
def api(settings: Settings, database: Database, database_url: str) -> Iterator[TestClient]:
    with an_api(settings, database_url) as client:
        yield client


def ask(answers: Polls, *job_ids: str) -> list[bytes | BaseException]:
    async def all_at_once() -> list[bytes | BaseException]:
        return await asyncio.gather(
            *(answers.answer(EVERY_PROJECT, job_id) for job_id in job_ids), return_exceptions=True
        )

    return asyncio.run(all_at_once())


def test_each_client_gets_the_job_that_it_asks_for(database: Database) -> None:
    jobs = [add_job(database, age=age) for age in range(20)]
    asked = [jobs[number % 20] for number in range(100)]

    answers = ask(Polls(database), *asked)

    assert all(
        isinstance(found, bytes) and job_id.encode() in found for job_id, found in zip(asked, answers, strict=True)
    )


def test_a_job_that_is_not_there_is_missed_by_its_client_alone(database: Database) -> None:
    job_id, hidden = add_job(database), add_job(database, JobStatus.VALIDATING, is_temporary=True)

    found, *missed = ask(Polls(database), job_id, new_id("job"), "\0", hidden, "job-x" * 1000)

    assert isinstance(found, bytes)
    assert all(isinstance(each, NotFound) for each in missed)


def test_a_row_that_cannot_be_shown_harms_no_other(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = add_job(database), add_job(database)
    read = details.read_details

    def read_but_one(session: Any, scope: Scope, job_ids: list[str]) -> Any:
        if bad in job_ids:
            raise ValueError(bad)
        return read(session, scope, job_ids)

    monkeypatch.setattr("app.jobs.views.polls.read_details", read_but_one)

    found, failed = ask(Polls(database), good, bad)

    assert isinstance(found, bytes)
    assert isinstance(failed, ValueError)


def test_a_database_that_is_away_is_asked_once_for_all() -> None:
    away = Database.open("postgresql+psycopg://nobody@127.0.0.1:1/x")

    found = ask(Polls(away), *(new_id("job") for _ in range(30)))

    assert len({id(each) for each in found}) == 1
    assert not isinstance(found[0], bytes | ServiceError)


def test_who_has_changed_a_job_sees_the_change(api: TestClient, database: Database) -> None:
    job_id = add_job(database)
    for _ in range(5):
        assert api.post(f"/jobs/{job_id}/pause").json()["status"] == "paused"
        assert api.get(f"/jobs/{job_id}").json()["status"] == "paused"
        api.post(f"/jobs/{job_id}/resume")
        assert api.get(f"/jobs/{job_id}").json()["status"] == "queued"


def lose_the_trainer(database: Database) -> None:
    with database.writer() as session:
        session.execute(update(Worker).values(last_seen=utc_now() - timedelta(minutes=5)))
        session.commit()


def set_value(database: Database, job_id: str, **values: Any) -> None:
    with database.writer() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))
        session.commit()


def record_a_notice(database: Database, job_id: str) -> None:
    claim = take(database)
    assert claim is not None
    with database.writer() as session:
        record(session, claim, [NOTICE], 10)
        session.commit()
    assert len(read(database, job_id).notices) == 1


CHANGES: dict[str, Callable[[Database, str], object]] = {
    "its status": lambda database, job_id: take(database),
    "a wish": lambda database, job_id: set_value(database, job_id, requested_action="cancel"),
    "its notices": lambda database, job_id: set_value(database, job_id, notices=[{"code": "a", "message": "b"}]),
    "its labels": lambda database, job_id: set_value(database, job_id, labels={"a": "b"}),
    "its place": lambda database, job_id: add_job(database, priority=50),
    "what its attempt tells": record_a_notice,
    "no worker any more": lambda database, job_id: lose_the_trainer(database),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_answer_that_has_changed_is_never_a_304(api: TestClient, database: Database, change: str) -> None:
    add_worker(database)
    job_id = add_job(database)
    first = api.get(f"/jobs/{job_id}")
    known = {"if-none-match": first.headers["etag"]}
    assert api.get(f"/jobs/{job_id}", headers=known).status_code == 304

    CHANGES[change](database, job_id)
    second = api.get(f"/jobs/{job_id}", headers=known)

    assert second.status_code == 200
    assert second.json() != first.json()
    assert second.headers["etag"] != first.headers["etag"]


@pytest.mark.parametrize("path", ["", "/{id}", "/{id}/events", "/{id}/metrics", "/{id}/checkpoints", "/{id}/logs"])
@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}'])
def test_all_that_is_polled_has_a_tag(api: TestClient, database: Database, path: str, form: str) -> None:
    url = "/jobs" + path.format(id=add_job(database))
    first = api.get(url)
    again = api.get(url, headers={"if-none-match": form.format(first.headers["etag"])})

    assert (first.status_code, first.headers["cache-control"]) == (200, "no-cache")
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


def test_a_refusal_has_no_tag_and_a_stream_neither(api: TestClient, database: Database) -> None:
    ended = add_job(database, JobStatus.FAILED)

    assert "etag" not in api.get("/jobs/x").headers
    assert "etag" not in api.get(f"/jobs/{ended}/stream").headers
    assert api.head(f"/jobs/{ended}").headers["etag"] == api.get(f"/jobs/{ended}").headers["etag"]


def test_places_of_many_are_one_query_for_each_stage(database: Database) -> None:
    waiting = [add_job(database, age=age, project=f"p{age % 3}") for age in range(30)]
    with database.reader() as session:
        places = order.places(session, Stage.TRAIN, waiting, SPEC_VERSION)

    assert sorted(places.values()) == list(range(1, 31))
