"""A home is swept by the database that it belongs to, and by no other; what is swept can be had back for a week."""

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app import trash
from app.cli.main import main
from app.config import Settings
from app.database import installation
from app.database.connection import Database, utc_now
from app.files.storage import partial_path
from app.ids import new_id
from app.jobs.queue import sweeps
from app.jobs.queue.orphans import AnotherInstallation, check_belongs, sweep_orphans
from app.jobs.states import JobStatus
from tests.support.jobs import add_job
from tests.support.jobs_api import an_api
from tests.support.waiting import wait_for


def a_folder(settings: Settings, job_id: str) -> Path:
    """A job's, of two hours ago."""
    folder = settings.job_dir(job_id)
    folder.mkdir(parents=True)
    (folder / "kept").write_text("bytes")
    then = time.time() - 7200
    os.utime(folder, (then, then))
    return folder


@pytest.fixture
def known(database: Database, settings: Settings) -> Path:
    return a_folder(settings, add_job(database, JobStatus.FAILED))


def test_a_database_has_one_id_whoever_asks_first(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: installation.of_database(database), range(16)))

    assert len(ids) == 1
    assert ids == {installation.of_database(database)}


@pytest.mark.usefixtures("known")
def test_a_home_from_before_ids_is_marked_by_the_database_that_knows_it(database: Database, settings: Settings) -> None:
    check_belongs(database, settings)

    assert installation.of_home(settings.root) == installation.of_database(database)


def test_an_empty_home_is_marked(database: Database, settings: Settings) -> None:
    check_belongs(database, settings)

    assert installation.of_home(settings.root) == installation.of_database(database)


def test_a_home_of_which_the_database_knows_nothing_is_not_marked_and_not_swept(
    database: Database, settings: Settings
) -> None:
    folder = a_folder(settings, new_id("job"))
    add_job(database, JobStatus.FAILED)

    with pytest.raises(AnotherInstallation, match=r"that it does not know.*tunesmith adopt"):
        sweep_orphans(database, settings)
    assert folder.is_dir()
    assert installation.of_home(settings.root) is None


def test_a_home_of_another_installation_is_not_swept_though_the_database_knows_a_part(
    database: Database, settings: Settings, known: Path
) -> None:
    """As where a copy of the database was given the home of the original."""
    orphan = a_folder(settings, new_id("job"))
    installation.mark(settings.root, "installation-other")

    with pytest.raises(AnotherInstallation, match="belongs to installation-other"):
        sweep_orphans(database, settings)
    assert orphan.is_dir()
    assert known.is_dir()


@pytest.mark.usefixtures("known")
def test_an_api_that_finds_another_installation_runs_and_says_so(
    database_url: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    installation.mark(settings.root, "installation-other")
    with caplog.at_level(logging.ERROR, "app.jobs.queue.sweeps"), an_api(settings, database_url) as api:
        wait_for("it is logged", lambda: "nothing is removed from it" in caplog.text)
        assert api.get("/healthz").status_code == 200


@pytest.mark.usefixtures("known")
def test_what_a_crash_leaves_while_the_api_runs_is_swept_too(
    database_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "SECONDS_BETWEEN_SWEEPS", 0.05)
    with an_api(settings, database_url):
        first = a_folder(settings, new_id("job"))
        wait_for("the first is swept", lambda: not first.exists())
        second = a_folder(settings, new_id("job"))
        partial = partial_path(settings.file_path(new_id("file")))
        partial.parent.mkdir(exist_ok=True)
        partial.touch()
        os.utime(partial, (0, 0))

        wait_for("the next are swept", lambda: not second.exists() and not partial.exists())


@pytest.mark.usefixtures("known")
def test_what_is_swept_is_put_back_by_moving_it(database: Database, settings: Settings) -> None:
    """An operator restores an older dump, and finds out after a day."""
    orphan = a_folder(settings, new_id("job"))
    sweep_orphans(database, settings)
    assert not orphan.exists()

    (thrown,) = (settings.root / "jobs" / trash.TRASH).glob("*/job-*")
    thrown.rename(orphan)
    assert (orphan / "kept").read_text() == "bytes"


def test_two_of_one_name_are_both_kept(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "file-a").write_text(text)
        trash.throw(tmp_path / "file-a")

    assert {path.read_text() for path in (tmp_path / trash.TRASH).glob("*/*")} == {"first", "second"}


def test_the_trash_is_emptied_after_a_week(tmp_path: Path) -> None:
    today = utc_now().date()
    for name in [*((today - day * trash.KEPT / 7).isoformat() for day in range(10)), "2020-02-31", "notes"]:
        (tmp_path / trash.TRASH / name).mkdir(parents=True)

    gone = trash.empty(tmp_path)

    assert {path.name for path in gone} == {(today - day * trash.KEPT / 7).isoformat() for day in (8, 9)}
    assert len(os.listdir(tmp_path / trash.TRASH)) == 10


def test_adopt_makes_a_home_that_of_the_database(
    database: Database, database_url: str, settings: Settings, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = a_folder(settings, new_id("job"))
    installation.mark(settings.root, "installation-other")
    monkeypatch.setenv("TUNESMITH_DATABASE_URL", database_url)
    with pytest.raises(SystemExit) as left:
        main(["adopt", "--home", str(settings.root)])

    assert left.value.code == 0
    assert sweep_orphans(database, settings) == [orphan]
    assert known.is_dir()


def test_a_new_id_is_the_same_in_both(database: Database, settings: Settings) -> None:
    before = installation.of_database(database)
    name = installation.renew(database, settings.root)

    assert name != before
    assert installation.of_home(settings.root) == installation.of_database(database) == name
