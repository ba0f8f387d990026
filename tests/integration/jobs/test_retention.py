"""What is removed from the disk, and what never is: a row and its files go together, and no crash leaves one behind."""

import logging
import os
import shutil
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.config import Settings
from app.database import installation
from app.database.connection import Database, utc_now
from app.files.models import File
from app.ids import new_id
from app.jobs import repository
from app.jobs.lineage import find as find_adapter
from app.jobs.models import Job
from app.jobs.queue import retention
from app.jobs.queue.orphans import ORPHAN_AFTER_SECONDS, sweep_orphans
from app.jobs.states import ALIVE, ENDED, JobStatus
from app.scope import EVERY_PROJECT
from app.trash import TRASH
from tests.support.jobs import NOW, add_job
from tests.support.jobs_api import an_api
from tests.support.scripted_engine import add_adapter
from tests.support.waiting import wait_for

OLD = ORPHAN_AFTER_SECONDS + 60


@pytest.fixture
def root(settings: Settings) -> Path:
    for name in ("jobs", "adapters", "files"):
        (settings.root / name).mkdir(parents=True)
    return settings.root


@pytest.fixture
def known(database: Database, root: Path) -> set[Path]:
    """One of each kind, with its row; as old as the rest."""
    job_id, file_id = add_job(database, JobStatus.SUCCEEDED), new_id("file")
    adapter = add_adapter(database, root / "adapters")
    file = File(
        id=file_id,
        filename="a.jsonl",
        purpose="fine-tune",
        bytes=1,
        sha256="ab",
        format="jsonl",
        layout=None,
        records=1,
        report={},
        created_at=NOW,
    )
    with database.writer() as session:
        session.add(file)
        session.commit()
    return {a_folder(root / "jobs" / job_id), age(root / "adapters" / adapter.id), a_file(root / "files" / file_id)}


def age(path: Path, seconds: float = OLD) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)
    return path


def a_folder(path: Path, seconds: float = OLD) -> Path:
    (path / "attempts" / "1").mkdir(parents=True)
    (path / "attempts" / "1" / "order.json").write_text("{}")
    return age(path, seconds)


def a_file(path: Path, seconds: float = OLD) -> Path:
    path.write_text("{}\n")
    return age(path, seconds)


def entries(root: Path) -> set[Path]:
    """What lies there, but for the trash."""
    found = {path for name in ("jobs", "adapters", "files") for path in (root / name).iterdir()}
    return {path for path in found if path.name != TRASH}


def test_what_no_row_knows_is_removed_and_what_a_row_knows_stays(
    database: Database, settings: Settings, root: Path, known: set[Path]
) -> None:
    ended = add_job(database, JobStatus.FAILED)
    orphans = {
        a_folder(root / "jobs" / new_id("job")),
        a_folder(root / "adapters" / ended.replace("job-", "adapter-")),
        a_file(root / "files" / new_id("file")),
        a_folder(root / "jobs" / f".deleted-{new_id('job')}"),
        a_folder(root / "adapters" / ".deleted-v1"),
    }

    assert set(sweep_orphans(database, settings)) == orphans
    assert entries(root) == known


@pytest.mark.usefixtures("known")
def test_what_is_young_stays(database: Database, settings: Settings, root: Path) -> None:
    young = {
        a_folder(root / "jobs" / new_id("job"), ORPHAN_AFTER_SECONDS - 60),
        a_file(root / "files" / new_id("file"), 0),
        a_folder(root / "jobs" / f".deleted-{new_id('job')}", 0),
    }

    assert sweep_orphans(database, settings) == []
    assert young <= entries(root)


OTHER_ID = "a" * 24


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    "name",
    [
        "jobs/notes",
        "jobs/job-notes",
        "jobs/.hidden",
        f"jobs/adapter-{OTHER_ID}",
        f"jobs/job-{OTHER_ID}.bak",
        f"jobs/JOB-{OTHER_ID.upper()}",
        "adapters/adapter-of-the-operator",
        f"files/.partial-file-{OTHER_ID}",
        "files/file-\udcff",
        f"models/job-{OTHER_ID}",
    ],
)
def test_what_bears_another_name_is_left_alone(database: Database, settings: Settings, root: Path, name: str) -> None:
    stranger = a_folder(root / name)

    assert sweep_orphans(database, settings) == []
    assert stranger.is_dir()


