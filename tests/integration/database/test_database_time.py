"""Whether a worker lives is told by the clock of the database: a host whose own clock is wrong changes nothing."""

from datetime import timedelta

import pytest
from sqlalchemy import literal, select

from app.config import Settings
from app.database.connection import Database, UtcDateTime, database_time, utc_now
from app.jobs import repository
from app.jobs.models import Worker
from app.jobs.queue import claims, retention
from app.jobs.states import Stage

WITHIN = timedelta(seconds=30)
OFF = [timedelta(hours=-1), timedelta(), timedelta(hours=1)]


def show_up(database: Database, off: timedelta = timedelta()) -> None:
    """A worker whose clock is off by so much says that it is there."""
    own = utc_now() + off
    row = Worker(name="w", stage=Stage.TRAIN, host="h", device="cpu", started_at=own, last_seen=own)
    with database.writer() as session:
        claims.record_worker(session, row)
        session.commit()


def is_alive(database: Database, stage: Stage = Stage.TRAIN) -> bool:
    with database.reader() as session:
        return repository.newest_spec_version(session, stage, WITHIN) is not None


def fall_silent(database: Database, since: timedelta) -> None:
    with database.writer() as session:
        session.get_one(Worker, "w").last_seen = database_time(ago=since)
        session.commit()


@pytest.mark.parametrize("off", OFF)
def test_a_worker_is_alive_whatever_its_clock_says(database: Database, off: timedelta) -> None:
    show_up(database, off)
    show_up(database, off)

    assert is_alive(database)
    assert not is_alive(database, Stage.CHECK)


def test_a_worker_that_was_silent_for_longer_is_not_alive(database: Database) -> None:
    show_up(database)

    fall_silent(database, WITHIN + timedelta(seconds=1))
    assert not is_alive(database)
    fall_silent(database, WITHIN - timedelta(seconds=5))
    assert is_alive(database)


def test_the_clock_of_the_database_is_read_as_any_moment(database: Database) -> None:
    with database.reader() as session:
        now, before = session.execute(select(database_time(), database_time(ago=timedelta(hours=1.5)))).one()

    assert abs(now - utc_now()) < timedelta(seconds=5)
    assert timedelta(0) <= abs((now - before) - timedelta(hours=1.5)) < timedelta(seconds=1)


def test_moments_of_the_database_are_compared_as_moments(database: Database) -> None:
    """SQLite compares them as texts."""
    near = timedelta(seconds=2)
    with database.reader() as session:
        for moment, is_later in ((utc_now() + near, True), (utc_now() - near, False)):
            asked = literal(moment, UtcDateTime()) > database_time()
            assert bool(session.scalar(select(asked))) is is_later


@pytest.mark.parametrize(("silent", "stays"), [(timedelta(hours=23), True), (timedelta(hours=25), False)])
def test_a_worker_that_is_gone_is_forgotten(
    database: Database, settings: Settings, silent: timedelta, stays: bool
) -> None:
    show_up(database)
    fall_silent(database, silent)

    retention.sweep(database, settings)

    with database.reader() as session:
        assert bool(repository.workers(session)) is stays
