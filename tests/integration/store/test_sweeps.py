"""What has no row goes from the store into its trash, if the store belongs to the database."""

from pathlib import Path

import pytest

from app.config import Settings
from app.database import installation
from app.database.connection import Database
from app.ids import new_id
from app.jobs.queue.orphans import AnotherInstallation, check_belongs
from app.jobs.queue.store_orphans import sweep_store
from app.jobs.states import JobStatus
from tests.support.jobs import add_job
from tests.support.s3_server import S3Server, with_store


@pytest.fixture
def host(s3: S3Server, tmp_path: Path) -> Settings:
    return with_store(s3, tmp_path / "home", new_id("prefix"))


def keep(settings: Settings, key: str) -> None:
    (settings.root / key).mkdir(parents=True)
    (settings.root / key / "text").write_text("x")
    settings.files.keep(settings.root / key)


def keys(settings: Settings) -> list[str]:
    assert settings.files.entries is not None
    return [key for key, _ in settings.files.entries.below()]


def test_what_has_no_row_is_thrown_away(database: Database, host: Settings) -> None:
    known, lost = add_job(database), new_id("job")
    for job_id in (known, lost):
        keep(host, f"jobs/{job_id}/data")
    keep(host, "jobs/other/data")

    assert sweep_store(database, host) == []  # it may get its row yet
    assert sweep_store(database, host, older_than=-1) == [f"jobs/{lost}/data"]
    assert set(keys(host)) == {f"jobs/{known}/data", "jobs/other/data"}
    assert host.files.entries is not None
    assert next(name for name, _ in host.files.entries.bucket.names("trash/")).endswith(f"/jobs/{lost}/data.json")


def test_an_adapter_stays_while_its_job_may_publish_it(database: Database, host: Settings) -> None:
    ended, running = (add_job(database, status) for status in (JobStatus.FAILED, JobStatus.RUNNING))
    for job_id in (ended, running):
        keep(host, f"{job_id.replace('job-', 'adapters/adapter-')}/v1")

    assert sweep_store(database, host, older_than=-1) == [f"{ended.replace('job-', 'adapters/adapter-')}/v1"]


def test_nothing_is_removed_from_the_store_of_another_installation(database: Database, host: Settings) -> None:
    add_job(database)
    keep(host, f"jobs/{new_id('job')}/data")
    assert host.files.entries is not None
    host.files.entries.bucket.write(installation.FILE, b"installation-other")

    with pytest.raises(AnotherInstallation, match="the store of TUNESMITH_STORE_URL to installation-other"):
        sweep_store(database, host, older_than=-1)
    assert len(keys(host)) == 1


def test_every_home_of_the_installation_is_accepted(database: Database, host: Settings, tmp_path: Path) -> None:
    job_id = add_job(database)
    homes = [host.model_copy(update={"home": tmp_path / name}) for name in "ab"]
    (Settings(home=tmp_path / "b").root / "jobs" / job_id).mkdir(parents=True)

    for home in homes:
        check_belongs(database, Settings(home=home.home))

    assert installation.of_home(tmp_path / "a") == installation.of_home(tmp_path / "b") is not None
