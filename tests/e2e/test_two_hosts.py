"""Two hosts with homes of their own, one database and one store: a job trains on the second what the first had begun.

The first host is killed with `kill -9`, and its home is removed.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Stack, running
from tests.e2e.test_resuming import EXACT, curve, trainings
from tests.support.s3_server import S3Server, serving_s3
from tests.support.waiting import wait_for

STEPS = 60
JOB: dict[str, Any] = {**EXACT, "training": {**EXACT["training"], "max_steps": STEPS, "save_steps": 3}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with serving_s3(tmp_path / "s3") as server:
        yield server


def host_of(server: S3Server, models: Path, folder: Path) -> dict[str, str]:
    """The variables of every host. A dead one is given up soon."""
    return {
        **server.environment,
        "TUNESMITH_MODELS_DIR": str(models),
        "TUNESMITH_DATABASE_URL": f"sqlite:///{folder / 'shared.db'}",
        "TUNESMITH_LEASE_SECONDS": "4",
        "TUNESMITH_HEARTBEAT_SECONDS": "0.3",
        "TUNESMITH_GRACE_SECONDS": "1",
    }


def lose(stack: Stack) -> None:
    """Kill all of a host at once, and remove its home."""
    for pid in stack.processes():
        os.kill(pid, signal.SIGKILL)
    stack.process.wait()
    wait_for("nothing is left running", lambda: not stack.processes())
    shutil.rmtree(stack.home)
    (stack.home / "run").mkdir(parents=True)  # `running` looks for what is left


def stored_steps(server: S3Server, job_id: str) -> list[int]:
    manifests = server.objects.glob(f"manifests/jobs/{job_id}/checkpoints/step-*.json")
    return [int(path.name.split("-")[1]) for path in manifests]


def test_a_job_goes_on_where_its_host_was_lost(models: Path, tmp_path: Path, server: S3Server) -> None:
    env = host_of(server, models, tmp_path)
    with running(tmp_path / "a", env) as first:
        quiet = first.wait(first.submit(**JOB), "succeeded", "failed")
        expected = curve(first, quiet["id"])
        job_id = first.submit(**JOB)
        wait_for("a checkpoint is stored", lambda: max(stored_steps(server, job_id), default=0) >= 6, 60)
        lose(first)
    saved = max(stored_steps(server, job_id))
    with running(tmp_path / "b", env) as second:
        job = second.wait(job_id, "succeeded", "failed", seconds=200)
        answer, fetched = second.generate(adapter=job_id), second.generate(adapter=quiet["id"])
        data = second.api.get(f"/jobs/{job_id}/data").json()
        log = second.api.get(f"/jobs/{quiet['id']}/logs").json()
        tar = second.api.get(f"/artifacts/{quiet['adapter_id']}/content")

        assert (quiet["status"], job["status"]) == ("succeeded", "succeeded"), (quiet["error"], job["error"])
        assert curve(second, job_id) == expected
        assert len(expected) == STEPS
        assert 6 <= trainings(job)[-1]["resume_step"] == saved < STEPS
        assert (answer.status_code, answer.json()["model"]) == (200, job["result"]["adapter"])
        assert (fetched.status_code, fetched.json()["model"]) == (200, quiet["result"]["adapter"])
        assert data["rows"] == 16
        assert log["text"]
        assert tar.status_code == 200
