"""Training and serving in one place: the engine steps aside for a job and comes back, whatever befalls the worker."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import MODEL, Stack, running
from tests.support.waiting import wait_for

LEASE_SECONDS = 40
LONG = {"max_steps": 150, "learning_rate": 0.005, "warmup_steps": 1}


@pytest.fixture(scope="module")
def alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service whose trainings never share what they run on."""
    env = {
        "TUNESMITH_MODELS_DIR": str(models),
        "TUNESMITH_GPU_SHARING": "never",
        "TUNESMITH_LEASE_SECONDS": str(LEASE_SECONDS),
    }
    with running(tmp_path_factory.mktemp("g") / "home", env) as stack:
        yield stack


def test_the_engine_makes_room_for_a_job_and_answers_again_once_it_is_done(alone: Stack) -> None:
    before = alone.generate(model=MODEL)
    job_id = alone.submit(training=LONG)
    alone.wait_for_step(job_id, 2)
    refused, readiness = alone.generate(model=MODEL), alone.api.get("/readyz")
    job = alone.wait(job_id, "succeeded", "failed")
    after, adapted = alone.generate(model=MODEL), alone.generate(adapter=job_id)

    assert job["status"] == "succeeded", job["error"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert job_id in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) > 0
    assert (readiness.status_code, readiness.json()["status"]) == (200, "degraded")
    assert readiness.json()["engine_reason"] == refused.json()["error"]["message"]
    assert job["result"]["verification"]["proved"]
    assert after.json()["text"] == before.json()["text"]
    assert adapted.status_code == 200


def test_the_engine_comes_back_by_itself_when_the_worker_was_killed(alone: Stack) -> None:
    job_id = alone.submit(training={**LONG, "max_steps": 100_000})
    alone.wait_for_step(job_id, 2)
    for pid in alone.processes("celery", "trainer0"):
        os.kill(pid, signal.SIGKILL)
    alone.api.post(f"/jobs/{job_id}/cancel")
    refused = alone.generate(model=MODEL)
    wait_for("the engine is back", lambda: alone.generate(model=MODEL).status_code == 200, LEASE_SECONDS + 20)
    trainers = alone.processes("-m worker.training", job_id)
    job = alone.wait(job_id, "cancelled", "succeeded", "failed")

    assert refused.status_code == 503
    assert trainers == []
    assert job["status"] == "cancelled"