@pytest.mark.usefixtures("known")
def test_of_a_link_only_the_link_is_removed(database: Database, settings: Settings, root: Path, tmp_path: Path) -> None:
    elsewhere = a_folder(tmp_path / "elsewhere")
    links = [root / "jobs" / new_id("job"), root / "adapters" / ".deleted-x", root / "files" / new_id("file")]
    for link in links:
        link.symlink_to(elsewhere)
        age(link)
    inside = a_folder(root / "jobs" / new_id("job"))
    (inside / "data").symlink_to(elsewhere)
    age(inside)

    assert set(sweep_orphans(database, settings)) == {*links, inside}
    assert (elsewhere / "attempts" / "1" / "order.json").is_file()


def test_folders_that_are_links_themselves_are_swept(
    database: Database, settings: Settings, root: Path, known: set[Path], tmp_path: Path
) -> None:
    """As an operator keeps them on a larger disk."""
    shutil.move(root / "jobs", tmp_path / "large")
    (root / "jobs").symlink_to(tmp_path / "large")
    orphan = a_folder(root / "jobs" / new_id("job"))

    assert sweep_orphans(database, settings) == [orphan]
    assert entries(root) == known


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("status", JobStatus)
def test_an_adapter_whose_job_has_not_stored_it_yet_is_kept(
    database: Database, settings: Settings, root: Path, status: JobStatus
) -> None:
    """It was moved to its place by a worker that died, or waits for the database: the next attempt finds it there."""
    job_id = add_job(database, status)
    placed = a_folder(root / "adapters" / job_id.replace("job-", "adapter-"))
    sweep_orphans(database, settings)

    assert placed.is_dir() == (status not in ENDED)


@pytest.mark.usefixtures("known")
def test_an_adapter_of_which_the_database_knows_no_job_is_kept(
    database: Database, settings: Settings, root: Path
) -> None:
    """The database may be an older copy that was restored."""
    trained = a_folder(root / "adapters" / new_id("adapter"))
    sweep_orphans(database, settings)

    assert trained.is_dir()


def test_nothing_is_removed_for_a_database_that_knows_nothing_of_a_folder(
    database: Database, settings: Settings, root: Path
) -> None:
    """An operator who names another database loses nothing by it, even where he has said that it belongs here."""
    installation.mark(root, installation.of_database(database))
    left = {a_folder(root / "jobs" / new_id("job")), a_folder(root / "adapters" / new_id("adapter"))}
    a_folder(root / "jobs" / f".deleted-{new_id('job')}")
    sweep_orphans(database, settings)

    assert entries(root) == left


def test_a_home_without_folders_is_swept(database: Database, settings: Settings) -> None:
    assert sweep_orphans(database, settings) == []


@pytest.mark.usefixtures("known")
def test_the_api_sweeps_when_it_starts(database_url: str, settings: Settings, root: Path) -> None:
    orphan = a_folder(root / "jobs" / new_id("job"))
    with an_api(settings, database_url):
        wait_for("the orphan is gone", lambda: not orphan.exists())


