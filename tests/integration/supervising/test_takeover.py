"""What a worker makes of what dead, frozen and cut-off workers left, and of a database that is away.

Of the three layers that keep two trainers apart (lock, lease, fence), each has a test in which the other two are not
enough.
"""

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from app.contracts.events import Phase, PhaseStarted
from app.database.connection import Database, utc_now
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.queue.claims import Fenced, take_back
from app.jobs.states import JobStatus
from app.scope import EVERY_PROJECT
from tests.support.jobs import read
from tests.support.waiting import wait_for
from tests.support.workers import (
    QUIET,
    a_context,
    add_training,
    attempts_of,
    check_events,
    claim_next,
    losses,
    outcomes,
    reached_step,
    settings_of,
    skip_pause,
    slot_acquired,
    trainers_of,
    work,
)
from worker.supervising import lifecycle, retries
from worker.supervising.context import WorkerContext
from worker.supervising.lifecycle import run_until_idle
from worker.supervising.reconciler import Reconciler


def lose(database: Database, job_id: str) -> None:
    with database.writer() as session:
        job = session.get_one(Job, job_id)
        assert take_back(session, job, utc_now(), reason="lost", max_attempts=9, pause=None)
        session.commit()


def run_and_die(database: Database, context: WorkerContext) -> None:
    """All of an attempt but its end: what a worker leaves that dies before it can store how it ended."""
    taken = claim_next(context)
    lifecycle.run(context, taken)
    lose(database, taken.job.id)


@pytest.mark.parametrize("is_published", [False, True])
def test_a_result_that_nobody_stored_is_not_trained_again(database: Database, home: Path, is_published: bool) -> None:
    job_id = add_training(database)
    with slot_acquired(settings_of(home), database) as context:
        run_and_die(database, context)
        if is_published:  # it died between moving the adapter and the commit
            folder = context.settings.job_dir(job_id) / "attempts" / "1"
            version = next(e for e in map(json.loads, _lines(folder)) if e["kind"] == "adapter")["version"]
            target = context.settings.adapter_dir(job_id.replace("job-", "adapter-"), version)
            target.parent.mkdir(parents=True)
            (folder / "adapter").rename(target)
        run_until_idle(context)
        folders = sorted(path.name for path in (context.settings.job_dir(job_id) / "attempts").iterdir())

    assert read(database, job_id).status is JobStatus.SUCCEEDED
    assert folders == ["1"]
    assert losses(database, job_id) == QUIET


def test_a_result_whose_adapter_was_changed_is_trained_again(database: Database, home: Path) -> None:
    job_id = add_training(database)
    with slot_acquired(settings_of(home), database) as context:
        run_and_die(database, context)
        (context.settings.job_dir(job_id) / "attempts" / "1" / "adapter" / "weights").write_text("other")
        run_until_idle(context)

    assert outcomes(database, job_id) == ["worker_lost", "finished"]
    assert losses(database, job_id) == QUIET


def _lines(folder: Path) -> list[str]:
    return (folder / "events.jsonl").read_text().splitlines()


def test_events_that_nobody_stored_are_stored_once_by_the_next_attempt(database: Database, home: Path) -> None:
    """The worker dies; its child reports two steps more, of which a crash of the host tears the last line."""
    job_id = add_training(database, save_every=4, at=6, does="dies")
    work(database, home)
    lost = attempts_of(database, job_id)[0]
    path = settings_of(home).job_dir(job_id) / "attempts" / "1" / "events.jsonl"
    more = [PhaseStarted(phase=Phase.EVAL).model_dump_json(), '{"kind": "nonsense"}', '{"kind":"step","st']
    with path.open("a") as file:
        file.write("\n".join(more))
    skip_pause(database, job_id)
    work(database, home)
    skip_pause(database, job_id)
    work(database, home)
    with database.reader() as session:
        own = [
            event.kind
            for event in repository.events(session, EVERY_PROJECT, job_id, after=0, limit=999)
            if event.epoch == 1
        ]

    assert lost.outcome == "process_killed"
    assert own.count("phase") == 2
    assert own.count("notice") == 1
    assert losses(database, job_id) == QUIET
    check_events(database, job_id)


class Flaky(Session):
    """A database that is away for some commits: half of those that it fails were done all the same."""

    failures = 0
    commits = 0

    def commit(self) -> None:
        Flaky.commits += 1
        is_lost = Flaky.commits % 3 == 0 and Flaky.failures > 0
        if is_lost and Flaky.commits % 2:
            Flaky.failures -= 1
            raise OperationalError("COMMIT", {}, Exception("away"))
        super().commit()
        if is_lost:
            Flaky.failures -= 1
            raise OperationalError("COMMIT", {}, Exception("gone before it answered"))


def test_a_database_that_is_away_again_and_again_costs_no_event(
    database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.1)
    job_id = add_training(database, steps=8, step_seconds=0.1)
    Flaky.failures, Flaky.commits = 8, 0
    with slot_acquired(settings_of(home), database) as context:
        context.database.writer = sessionmaker(database.engine, class_=Flaky, expire_on_commit=False)
        for _ in range(20):
            run_until_idle(context)
            Reconciler(context).round()

    assert Flaky.failures == 0
    assert read(database, job_id).status is JobStatus.SUCCEEDED
    assert losses(database, job_id) == QUIET
    check_events(database, job_id)


