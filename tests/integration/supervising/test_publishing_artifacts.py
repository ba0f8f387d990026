"""What a job saves besides its adapter is published with the job's success, once, and not without it."""

from pathlib import Path

import pytest

from app.artifacts import repository
from app.artifacts.models import Artifact
from app.config import Settings
from app.contracts.events import ArtifactSaved
from app.database.connection import Database
from app.hashing import hash_folder
from app.jobs.queue import retention
from app.jobs.queue.orphans import sweep_orphans
from app.jobs.states import JobStatus
from app.scope import EVERY_PROJECT
from tests.support.jobs import add_job, read
from tests.support.scripted_engine import add_adapter
from tests.support.workers import add_training, settings_of, skip_pause, work
from worker.supervising.attempt import Report
from worker.supervising.publishing import NotPlaced, place_artifacts


def artifacts_of(database: Database, job_id: str) -> dict[str, Artifact]:
    with database.reader() as session:
        return {row.id: row for row in repository.of_job(session, EVERY_PROJECT, job_id)}


def test_a_job_publishes_its_adapter_and_what_else_it_saved(database: Database, home: Path) -> None:
    job_id = add_training(database, artifacts=2)

    work(database, home)

    found = artifacts_of(database, job_id)
    number = job_id.removeprefix("job-")
    assert {(row.id, row.kind, row.name) for row in found.values()} == {
        (f"adapter-{number}", "adapter", "adapter"),
        (f"artifact-{number}-1", "export", "export-0"),
        (f"artifact-{number}-2", "export", "export-1"),
    }
    export = found[f"artifact-{number}-2"]
    assert hash_folder(settings_of(home).locate(export.location)) == export.sha256
    assert (settings_of(home).locate(export.location) / "parts" / "1.gguf").read_text() == "export-1"


def test_what_could_not_be_placed_is_placed_by_the_next_attempt(database: Database, home: Path) -> None:
    job_id = add_training(database, artifacts=2)
    home.mkdir()
    (home / "artifacts").write_text("in the way")
    work(database, home)
    waiting, before = read(database, job_id).status, artifacts_of(database, job_id)
    (home / "artifacts").unlink()
    skip_pause(database, job_id)

    work(database, home)

    assert (waiting, before) == (JobStatus.QUEUED, {})
    assert read(database, job_id).status is JobStatus.SUCCEEDED
    assert len(artifacts_of(database, job_id)) == 3
    assert len(list((home / "jobs" / job_id).glob("attempts/*/events.jsonl"))) == 1  # no step was trained again


def test_a_child_publishes_nothing_from_outside_of_its_job(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "jobs" / "secret").mkdir(parents=True)
    job_id = f"job-{'a' * 24}"
    for path in (str(tmp_path / "jobs" / "secret"), "jobs/job-b/export", f"jobs/{job_id}/../secret", "/etc"):
        saved = ArtifactSaved(artifact_kind="export", name="x", path=path, sha256="0" * 64, bytes=1)
        with pytest.raises(NotPlaced, match="not in the folder"):
            place_artifacts(settings, job_id, Report(artifacts=[saved]))


def test_the_row_that_an_older_worker_leaves_out_is_added_once(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    adapter = add_adapter(database, tmp_path, age=-(10**9))
    add_job(database, JobStatus.SUCCEEDED, id=adapter.job_id, project="research")
    with database.writer() as session:
        repository.remove(session, EVERY_PROJECT, adapter.id)
        session.commit()

    for _ in range(2):
        retention.sweep(database, settings)

    (row,) = artifacts_of(database, adapter.job_id).values()
    assert (row.id, row.kind, row.location, row.bytes) == (adapter.id, "adapter", adapter.path, adapter.bytes)
    assert row.project == "research"  # the older worker leaves that out as well


def test_what_a_crash_left_without_a_row_is_removed_once_its_job_has_ended(
    database: Database, settings: Settings
) -> None:
    ended, running = add_job(database, JobStatus.FAILED), add_job(database, JobStatus.RUNNING)
    settings.job_dir(running).mkdir(parents=True)  # so that the home belongs to the database
    for job_id in (ended, running):
        (settings.root / "artifacts" / f"{job_id.replace('job-', 'artifact-')}-1" / "x").mkdir(parents=True)

    swept = sweep_orphans(database, settings, older_than=-1)

    assert [path.name for path in swept] == [f"{ended.replace('job-', 'artifact-')}-1"]
