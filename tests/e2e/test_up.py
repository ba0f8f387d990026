"""`tunesmith up` leaves nothing behind, however it ends, and starts again on what it left."""

import signal
from pathlib import Path

import pytest

from app.processes.log_rotation import MAX_BYTES
from tests.e2e.stack import Stack, running
from tests.support.waiting import wait_for


@pytest.fixture
def env(models: Path) -> dict[str, str]:
    return {"TUNESMITH_MODELS_DIR": str(models)}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running_and_jobs_are_still_there(tmp_path: Path, env: dict[str, str], how: int) -> None:
    with running(tmp_path / "home", env) as stack:
        job_id = stack.submit()
        stack.process.send_signal(how)
        stack.process.wait(30)
        wait_for("nothing is left running", lambda: not stack.processes(), 30)
    with running(tmp_path / "home", env) as again:
        assert again.job(job_id)["id"] == job_id


def test_a_second_service_on_one_home_is_refused(embedded: Stack) -> None:
    with pytest.raises(AssertionError, match="already runs"), running(embedded.home, {}):
        pass
    assert embedded.api.get("/healthz").status_code == 200


def test_the_logs_of_the_services_stay_small(embedded: Stack) -> None:
    log = embedded.home / "logs" / "api.log"
    with log.open("ab") as chatty:
        chatty.write((b"x" * 99 + b"\n") * (MAX_BYTES // 100 + 1))

    wait_for("it is moved away", lambda: log.stat().st_size < MAX_BYTES)

    assert embedded.api.get("/healthz").status_code == 200
    wait_for("what is written now stands in it", lambda: b"/healthz" in log.read_bytes())
    assert log.with_name("api.log.1").stat().st_size <= MAX_BYTES + 2**20
