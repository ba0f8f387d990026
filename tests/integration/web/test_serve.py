"""The API as several processes on one port: each answers, one that dies is replaced, none outlives the first."""

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.config import Settings
from app.database.migrate import upgrade
from app.metrics.processes import PREFIX
from app.serve import most_connections
from tests.support.scraping import scrape, value
from tests.support.waiting import wait_for

SECONDS_TO_START = 90


@pytest.fixture
def url(settings: Settings) -> str:
    settings.root.mkdir()
    upgrade(settings.database)
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def service(settings: Settings, url: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    _, _, port = url.rpartition(":")
    chosen = {
        "TUNESMITH_HOME": str(settings.root),
        "TUNESMITH_PORT": port,
        "TUNESMITH_API_PROCESSES": "2",
        "TMPDIR": str(tmp_path),
    }

    def allow_few_files() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))

    argv = [sys.executable, "-m", "app.serve"]
    with subprocess.Popen(argv, env={**os.environ, **chosen}, preexec_fn=allow_few_files) as process:
        try:
            wait_for("it answers", lambda: is_healthy(url), SECONDS_TO_START)
            wait_for("both do", lambda: len(serving(process.pid)) == 2, SECONDS_TO_START)
            yield process
        finally:
            process.terminate()


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").is_success
    except httpx.TransportError:
        return False


def serving(parent: int) -> list[int]:
    """The processes that answer, and not the one that multiprocessing starts beside them."""
    children = Path("/proc", str(parent), "task", str(parent), "children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path("/proc", child, "cmdline").read_bytes()]


def test_several_processes_end_and_are_replaced_as_one(
    service: subprocess.Popen[bytes], url: str, tmp_path: Path
) -> None:
    first, second = serving(service.pid)
    assert " 200 " not in Path("/proc", str(second), "limits").read_text()  # of open files

    os.kill(first, signal.SIGKILL)
    wait_for("another one serves", lambda: first not in serving(service.pid) and len(serving(service.pid)) == 2, 90)
    assert is_healthy(url)
    left = serving(service.pid)
    service.kill()
    service.wait()

    wait_for("all are gone", lambda: not any(is_running(pid) for pid in left), SECONDS_TO_START)
    assert not [*tmp_path.glob(f"{PREFIX}*")]
    assert not is_healthy(url)


def test_several_processes_count_together(service: subprocess.Popen[bytes], url: str) -> None:
    def health_checks() -> float | None:
        with httpx.Client(base_url=url) as client:
            return value(scrape(client), "tunesmith_http_requests_total", method="GET", route="/healthz", status="200")

    before = health_checks() or 0
    for _ in range(20):  # each on a connection of its own, which either process may take
        assert is_healthy(url)
    assert {health_checks() for _ in range(10)} == {before + 20}

    os.kill(serving(service.pid)[0], signal.SIGKILL)
    wait_for("the other one answers", lambda: is_healthy(url), SECONDS_TO_START)

    assert (health_checks() or 0) >= before + 20


def is_running(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_signal_ends_all_of_them(service: subprocess.Popen[bytes], url: str) -> None:
    children = serving(service.pid)

    service.terminate()
    service.wait(30)

    assert not any(is_running(pid) for pid in children)


def test_connections_leave_descriptors_for_the_database() -> None:
    assert most_connections(1024) == 768
    assert most_connections(300) == 150
    assert most_connections(10**6) == 10_000
