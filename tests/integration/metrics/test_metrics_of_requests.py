"""What `GET /metrics` says of requests, streams and generations."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.config import Settings
from app.contracts.generation import EngineError, EngineEvent, Finish, PromptDetails, TextDelta, Usage
from app.database.connection import Database
from app.metrics import counts
from app.metrics.counts import OTHER, FewNames
from app.metrics.generations import CountedEngine
from app.metrics.processes import VARIABLE, counting_together, forget_dead, shared_folder
from tests.support.jobs import add_job, taken
from tests.support.jobs_api import an_app
from tests.support.scraping import by_label, scrape, value
from tests.support.scripted_engine import ScriptedEngine, add_adapter
from tests.support.serving import LOCAL, serving
from tests.support.waiting import wait_for

USAGE = Usage(
    prompt_tokens=10, completion_tokens=4, total_tokens=14, prompt_tokens_details=PromptDetails(cached_tokens=8)
)
ANSWER = (TextDelta(text="144"), Finish(reason="stop", usage=USAGE))
BUSY = EngineError(status=429, code="engine_busy", message="full")


@pytest.fixture
def app(settings: Settings, database: Database, database_url: str) -> FastAPI:
    settings.root.mkdir()
    return an_app(settings, database_url)


@pytest.fixture
def api(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client


def script(app: FastAPI, *events: EngineEvent) -> None:
    app.state.engine = CountedEngine(ScriptedEngine(events), app.state.counts)


def requests_of(api: TestClient, method: str, route: str, status: int) -> float | None:
    labels = {"method": method, "route": route, "status": str(status)}
    return value(scrape(api), "tunesmith_http_requests_total", **labels)


def test_requests_are_counted_by_the_route_and_not_by_the_path(api: TestClient, database: Database) -> None:
    for job_id in (add_job(database), add_job(database)):
        assert api.get(f"/jobs/{job_id}").status_code == 200
        assert api.head(f"/jobs/{job_id}").status_code == 200

    assert requests_of(api, "GET", "/jobs/{job_id}", 200) == 2
    assert requests_of(api, "HEAD", "/jobs/{job_id}", 200) == 2
    labels = {"method": "GET", "route": "/jobs/{job_id}"}
    assert value(scrape(api), "tunesmith_http_request_seconds_count", **labels) == 2


def test_unknown_paths_and_methods_are_one_label(api: TestClient) -> None:
    for number in range(3):
        api.request(f"MADE{number}", f"/unknown/{number}")

    found = {labels for name, labels in scrape(api) if name == "tunesmith_http_requests_total"}

    assert {dict(labels)["route"] for labels in found} <= {OTHER, "/metrics"}
    assert requests_of(api, OTHER, OTHER, 404) == 3


def test_errors_are_counted_by_their_code(api: TestClient) -> None:
    api.get("/jobs/job-unknown")
    api.get("/healthz", headers={"host": "evil.example"})
    api.get("/jobs?limt=3")

    codes = by_label(scrape(api), "tunesmith_http_errors_total", "code")

    assert sum(codes.values()) == 3
    assert codes["unknown_job"] == 1
    assert len(codes) == 3


def test_a_failure_that_nobody_expected_is_an_error_too(app: FastAPI, api: TestClient) -> None:
    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    assert api.get("/broken").status_code == 500

    assert requests_of(api, "GET", "/broken", 500) == 1
    assert value(scrape(api), "tunesmith_http_errors_total", code="internal_error") == 1


def test_a_stream_is_open_until_it_ends(app: FastAPI, database: Database) -> None:
    job_id = add_job(database)
    taken(database)

    def open_streams(client: httpx.Client) -> float | None:
        return value(scrape(client), "tunesmith_open_streams", route="/jobs/{job_id}/stream")

    with serving(app) as url, httpx.Client(base_url=url, verify=False) as client:
        with client.stream("GET", f"/jobs/{job_id}/stream"):
            wait_for("it is open", lambda: open_streams(client) == 1)
        wait_for("it is closed", lambda: open_streams(client) == 0)


def test_an_adapter_has_its_answers_tokens_and_first_tokens(
    app: FastAPI, api: TestClient, database: Database, tmp_path: Path
) -> None:
    script(app, *ANSWER)
    adapter = add_adapter(database, tmp_path).id
    for _ in range(2):
        assert api.post("/generate", json={"adapter": adapter, "prompt": "p"}).status_code == 200

    found = scrape(api)

    assert value(found, "tunesmith_generations_total", adapter=adapter, outcome="stop") == 2
    assert value(found, "tunesmith_prompt_tokens_total", adapter=adapter) == 20
    assert value(found, "tunesmith_cached_prompt_tokens_total", adapter=adapter) == 16
    assert value(found, "tunesmith_completion_tokens_total", adapter=adapter) == 8
    assert value(found, "tunesmith_generation_first_token_seconds_count", adapter=adapter) == 2


def test_what_the_engine_refuses_is_counted_by_its_code(app: FastAPI, api: TestClient) -> None:
    script(app, BUSY)

    assert api.post("/generate", json={"model": "org/model", "prompt": "p"}).status_code == 429

    found = scrape(api)
    assert value(found, "tunesmith_generations_total", adapter="base", outcome="error") == 1
    assert value(found, "tunesmith_generation_errors_total", code="engine_busy") == 1


def test_more_adapters_than_a_number_are_counted_together(
    app: FastAPI, api: TestClient, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(app, *ANSWER)
    monkeypatch.setattr(app.state.counts, "adapters", FewNames(2))
    for number in range(4):
        adapter = add_adapter(database, tmp_path / str(number)).id
        api.post("/generate", json={"adapter": adapter, "prompt": "p"})

    found = by_label(scrape(api), "tunesmith_generations_total", "adapter")

    assert len(found) == 3
    assert found[OTHER] == 2
    assert counts.MOST_ADAPTERS == 100


def test_processes_that_have_ended_hold_no_stream_open(tmp_path: Path) -> None:
    gone, kept = tmp_path / "gauge_livesum_999999999.db", tmp_path / f"gauge_livesum_{os.getpid()}.db"
    counter = tmp_path / "counter_999999999.db"
    for file in (gone, kept, counter):
        file.touch()

    forget_dead(tmp_path)

    assert [file.exists() for file in (gone, kept, counter)] == [False, True, True]


def test_one_process_counts_alone_and_the_folder_of_several_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/of/another/program")
    with counting_together(1):
        assert shared_folder() is None
    with counting_together(2):
        folder = shared_folder()
        assert folder is not None
        assert folder.is_dir()

    assert not folder.exists()