def test_a_dead_worker_of_this_host_is_found_by_its_lock_at_once(database: Database, home: Path) -> None:
    """The lease of 30 seconds and the fence would leave the job with it for so long."""
    job_id = add_training(database)
    settings = settings_of(home)
    with slot_acquired(settings, database, "gpu1", "w2") as context:
        claim_next(context)
    with slot_acquired(settings, database) as other:
        Reconciler(other).round()

    assert read(database, job_id).status is JobStatus.QUEUED
    assert outcomes(database, job_id) == ["worker_lost"]


def test_a_worker_of_another_host_is_given_up_after_its_lease(database: Database, home: Path, tmp_path: Path) -> None:
    """Its lock cannot be asked here, and the fence alone would wait for ever."""
    job_id = add_training(database)
    with slot_acquired(settings_of(tmp_path / "elsewhere"), database, "gpu0", "far") as context:
        claim_next(context)
    with slot_acquired(settings_of(home, lease_seconds=1), database) as other:
        reconciler = Reconciler(other)
        reconciler.round()
        assert read(database, job_id).status is JobStatus.RUNNING

        def is_taken() -> bool:
            reconciler.round()
            return read(database, job_id).worker is None

        wait_for("its lease is over", is_taken, 10)

    assert outcomes(database, job_id) == ["worker_lost"]


def test_a_worker_whose_lease_was_taken_is_fenced_when_it_wakes_up(database: Database, home: Path) -> None:
    """The lock and the lease are behind it: only the fence keeps its result out."""
    job_id = add_training(database)
    with slot_acquired(settings_of(home), database) as context:
        taken = claim_next(context)
        report = lifecycle.run(context, taken)
        lose(database, job_id)
        with pytest.raises(Fenced):
            lifecycle.conclude(context, taken, report)

    assert read(database, job_id).status is JobStatus.QUEUED


def test_a_second_worker_on_one_gpu_claims_nothing_and_says_why(database: Database, home: Path) -> None:
    """Lease and fence are a job's: they would let it take another job for the same GPU."""
    add_training(database)
    settings = settings_of(home)
    with slot_acquired(settings, database, name="w1"):
        second = a_context(settings, database, name="w2")
        Reconciler(second).round()
        run_until_idle(second)
        with database.reader() as session:
            problems = {worker.name: worker.problem for worker in repository.workers(session)}

    assert not second.slot_acquired.is_set()
    assert problems["w1"] is None
    assert "gpu0" in str(problems["w2"])


def test_a_database_error_forgets_what_was_observed(database: Database, home: Path, tmp_path: Path) -> None:
    """A holder that could not beat while the database was away is not taken for dead when it is back."""
    job_id = add_training(database)
    with slot_acquired(settings_of(tmp_path / "elsewhere"), database, "gpu0", "far") as context:
        claim_next(context)
    with slot_acquired(settings_of(home, lease_seconds=1), database) as other:
        reconciler = Reconciler(other)
        reconciler.round()
        wait_for("a lease is over", lambda: not other.stopping.wait(1.1))
        there, Flaky.failures, Flaky.commits = other.database.writer, 1, 2
        other.database.writer = sessionmaker(database.engine, class_=Flaky, expire_on_commit=False)
        reconciler.round()
        other.database.writer = there
        reconciler.round()

    assert read(database, job_id).status is JobStatus.RUNNING


def be_a_worker(home: Path, database_url: str, lease_seconds: float) -> None:
    settings = settings_of(home, lease_seconds=lease_seconds)
    with slot_acquired(settings, Database.open(database_url)) as context:
        run_until_idle(context)


@contextmanager
def a_worker(home: Path, database_url: str, lease_seconds: float = 30) -> Iterator[int]:
    """The pid of a worker in a process of its own, which is killed at the end."""
    process = multiprocessing.get_context("fork").Process(target=be_a_worker, args=(home, database_url, lease_seconds))
    process.start()
    try:
        assert process.pid is not None
        yield process.pid
    finally:
        process.kill()
        process.join()


def test_a_killed_worker_leaves_no_trainer_and_its_job_goes_on(
    database: Database, database_url: str, home: Path
) -> None:
    job_id = add_training(database, step_seconds=0.2, save_every=1)
    with a_worker(home, database_url):
        reached_step(database, job_id, 3)
    wait_for("no trainer is left", lambda: not trainers_of(job_id))
    work(database, home)

    assert outcomes(database, job_id) == ["worker_lost", "finished"]
    assert (attempts_of(database, job_id)[1].resume_step or 0) >= 3
    assert losses(database, job_id) == QUIET
    check_events(database, job_id)


def test_a_frozen_worker_loses_its_trainer_before_its_lease(database: Database, database_url: str, home: Path) -> None:
    job_id = add_training(database, steps=1000, step_seconds=0.05)
    with a_worker(home, database_url, lease_seconds=3) as worker:
        reached_step(database, job_id, 3)
        os.kill(worker, signal.SIGSTOP)
        wait_for("its guardian ends the trainer", lambda: not trainers_of(job_id), 3)
