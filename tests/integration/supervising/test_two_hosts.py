"""Hosts with homes of their own, one database and one store: a job goes on where its files can be fetched."""

import shutil
import threading
from pathlib import Path

import pytest

from app.artifacts import repository as artifacts
from app.artifacts.names import ADAPTER
from app.artifacts.store import store_of
from app.config import Settings
from app.contracts.checkpoints import NAME
from app.database.connection import Database, utc_now
from app.ids import new_id
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.queue import retention
from app.jobs.queue.claims import take_back
from app.jobs.states import JobStatus
from app.jobs.views.logs import read_log
from app.scope import EVERY_PROJECT
from tests.support.jobs import read
from tests.support.s3_server import S3Server, with_store
from tests.support.waiting import wait_for
from tests.support.workers import (
    QUIET,
    add_training,
    at_work,
    attempts_of,
    check_events,
    claim_next,
    losses,
    outcomes,
    settings_of,
    skip_pause,
    slot_acquired,
)
from worker.supervising import lifecycle, uploads
from worker.supervising.lifecycle import run_until_idle
from worker.supervising.transfers import keep_artifacts


def moves_files(thread: threading.Thread) -> bool:
    return thread.name.startswith(("uploads-", "transfer-"))


class Hosts:
    """Any number of hosts by their names."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self._server, self._folder, self._prefix = server, folder, new_id("prefix")

    def settings(self, name: str) -> Settings:
        quick = settings_of(self._folder / name).model_dump(exclude_unset=True, exclude={"home"})
        return with_store(self._server, self._folder / name, self._prefix, **quick)

    def work(self, database: Database, name: str) -> None:
        with slot_acquired(self.settings(name), database, slot=name, name=name) as context:
            run_until_idle(context)

    def lose(self, name: str) -> None:
        """The host's processes and its disk are gone."""
        wait_for("no thread of it moves files", lambda: not any(map(moves_files, threading.enumerate())))
        shutil.rmtree(self._folder / name)

    def stored(self) -> list[str]:
        entries = self.settings("nobody").files.entries
        assert entries is not None
        return [key for key, _ in entries.below()]

    def checkpoints(self, job_id: str) -> list[int]:
        names = [key.rpartition("/")[2] for key in self.stored() if f"{job_id}/checkpoints/" in key]
        return [int(found[1]) for name in names if (found := NAME.fullmatch(name)) is not None]


@pytest.fixture
def hosts(s3: S3Server, tmp_path: Path) -> Hosts:
    return Hosts(s3, tmp_path)


def take_from(database: Database, job_id: str) -> None:
    """As the reconciler of another host does it when a lease has run out."""
    with database.writer() as session:
        job = session.get_one(Job, job_id, with_for_update=True)  # it sends heartbeats
        assert take_back(session, job, utc_now(), reason="lost", max_attempts=9, pause=None)
        session.commit()


def adapter_files(settings: Settings, database: Database, job_id: str) -> list[str]:
    """The names of the files of a job's adapter, each of which a host can read."""
    with database.reader() as session:
        key = next(row.location for row in artifacts.of_job(session, EVERY_PROJECT, job_id) if row.kind == ADAPTER)
    store = store_of(settings)
    return [file.name for file in store.files(key) if b"".join(store.open(key, file.name, 0, file.bytes))]


def test_a_job_resumes_on_another_host_when_its_host_is_lost(database: Database, hosts: Hosts) -> None:
    job_id = add_training(database, save_every=1, step_seconds=0.3)
    with slot_acquired(hosts.settings("a"), database, slot="a", name="a") as context, at_work(context):
        wait_for("a checkpoint is stored", lambda: max(hosts.checkpoints(job_id), default=0) >= 3)
        take_from(database, job_id)
    hosts.lose("a")

    hosts.work(database, "b")

    second = attempts_of(database, job_id)[1]
    assert read(database, job_id).status is JobStatus.SUCCEEDED
    assert (second.worker, outcomes(database, job_id)) == ("b", ["worker_lost", "finished"])
    assert (second.resume_step or 0) >= 3
    assert losses(database, job_id) == QUIET
    check_events(database, job_id)
    assert adapter_files(hosts.settings("c"), database, job_id) == ["weights"]


def test_a_job_that_is_handed_back_leaves_its_newest_checkpoint_in_the_store(database: Database, hosts: Hosts) -> None:
    job_id = add_training(database, step_seconds=0.2)
    with slot_acquired(hosts.settings("a"), database, slot="a", name="a") as context, at_work(context):
        wait_for("it trains", lambda: read(database, job_id).progress)
    hosts.lose("a")
    handed_over = hosts.checkpoints(job_id)

    hosts.work(database, "b")

    assert outcomes(database, job_id) == ["worker_stopped", "finished"]
    assert [attempts_of(database, job_id)[1].resume_step] == handed_over
    assert losses(database, job_id) == QUIET


