"""Attempts that meet a disk that is full, or files that are gone: no job may be lost by it."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from app.database.connection import Database
from app.jobs import repository
from app.jobs.models import Checkpoint, Job
from app.jobs.queue.claims import Claim
from app.jobs.states import JobStatus
from tests.support.jobs import read
from tests.support.workers import add_training, settings_of, slot_acquired
from worker.supervising.lifecycle import run_until_idle, take, work_on


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Path]:
    """A home on a disk of its own, of which 2 MiB can be filled."""
    home = tmp_path / "small"
    home.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(home)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield home
    subprocess.run(["umount", "--lazy", str(home)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass


def work(database: Database, home: Path) -> None:
    with slot_acquired(settings_of(home, max_attempts=1), database) as context:
        run_until_idle(context)


def resume(database: Database, job_id: str) -> None:
    with database.writer() as session:
        job = session.get_one(Job, job_id)
        job.status, job.run_after = JobStatus.QUEUED, None
        session.commit()


def test_a_disk_that_is_full_before_the_training_begins_pauses_the_job(database: Database, small_home: Path) -> None:
    job_id = add_training(database)
    with slot_acquired(settings_of(small_home, max_attempts=1), database) as context:
        fill(small_home / "ballast")
        run_until_idle(context)
        job = read(database, job_id)
        (small_home / "ballast").unlink()

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
        resume(database, job_id)
        run_until_idle(context)

    assert (waiting.status, waiting.worker) == (JobStatus.QUEUED, None)
    assert read(database, job_id).status is JobStatus.SUCCEEDED
    folders = os.listdir(home / "jobs" / job_id / "attempts")
    assert (
        len([name for name in folders if (home / "jobs" / job_id / "attempts" / name / "events.jsonl").exists()]) == 1
    )


def test_a_checkpoint_that_is_gone_is_listed_no_more(database: Database, home: Path) -> None:
    """A trainer that dies between the removal of a checkpoint and its event leaves the row."""
    job_id = add_training(database, save_every=2, at=5, does="dies")
    with slot_acquired(settings_of(home), database) as context:
        run_until_idle(context)
        listed = _listed(database, home, job_id)
        shutil.rmtree(listed[2])
        for _ in range(2):  # the first of them dies too
            resume(database, job_id)
            run_until_idle(context)

    assert sorted(listed) == [2, 4]
    assert sorted(_listed(database, home, job_id)) == [4, 6, 8]


def test_a_checkpoint_whose_event_was_never_written_is_listed_when_the_job_goes_on(
    database: Database, home: Path
) -> None:
    """A trainer that is killed between a checkpoint and its event leaves no row."""
    job_id = add_training(database, save_every=2, at=5, does="dies")
    with slot_acquired(settings_of(home), database) as context:
        run_until_idle(context)
        listed = _listed(database, home, job_id)
        with database.writer() as session:
            session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.step == 4))
            session.commit()
        for _ in range(2):  # the first of them dies too
            resume(database, job_id)
            run_until_idle(context)

    with database.reader() as session:
        kept = {one.step: one.epoch for one in repository.checkpoints(session, job_id)}
    assert sorted(listed) == [2, 4]
    assert kept[4] == int(listed[4].name.rpartition("-")[2])
    assert sorted(kept) == [2, 4, 6, 8]


def _listed(database: Database, home: Path, job_id: str) -> dict[int, Path]:
    with database.reader() as session:
        return {one.step: home / one.path for one in repository.checkpoints(session, job_id)}


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
    settings = settings_of(home, lease_seconds=2.4, max_attempts=1)
    with slot_acquired(settings, database) as context:
        context.database.writer = sessionmaker(database.engine, class_=Away, expire_on_commit=False)
        Away.left, Away.back_at = 8, time.monotonic() + 6
        job = take(context)
        assert job is not None
        work_on(context, Claim(job.id, job.epoch, context.stage, context.name), job)

    assert read(database, job_id).status is JobStatus.QUEUED
    with database.reader() as session:
        assert [one.outcome for one in repository.attempts(session, job_id)] == ["interrupted"]
