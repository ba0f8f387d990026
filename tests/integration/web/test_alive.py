"""The health check of a worker's container."""

import socket
from datetime import timedelta

import pytest

from app.database.connection import Database, utc_now
from app.jobs.models import CPU, Worker
from app.jobs.states import Stage
from worker.supervising.alive import SILENCE, is_alive

NAME = f"trainer0@{socket.gethostname()}"


@pytest.mark.parametrize(
    ("silent_for", "name", "expected"),
    [(timedelta(0), NAME, True), (SILENCE * 2, NAME, False), (timedelta(0), "trainer1@elsewhere", False)],
    ids=["seen", "silent", "another"],
)
def test_a_worker_is_alive_while_it_shows_itself(
    database: Database, silent_for: timedelta, name: str, expected: bool
) -> None:
    seen = utc_now() - silent_for
    with database.writer() as session:
        session.add(Worker(name=name, stage=Stage.TRAIN, host="h", device=CPU, started_at=seen, last_seen=seen))
        session.commit()

    assert is_alive(database, NAME) is expected
