"""Two equal jobs, each trained by a warm spare."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, running
from tests.support.waiting import wait_for

SPARE = "-m worker.training.spare"
READY = "a warm spare is ready"


@pytest.fixture(scope="module")
def stack(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("w") / "home"
    with running(home, {"TUNESMITH_MODELS_DIR": str(models), "TUNESMITH_WARM_SPARE": "1"}) as stack:
        yield stack


def log_of(stack: Stack) -> str:
    return (stack.home / "logs" / "trainer.log").read_text()


def wait_for_spares(stack: Stack, number: int) -> None:
    """Until so many spares have been ready, one after another."""
    wait_for(f"{number} spares", lambda: log_of(stack).count(READY) >= number, 120)


def test_equal_jobs_start_at_once_and_a_killed_worker_leaves_no_spare(stack: Stack) -> None:
    jobs = []
    for number in (1, 2):
        wait_for_spares(stack, number)
        job_id = stack.submit(training={"max_steps": 4, "learning_rate": 0.02})
        jobs.append(stack.wait(job_id, "succeeded", "failed"))

    assert [job["status"] for job in jobs] == ["succeeded", "succeeded"]
    for timings in (job["timings"] for job in jobs):
        assert timings["is_warm"]
        assert timings["import_seconds"] < 1
        assert timings["claim_seconds"] >= 0
    (worker,) = [pid for pid in stack.processes("worker.supervising.celery_app", "tunesmith.train") if is_worker(pid)]
    wait_for_spares(stack, 3)
    spares = stack.processes(SPARE)
    assert spares
    os.kill(worker, signal.SIGKILL)
    wait_for("the spare is gone", lambda: not {*spares} & {*stack.processes(SPARE)})


def is_worker(pid: int) -> bool:
    """Not its guardian, whose command line has the same words."""
    return b"guardian_process" not in Path(f"/proc/{pid}/cmdline").read_bytes()
