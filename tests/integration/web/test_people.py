"""People behind a trusted proxy, and streams whose key is revoked, on a real server."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.access.limits import Limits
from app.accounts import service
from app.config import Settings
from app.database.connection import Database
from app.jobs.states import JobStatus
from app.web import ending_streams
from tests.integration.web.test_keys_on_routes import Team, id_of
from tests.support.callers import ANYONE
from tests.support.jobs import add_job
from tests.support.jobs_api import an_app, hub_body
from tests.support.serving import serving

JANE = {"x-forwarded-user": "jane", "x-forwarded-groups": "ml"}
PROXIED = {"proxy_groups": "ml=a:read+jobs:write", "keys": "required"}


@pytest.fixture(params=["127.0.0.1", "10.1.2.3"])
def proxied(
    request: pytest.FixtureRequest, settings: Settings, database: Database, database_url: str
) -> Iterator[tuple[httpx.Client, bool]]:
    """A client on loopback, and whether loopback is the trusted proxy."""
    chosen = settings.model_copy(update={"trusted_proxies": request.param, **PROXIED})
    with serving(an_app(chosen, database_url)) as url, httpx.Client(base_url=url) as client:
        yield client, request.param == "127.0.0.1"


def test_headers_count_only_from_a_trusted_proxy(proxied: tuple[httpx.Client, bool]) -> None:
    client, is_trusted = proxied

    posted = client.post("/jobs", json=hub_body(), headers=JANE)

    assert posted.status_code == (201 if is_trusted else 401)
    if is_trusted:
        assert posted.json()["project"] == "a"
        assert client.get("/keys", headers=JANE).status_code == 403
        assert client.get("/jobs", headers={"x-forwarded-user": "eve"}).status_code == 403


def test_who_is_not_named_by_a_trusted_proxy_is_not_a_user_of_this_host(
    settings: Settings, database: Database, database_url: str
) -> None:
    chosen = settings.model_copy(update={"trusted_proxies": "127.0.0.1", **PROXIED, "keys": "auto"})
    with serving(an_app(chosen, database_url)) as url, httpx.Client(base_url=url) as client:
        assert client.get("/jobs").status_code == 401
        assert client.get("/jobs", headers=JANE).status_code == 200


def test_requests_of_people_count_in_their_project(proxied: tuple[httpx.Client, bool], database: Database) -> None:
    client, is_trusted = proxied
    with database.writer() as session:
        service.set_limits(session, ANYONE, "a", Limits(requests_per_minute=2))

    statuses = [client.get("/jobs", headers=JANE).status_code for _ in range(3)]

    assert statuses == ([200, 200, 429] if is_trusted else [401] * 3)


def test_a_stream_ends_soon_after_its_key_is_revoked(
    settings: Settings, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending_streams, "SECONDS", 0.0)
    monkeypatch.setattr("app.jobs.views.stream.PING_SECONDS", 0.2)
    required = settings.model_copy(update={"keys": "required"})
    job_id = add_job(database, JobStatus.QUEUED, project="a")
    app: Any = an_app(required, database_url)
    with serving(app) as url:
        team = Team(app, database, required)
        key = team.key("read")
        headers = {"authorization": f"Bearer {key}"}
        with httpx.stream("GET", f"{url}/jobs/{job_id}/stream", headers=headers, timeout=10) as answer:
            pieces = answer.iter_text()
            assert answer.status_code == 200
            next(pieces)
            with database.writer() as session:
                service.revoke(session, ANYONE, id_of(key))

            rest = [*pieces]

    assert len(rest) < 20
    assert json.dumps(job_id) not in "".join(rest)
