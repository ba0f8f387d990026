"""`tunesmith up` with a vLLM that its engine starts: a base is answered through it, and nothing of it is left."""

import signal
from pathlib import Path

import pytest

from app.contracts.vllm import COMMAND_VARIABLE
from tests.e2e.stack import MODEL, running
from tests.integration.engine.vllms import recorded_command, writers
from tests.support.waiting import wait_for


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_managed_vllm_answers_and_ends_with_the_service(tmp_path: Path, models: Path, how: int) -> None:
    env = {"TUNESMITH_MODELS_DIR": str(models), COMMAND_VARIABLE: recorded_command()}
    log = tmp_path.resolve() / "home" / "logs" / "vllm.log"

    with running(tmp_path / "home", env) as stack:
        answer = stack.generate(model=MODEL)
        servers = writers(log)
        stack.process.send_signal(how)
        stack.process.wait(30)
        wait_for("nothing is left running", lambda: not stack.processes() and not writers(log), 30)

    assert answer.status_code == 200, answer.text
    assert len(servers) == 3  # the guardian, the server, and what that has started
    assert f"serves {models / MODEL}" in log.read_text()
