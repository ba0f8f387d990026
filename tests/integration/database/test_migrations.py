"""The migrations and the models say the same, on both databases, in both directions."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from app.database.connection import make_engine
from app.database.migrate import KEPT_COPIES, CannotMigrate, check, downgrade, revision_of, upgrade
from app.processes.lock import CannotStart
from tests.integration.conftest import a_postgres_database
from tests.support.disks import filled, small_disk

AN_OLD_JOB = (
    "INSERT INTO jobs (id, name, labels, priority, spec, resolved, is_dry_run, status, desired, epoch, beats, "
    "last_seq, notices, created_at, kind) VALUES "
    "(:id, 'old', :labels, 0, '{}', '{}', false, 'failed', 'run', 0, 0, 0, '[]', '2026-01-01 00:00:00.000000', :kind)"
)


@pytest.fixture(params=["sqlite", "postgres"])
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fresh.db'}"
    else:
        yield from a_postgres_database()


OF_ACCESS = ("projects", "api_keys", "audit", "usage")


def tables(url: str) -> set[str]:
    engine = make_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names - {"alembic_version"}


def test_the_models_have_nothing_that_the_migrations_lack_once_or_twice(fresh_url: str) -> None:
    for _ in range(2):
        upgrade(fresh_url)
        check(fresh_url)

    of_jobs = {
        "jobs",
        "attempts",
        "job_events",
        "checkpoints",
        "idempotency_keys",
        "workers",
        "job_labels",
        "metric_summaries",
    }
    of_webhooks = {"webhook_endpoints", "webhook_deliveries"}
    assert tables(fresh_url) == {
        *of_jobs,
        *OF_ACCESS,
        "files",
        "feedback",
        "adapters",
        "artifacts",
        "project_secrets",
        "installation",
        "training_measurements",
        *of_webhooks,
        "totals",
        "turns",
    }


def test_every_migration_can_be_undone_and_done_again(fresh_url: str) -> None:
    upgrade(fresh_url)
    downgrade(fresh_url, "base")
    assert tables(fresh_url) == set()
    upgrade(fresh_url)
    assert tables(fresh_url)


LABELS = {
    "job-1": '{"team": "a", "owner": "\\u00fclli"}',
    "job-2": '{"team": "a", "x": 1, "y": "\\u0000", "z": "\\ud800"}',
    "job-3": "[]",
    "job-4": "{}",
}


def test_the_labels_of_older_jobs_are_found_as_far_as_they_can_be_read(fresh_url: str) -> None:
    upgrade(fresh_url, "0008")
    engine = make_engine(fresh_url)
    with engine.begin() as connection:
        for job_id, labels in LABELS.items():
            connection.execute(text(AN_OLD_JOB), {"id": job_id, "labels": labels, "kind": "train"})
        connection.execute(text(AN_OLD_JOB), {"id": "job-5", "labels": LABELS["job-1"], "kind": "validate"})
    upgrade(fresh_url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT job_id, name, value FROM job_labels ORDER BY job_id, name")).all()
        same = (
            "SELECT count(*) FROM job_labels JOIN jobs ON jobs.id = job_id AND jobs.created_at = job_labels.created_at"
        )
        assert connection.scalar(text(same)) == len(rows)
    engine.dispose()

    assert [tuple(row) for row in rows] == [("job-1", "owner", "ülli"), ("job-1", "team", "a"), ("job-2", "team", "a")]


def test_several_processes_that_migrate_at_once_all_succeed(fresh_url: str) -> None:
    upgrade(fresh_url, "0002")
    command = [sys.executable, "-m", "app.database.migrate"]
    environment = {**os.environ, "TUNESMITH_DATABASE_URL": fresh_url}
    many = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=120)[0] for process in many]

    assert [process.returncode for process in many] == [0] * 3
    assert sum("was migrated" in text for text in said) == 1
    check(fresh_url)


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(fresh_url: str) -> None:
    upgrade(fresh_url)
    engine = make_engine(fresh_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()

    with pytest.raises(CannotMigrate, match=r"schema 9999.*newer version"):
        upgrade(fresh_url)
    assert revision_of(fresh_url) == "9999"


def test_a_copy_of_a_sqlite_file_is_kept_from_before_each_migration_and_few_of_them(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    said: list[str] = []
    upgrade(url, "0002")
    for _ in range(KEPT_COPIES + 1):
        upgrade(url, say=said.append)
        downgrade(url, "0002")
    upgrade(url)

    copies = sorted(tmp_path.glob("old.db.before-*"))
    assert len(copies) == KEPT_COPIES
    assert revision_of(f"sqlite:///{copies[-1]}") == "0002"
    assert stat.S_IMODE(copies[-1].stat().st_mode) == 0o600
    assert any("is kept in" in line for line in said)


def test_a_new_file_and_one_that_is_migrated_already_are_not_copied(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    upgrade(url)
    upgrade(url)

    assert list(tmp_path.glob("*.before-*")) == []


def test_a_copy_without_room_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 4) as disk:
        url = f"sqlite:///{disk / 'old.db'}"
        upgrade(url, "0002")
        with filled(disk), pytest.raises(CannotStart, match="full"):
            upgrade(url)

        assert revision_of(url) == "0002"
        assert list(disk.glob("*.before-*")) == []


def test_a_migration_of_a_server_s_database_says_whose_backup_it_is() -> None:
    said: list[str] = []
    for url in a_postgres_database():
        upgrade(url, "0002")
        upgrade(url, say=said.append)

    assert "its backup is the operator's task" in said[0]