def test_a_sweep_that_fails_is_logged_and_the_api_runs(
    settings: Settings, tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a_folder(root / "jobs" / new_id("job"))
    with caplog.at_level(logging.ERROR, "app.main"), an_api(settings, f"sqlite:///{tmp_path / 'empty.db'}") as api:
        wait_for("it is logged", lambda: "could not be removed" in caplog.text)
        assert api.get("/healthz").status_code == 200


@pytest.mark.parametrize("left", [".deleted-{}", None], ids=["after a removal that was cut off", "at once"])
def test_a_deleted_job_is_gone_with_its_files(
    api: TestClient, database: Database, settings: Settings, root: Path, left: str | None
) -> None:
    job_id = add_job(database, JobStatus.FAILED)
    a_folder(settings.job_dir(job_id))
    if left is not None:
        a_folder(root / "jobs" / left.format(job_id))

    assert api.delete(f"/jobs/{job_id}").status_code == 200
    assert not settings.job_dir(job_id).exists()
    assert left is not None or entries(root) == set()
    assert api.get(f"/jobs/{job_id}").status_code == 404


def go_away(_: Session) -> None:
    raise OperationalError("COMMIT", None, Exception("the database is away"))


def test_a_removal_that_the_database_does_not_take_leaves_rows_and_files(
    database: Database, settings: Settings
) -> None:
    job_id = add_job(database, JobStatus.FAILED)
    folder = a_folder(settings.job_dir(job_id))
    with database.writer() as session:
        event.listen(session, "before_commit", go_away)
        with pytest.raises(OperationalError):
            retention.remove(session, EVERY_PROJECT, settings, job_id)

    assert (folder / "attempts" / "1" / "order.json").is_file()
    with database.reader() as session:
        assert repository.get(session, EVERY_PROJECT, job_id) is not None
        assert len(repository.events(session, EVERY_PROJECT, job_id, after=0, limit=9)) == 1


def test_a_job_that_is_alive_is_not_removed(database: Database, settings: Settings) -> None:
    job_id = add_job(database, JobStatus.PAUSED)
    folder = a_folder(settings.job_dir(job_id))
    with database.writer() as session:
        assert not retention.remove(session, EVERY_PROJECT, settings, job_id)

    assert folder.is_dir()
    with database.reader() as session:
        assert len(repository.events(session, EVERY_PROJECT, job_id, after=0, limit=9)) == 1


def test_a_removal_that_was_cut_off_behind_its_commit_is_finished_by_the_next_sweep(
    database: Database, settings: Settings, known: set[Path], root: Path
) -> None:
    job_id = add_job(database, JobStatus.FAILED)
    a_folder(settings.job_dir(job_id))
    with database.writer() as session:
        repository.remove(session, EVERY_PROJECT, job_id)
        session.commit()
    sweep_orphans(database, settings)

    assert entries(root) == known


def days_ago(days: float) -> datetime:
    return utc_now() - timedelta(days=days)


def keeping(settings: Settings, days: int | None) -> Settings:
    return settings.model_copy(update={"keep_jobs_days": days})


def ids(database: Database) -> set[str]:
    with database.reader() as session:
        return set(session.scalars(select(Job.id)))


@pytest.mark.parametrize("status", sorted(ENDED))
def test_an_ended_job_goes_after_the_days_that_the_operator_says(
    database: Database, settings: Settings, root: Path, status: JobStatus
) -> None:
    old = add_job(database, status, finished_at=days_ago(8))
    young = add_job(database, status, finished_at=days_ago(6))
    alive = {add_job(database, each, created_at=days_ago(99)) for each in ALIVE}
    folder = a_folder(root / "jobs" / old)

    retention.sweep(database, keeping(settings, 7))

    assert ids(database) == {young, *alive}
    assert not folder.exists()
    with database.reader() as session:
        assert repository.events(session, EVERY_PROJECT, old, after=0, limit=9) == []


def test_jobs_are_kept_for_ever_where_the_operator_says_nothing(database: Database, settings: Settings) -> None:
    old = add_job(database, JobStatus.FAILED, finished_at=days_ago(9999))

    retention.sweep(database, settings)

    assert ids(database) == {old}


def test_the_adapter_of_a_job_that_went_answers_as_before(database: Database, settings: Settings, root: Path) -> None:
    adapter = add_adapter(database, root / "adapters")
    add_job(database, JobStatus.SUCCEEDED, id=adapter.job_id, finished_at=days_ago(8))

    retention.sweep(database, keeping(settings, 7))
    sweep_orphans(database, settings, older_than=-60)

    assert ids(database) == set()
    assert Path(adapter.path).is_dir()
    with database.reader() as session:
        assert {find_adapter(session, EVERY_PROJECT, name).id for name in (adapter.id, adapter.job_id)} == {adapter.id}


def test_a_job_that_another_goes_on_from_stays_until_that_has_ended(database: Database, settings: Settings) -> None:
    origin = add_job(database, JobStatus.FAILED, finished_at=days_ago(8))
    heir = add_job(database, JobStatus.PAUSED, continues=origin)

    retention.sweep(database, keeping(settings, 7))
    assert ids(database) == {origin, heir}
    with database.writer() as session:
        session.get_one(Job, heir).status = JobStatus.CANCELLED
        session.commit()
    retention.sweep(database, keeping(settings, 7))
    assert ids(database) == {heir}


def test_a_sweep_of_many_old_jobs_takes_a_few_at_a_time(database: Database, settings: Settings) -> None:
    for _ in range(retention.EXPIRED_AT_ONCE + 1):
        add_job(database, JobStatus.FAILED, finished_at=days_ago(8))

    retention.sweep(database, keeping(settings, 7))
    assert len(ids(database)) == 1
    retention.sweep(database, keeping(settings, 7))
    assert ids(database) == set()
