"""A request that was not meant for this service is refused before its body is read: by the API, and by the engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.database.migrate import upgrade
from app.main import create_app
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import LOCAL
from worker.inference.server.app import create_app as create_engine_app
from worker.inference.server.roots import Roots

ORIGIN = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
REBOUND = {"host": "evil.example:8000", "origin": "http://evil.example:8000"}


def unread() -> Iterator[bytes]:
    raise AssertionError("the body was read")
    yield b""


@pytest.mark.parametrize(
    ("headers", "status", "code"), [(ORIGIN, 403, "foreign_origin"), (REBOUND, 400, "unknown_host")]
)
@pytest.mark.parametrize("path", ["/jobs", "/files", "/jobs/job-x/cancel", "/generate", "/v1/chat/completions"])
def test_a_strange_page_posts_nothing(
    api: TestClient, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = api.post(path, content=unread(), headers=headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("path", ["/jobs", "/healthz", "/docs", "/openapi.json", "/files/file-x/content"])
def test_a_page_whose_name_was_pointed_here_reads_nothing(api: TestClient, path: str) -> None:
    assert api.get(path, headers={"host": "evil.example"}).status_code == 400


def test_a_page_that_is_not_listed_gets_no_leave_to_read(api: TestClient) -> None:
    answer = api.get("/jobs", headers=ORIGIN)

    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_page_that_is_listed_may_ask_and_read(settings: Settings) -> None:
    settings.root.mkdir()
    upgrade(settings.database)
    page = {"origin": "https://ui.example"}
    asked = {**page, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    chosen = settings.model_copy(update={"allowed_origins": "https://ui.example"})
    with TestClient(create_app(chosen), base_url=LOCAL) as client:
        preflight = client.options("/v1/chat/completions", headers=asked)
        listed = client.get("/jobs", headers=page)
        other = client.get("/jobs", headers=ORIGIN)

    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, "https://ui.example")
    assert listed.headers["access-control-allow-origin"] == "https://ui.example"
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(("headers", "code"), [(ORIGIN, "foreign_origin"), (REBOUND, "unknown_host")])
@pytest.mark.parametrize("path", ["/generate", "/prove"])
def test_the_engine_answers_no_stranger(path: str, headers: dict[str, str], code: str) -> None:
    engine: Any = ScriptedEngine  # it is never asked
    with TestClient(create_engine_app(engine, Roots(Path("/nowhere"), Path("/nowhere"))), base_url=LOCAL) as client:
        assert client.post(path, content=unread(), headers=headers).json()["code"] == code