def test_a_finished_training_is_published_by_another_host(database: Database, hosts: Hosts) -> None:
    job_id = add_training(database, artifacts=1)
    with slot_acquired(hosts.settings("a"), database, slot="a", name="a") as context:
        taken = claim_next(context)
        report = lifecycle.run(context, taken)
        keep_artifacts(context, taken.held, taken.runner, report)
        take_from(database, job_id)
    hosts.lose("a")

    hosts.work(database, "b")

    assert read(database, job_id).status is JobStatus.SUCCEEDED
    assert not list((hosts.settings("b").job_dir(job_id) / "attempts").glob("*/events.jsonl"))  # nothing was trained
    assert losses(database, job_id) == QUIET


def test_old_checkpoints_go_from_the_store_and_all_of_a_job_with_it(database: Database, hosts: Hosts) -> None:
    job_id = add_training(database, save_every=4)
    hosts.work(database, "a")
    before = hosts.checkpoints(job_id)
    with database.writer() as session:
        assert retention.remove(session, EVERY_PROJECT, hosts.settings("api"), job_id)

    assert before == [4, 8]
    assert [key.partition("/")[0] for key in hosts.stored()] == ["adapters"]


def test_the_log_of_an_attempt_is_read_on_every_host(database: Database, hosts: Hosts) -> None:
    job_id = add_training(database, at=3, does="dies", always=1)
    hosts.work(database, "a")
    settings = hosts.settings("api")

    page = read_log(settings.job_dir(job_id), 1, offset=0, limit=100, is_ended=True, files=settings.files)

    assert (page.attempt, page.is_complete) == (1, True)
    assert f"jobs/{job_id}/logs/1" in hosts.stored()


def test_a_job_waits_while_the_store_is_away(database: Database, hosts: Hosts, s3: S3Server) -> None:
    job_id = add_training(database)
    s3.stop()
    try:
        hosts.work(database, "a")
        waiting = read(database, job_id)
    finally:
        s3.start()
    skip_pause(database, job_id)
    hosts.work(database, "a")

    assert (waiting.status, waiting.run_after is not None) == (JobStatus.QUEUED, True)
    assert outcomes(database, job_id) == ["store_unavailable", "finished"]
    assert losses(database, job_id) == QUIET


def test_a_checkpoint_that_was_not_stored_is_no_longer_listed(database: Database, hosts: Hosts) -> None:
    job_id = add_training(database, save_every=1, step_seconds=0.2)
    with slot_acquired(hosts.settings("a"), database, slot="a", name="a") as context, at_work(context):
        wait_for("two are stored", lambda: len(hosts.checkpoints(job_id)) >= 2)
        take_from(database, job_id)
    hosts.lose("a")
    lost = max(hosts.checkpoints(job_id))
    entries = hosts.settings("b").files
    folder = hosts.settings("b").checkpoints_dir(job_id)
    entries.forget(folder / next(name for name in entries.names(folder) if f"{lost:08d}" in name))

    hosts.work(database, "b")

    with database.reader() as session:
        listed = [one.step for one in repository.checkpoints(session, EVERY_PROJECT, job_id)]
    assert attempts_of(database, job_id)[1].resume_step == lost - 1
    assert len(listed) == len(set(listed))
    assert losses(database, job_id) == QUIET


def test_a_training_goes_on_while_the_store_is_away_and_is_not_repeated(
    database: Database, hosts: Hosts, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PATIENCE_SECONDS", 0.5)
    job_id = add_training(database, save_every=2, step_seconds=0.2)
    with slot_acquired(hosts.settings("a"), database, slot="a", name="a") as context, at_work(context):
        wait_for("a checkpoint is stored", lambda: hosts.checkpoints(job_id))
        s3.stop()
        try:
            wait_for("the job waits", lambda: read(database, job_id).status is JobStatus.QUEUED, 60)
            trained = losses(database, job_id)
        finally:
            s3.start()
    skip_pause(database, job_id)
    hosts.work(database, "a")

    assert trained == losses(database, job_id) == QUIET
    assert outcomes(database, job_id) == ["store_unavailable", "finished"]
    assert len(list(hosts.settings("a").job_dir(job_id).glob("attempts/*/events.jsonl"))) == 1
