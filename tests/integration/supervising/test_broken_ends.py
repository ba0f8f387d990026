"""Attempts that meet a disk that is full, or files that are gone: no job may be lost by it."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from app.database.connection import Database
from app.jobs import repository
from app.jobs.models import Checkpoint
from app.jobs.states import JobStatus
from app.scope import EVERY_PROJECT
from tests.support.disks import filled, small_disk
from tests.support.jobs import read
from tests.support.workers import add_training, claim_next, settings_of, skip_pause, slot_acquired
from worker.supervising.lifecycle import run_until_idle, work_on


def test_a_disk_that_is_full_before_the_training_begins_pauses_the_job(database: Database, tmp_path: Path) -> None:
    job_id = add_training(database)
    with (
        small_disk(tmp_path / "small", 2) as home,
        slot_acquired(settings_of(home, max_attempts=1), database) as context,
        filled(home),
    ):
        run_until_idle(context)
        job = read(database, job_id)

    assert job.status is JobStatus.PAUSED
    assert job.error is not None
    assert job.error["code"] == "disk_full"


def test_an_adapter_that_cannot_be_placed_is_placed_by_the_next_attempt(database: Database, home: Path) -> None:
    job_id = add_training(database)
    home.mkdir()
    (home / "adapters").write_text("in the way")
    with slot_acquired(settings_of(home), database) as context:
        run_until_idle(context)
        waiting = read(database, job_id)
        (home / "adapters").unlink()
        skip_pause(database, job_id)
        run_until_idle(context)

    assert (waiting.status, waiting.worker) == (JobStatus.QUEUED, None)
    assert read(database, job_id).status is JobStatus.SUCCEEDED
    assert len(list((home / "jobs" / job_id).glob("attempts/*/events.jsonl"))) == 1  # no step was trained again


def lose_folder(database: Database, job_id: str, listed: dict[int, Path]) -> None:
    """What a trainer leaves that dies between the removal of a checkpoint and its event."""
    shutil.rmtree(listed[2])


def lose_row(database: Database, job_id: str, listed: dict[int, Path]) -> None:
    """What a trainer leaves that dies between a checkpoint and its event."""
    with database.writer() as session:
        session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.step == 4))
        session.commit()


@pytest.mark.parametrize(("lose", "steps"), [(lose_folder, [4, 6, 8]), (lose_row, [2, 4, 6, 8])])
def test_the_checkpoints_that_are_there_are_listed_when_the_job_goes_on(
    database: Database, home: Path, lose: Callable[[Database, str, dict[int, Path]], None], steps: list[int]
) -> None:
    job_id = add_training(database, save_every=2, at=5, does="dies")
    with slot_acquired(settings_of(home), database) as context:
        run_until_idle(context)
        before = _listed(database, home, job_id)
        lose(database, job_id, before)
        for _ in range(2):  # the first of them dies too
            skip_pause(database, job_id)
            run_until_idle(context)
    with database.reader() as session:
        made_by = {one.step: one.epoch for one in repository.checkpoints(session, EVERY_PROJECT, job_id)}

    assert (sorted(before), sorted(made_by)) == ([2, 4], steps)
    assert made_by[4] == int(before[4].name.rpartition("-")[2])


def _listed(database: Database, home: Path, job_id: str) -> dict[int, Path]:
    with database.reader() as session:
        return {one.step: home / one.path for one in repository.checkpoints(session, EVERY_PROJECT, job_id)}


class Away(Session):
    """A session of a database that takes some commits and is away after that, until `back_at` of `time.monotonic`."""

    left = 0
    back_at = 0.0

    def commit(self) -> None:
        Away.left -= 1
        if Away.left < 0 and time.monotonic() < Away.back_at:
            raise OperationalError("COMMIT", {}, Exception("away"))
        super().commit()


def test_a_training_that_its_guardian_ends_since_the_database_is_away_did_nothing_wrong(
    database: Database, home: Path
) -> None:
    """It hangs in a call and makes no checkpoint when it is asked to, as one does that still loads its model."""
    job_id = add_training(database, at=2, does="hangs")
    settings = settings_of(home, lease_seconds=1.2, max_attempts=1)
    with slot_acquired(settings, database) as context:
        context.database.writer = sessionmaker(database.engine, class_=Away, expire_on_commit=False)
        Away.left, Away.back_at = 8, time.monotonic() + 3
        work_on(context, claim_next(context))

    assert read(database, job_id).status is JobStatus.QUEUED
    with database.reader() as session:
        assert [one.outcome for one in repository.attempts(session, EVERY_PROJECT, job_id)] == ["interrupted"]
