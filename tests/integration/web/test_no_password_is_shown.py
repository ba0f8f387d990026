"""The passwords of database and broker are in no log, no answer and no line that `up` prints, also where both fail."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from redis import Redis
from sqlalchemy.engine import make_url

from app.processes.broker import _binary
from app.processes.guardian import spawn
from tests.integration.conftest import a_postgres_database
from tests.integration.engine.processes import free_port
from tests.support.waiting import wait_for

SECRET = "s3cret-of-this-test"


@pytest.fixture
def database_url() -> Iterator[str]:
    """This host's PostgreSQL trusts loopback: it takes any password."""
    for url in a_postgres_database():
        yield make_url(url).set(password=SECRET).render_as_string(hide_password=False)


def test_passwords_of_urls_are_shown_nowhere(database_url: str, tmp_path: Path) -> None:
    """While the broker refuses the password, while it takes it, and once it is away."""
    home, port, broker_port = tmp_path / "home", free_port(), free_port()
    environment = {
        **os.environ,
        "TUNESMITH_HOME": str(home),
        "TUNESMITH_PORT": str(port),
        "TUNESMITH_DATABASE_URL": database_url,
        "TUNESMITH_BROKER_URL": f"redis://:{SECRET}@127.0.0.1:{broker_port}/0",
        "TUNESMITH_ENGINE_URL": "http://127.0.0.2:9",
        "TUNESMITH_LOG_LEVEL": "DEBUG",
    }
    server = [str(_binary()), "--port", str(broker_port), "--bind", "127.0.0.1", "--requirepass", "other", "--save", ""]
    answers: list[str] = []

    def failures() -> int:
        return sum(log.read_text().count("annot connect") for log in (home / "logs").glob("trainer.log"))

    with spawn(server, output=tmp_path / "broker.log") as broker, (tmp_path / "output").open("wb") as output:
        up = subprocess.Popen([sys.executable, "-m", "app.cli", "up"], env=environment, stdout=output, stderr=output)
        try:
            wait_for("it answers", lambda: asked(port, answers, "/readyz"), 90)
            wait_for("the worker tells that it is refused", failures, 60)
            asked(port, answers, "/readyz")
            with Redis(port=broker_port, password="other") as operator:
                operator.config_set("requirepass", SECRET)
            wait_for("workers are there", lambda: len(list((home / "run" / "slots").glob("*.lock"))) == 2, 90)
            refused = failures()
            broker.kill()
            for path in ("/readyz", "/workers", "/healthz", "/jobs", "/openapi.json"):
                asked(port, answers, path)
            wait_for("the worker tells that the broker is away", lambda: failures() > refused, 60)
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(60)

    shown = [*answers, (tmp_path / "output").read_text(), *(log.read_text() for log in (home / "logs").iterdir())]
    assert len(shown) > 6
    assert not any(SECRET in text for text in shown)


def asked(port: int, answers: list[str], path: str) -> bool:
    with suppress(httpx.TransportError):
        answers.append(httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=10).text)
        return True
    return False
