"""The health check of a worker's container."""

import socket

import pytest

from app.database.connection import Database
from tests.support.jobs import add_worker
from worker.supervising.alive import SILENCE, is_alive

NAME = f"trainer0@{socket.gethostname()}"


@pytest.mark.parametrize(
    ("seconds", "name", "expected"),
    [(0, NAME, True), (2 * SILENCE.total_seconds(), NAME, False), (0, "trainer1@elsewhere", False)],
    ids=["seen", "silent", "another"],
)
def test_a_worker_is_alive_while_it_shows_itself(database: Database, seconds: float, name: str, expected: bool) -> None:
    add_worker(database, seconds_ago=seconds, name=name)

    assert is_alive(database, NAME) is expected
