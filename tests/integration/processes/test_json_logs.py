"""Real processes that log JSON: every line of them is an object, and requests are followed from API to engine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from app.config import Settings
from app.database.migrate import upgrade
from app.processes.environments import Process, environment_of
from tests.support.waiting import wait_for

SECONDS_TO_START = 90


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_api_logs_objects_with_the_id_of_the_request(settings: Settings, tmp_path: Path) -> None:
    settings.root.mkdir()
    upgrade(settings.database)
    log = tmp_path / "api.log"
    chosen = {"TUNESMITH_HOME": str(settings.root), "TUNESMITH_PORT": "0", "TUNESMITH_LOG_FORMAT": "json"}
    argv = [sys.executable, "-m", "app.serve"]
    with log.open("wb") as out, subprocess.Popen(argv, env={**os.environ, **chosen}, stdout=out, stderr=out) as api:
        try:
            wait_for("it listens", lambda: "running on" in log.read_text(), SECONDS_TO_START)
            url = next(line["message"].split()[3] for line in lines_of(log) if "running on" in line["message"])
            (settings.root / "tunesmith.db").unlink()
            httpx.get(f"{url}/jobs/job-{'a' * 24}", headers={"x-request-id": "req-of-mine"})
            wait_for("it has failed", lambda: "req-of-mine" in log.read_text())
        finally:
            api.terminate()

    about = [line for line in lines_of(log) if line.get("request_id") == "req-of-mine"]
    assert {line["level"] for line in about} >= {"error"}
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines_of(log))


def test_a_worker_logs_objects(settings: Settings, tmp_path: Path) -> None:
    settings.root.mkdir()
    script = (
        "from worker.supervising.celery_app import app\n"
        "app.log.setup(loglevel='INFO')\n"
        "import logging; logging.getLogger('celery.worker').warning('ready')"
    )
    chosen = {"TUNESMITH_HOME": str(settings.root), "TUNESMITH_LOG_FORMAT": "json"}
    ended = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **chosen}, capture_output=True, text=True, check=True
    )

    (line,) = [json.loads(line) for line in ended.stderr.splitlines()]
    assert (line["logger"], line["message"]) == ("celery.worker", "ready")


def test_the_engine_is_told_the_form() -> None:
    assert environment_of(Process.ENGINE, {"TUNESMITH_LOG_FORMAT": "json"}) == {"TUNESMITH_LOG_FORMAT": "json"}
