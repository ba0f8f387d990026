"""Traces as a receiver of OTLP gets them: one for a request from API to engine, and one for a job with its attempts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.database.connection import Database
from app.generate.client import HttpEngineClient
from app.jobs.models import Job
from app.jobs.states import JobStatus, RequestedAction
from app.processes.traces import VARIABLE, start_tracing
from tests.integration.engine.processes import EngineProcess
from tests.support.jobs import read
from tests.support.jobs_api import an_api, hub_body
from tests.support.otlp_receiver import Receiver, receiving
from tests.support.waiting import wait_for
from tests.support.workers import settings_of, slot_acquired
from worker.supervising.lifecycle import run_until_idle

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE}-{CLIENT}-01", "x-request-id": "req-of-mine"}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as receiver:
        monkeypatch.setenv(VARIABLE, receiver.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield receiver


@pytest.fixture
def api(receiver: Receiver, settings: Settings, database: Database, database_url: str) -> Iterator[TestClient]:
    settings.root.mkdir()
    with an_api(settings, database_url) as client:
        yield client


def test_a_request_and_what_it_asks_of_the_engine_are_one_trace(receiver: Receiver, api: TestClient) -> None:
    with EngineProcess() as engine:
        api.app.state.engine = HttpEngineClient(engine.address)  # type: ignore[attr-defined]
        api.post("/generate", json={"model": "org/model", "prompt": "a secret prompt"}, headers=SENT)
        wait_for("the engine has sent its span", lambda: any("engine" in one.service for one in receiver.spans))
        wait_for("the API too", lambda: any("api" in one.service for one in receiver.spans))

    (asked,) = [span for span in receiver.spans if span.service == "tunesmith-api"]
    (answered,) = [span for span in receiver.spans if span.service == "tunesmith-engine"]
    assert (asked.trace, asked.parent, asked.name) == (TRACE, CLIENT, "POST /generate")
    assert (answered.trace, answered.parent, answered.name) == (TRACE, asked.id, "POST /generate")
    assert asked.attributes["tunesmith.request_id"] == "req-of-mine"
    assert "secret" not in repr(receiver.spans)


def test_the_attempts_of_a_job_belong_to_the_request_that_made_it(
    receiver: Receiver, api: TestClient, database: Database, settings: Settings
) -> None:
    job_id = api.post("/jobs", json=hub_body(), headers=SENT).json()["id"]
    stored = read(database, job_id).traceparent
    assert stored is not None
    with database.writer() as session:
        job = session.get_one(Job, job_id)
        job.status, job.requested_action = JobStatus.QUEUED, RequestedAction.CANCEL
        session.commit()
    tracing = start_tracing("tunesmith-worker")
    assert tracing is not None

    with slot_acquired(settings_of(settings.root), database) as context:
        run_until_idle(replace(context, tracing=tracing))
    tracing.close()

    wait_for("the API has sent its span", lambda: receiver.named("POST /jobs"))
    made, attempt = receiver.named("POST /jobs"), receiver.named("attempt train")
    assert made is not None
    assert attempt is not None
    assert (attempt.trace, attempt.parent) == (TRACE, made.id)
    assert attempt.attributes["tunesmith.job_id"] == job_id
    assert attempt.attributes["tunesmith.outcome"] == "cancelled"


def test_health_checks_have_no_spans(receiver: Receiver, api: TestClient) -> None:
    for path in ("/healthz", "/workers"):
        assert api.get(path).status_code == 200

    wait_for("it has sent", lambda: receiver.spans)
    assert [span.name for span in receiver.spans] == ["GET /workers"]


def test_what_makes_and_sends_spans_is_not_loaded_when_it_is_off(settings: Settings) -> None:
    settings.root.mkdir()
    script = (
        "import sys\nfrom app.main import create_app\napp = create_app()\n"
        "assert app.state.tracing is None\n"
        "loaded = [name.split('.')[:3] for name in sys.modules]\n"
        "print([name for name in loaded if name[:2] == ['opentelemetry', 'exporter'] or name[1:] == ['sdk', 'trace']])"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**env, "TUNESMITH_HOME": str(settings.root)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ended.stdout.strip() == "[]"
