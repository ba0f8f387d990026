"""What a worker makes of its child: on both databases, with real processes."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from app.adapters import repository as adapters
from app.contracts.order import TrainingOrder
from app.database.connection import Database
from app.jobs import repository
from app.jobs.queue import termination
from app.jobs.queue.attempts import DEATHS_A_FAULT
from app.jobs.states import JobStatus
from app.jobs.views.logs import attempt_dir
from app.scope import EVERY_PROJECT
from tests.support.jobs import read
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
    processes_of,
    reached_step,
    settings_of,
    skip_pause,
    slot_acquired,
    tell,
    trainers_of,
    work,
)
from worker import checkpoints
from worker.confinement.allowed import of_fetching, of_training
from worker.supervising import lifecycle


def test_a_training_that_goes_well_has_an_adapter(database: Database, home: Path) -> None:
    job_id = add_training(database)
    work(database, home)
    job = read(database, job_id)

    assert job.status is JobStatus.SUCCEEDED
    assert losses(database, job_id) == QUIET
    assert (job.worker, job.slot, job.phase) == (None, None, None)
    with database.reader() as session:
        adapter = adapters.get_by_job(session, EVERY_PROJECT, job_id)
    assert adapter is not None
    assert (home / adapter.path / "weights").exists()
    check_events(database, job_id)


def test_one_that_dies_goes_on_behind_its_newest_checkpoint(database: Database, home: Path) -> None:
    job_id = add_training(database, save_every=2, at=5, does="dies")
    work(database, home)
    waiting = read(database, job_id)
    skip_pause(database, job_id)
    work(database, home)
    skip_pause(database, job_id)
    work(database, home)
    tries = attempts_of(database, job_id)

    assert waiting.status is JobStatus.QUEUED
    assert waiting.run_after is not None
    assert read(database, job_id).status is JobStatus.SUCCEEDED
    assert [(one.outcome, one.exit_code, one.resume_step) for one in tries] == [
        ("process_killed", 137, 0),
        ("process_killed", 137, 4),
        ("finished", 0, 4),
    ]
    assert losses(database, job_id) == QUIET
    check_events(database, job_id)


@pytest.mark.parametrize(
    ("does", "code", "times"), [("dies", "process_killed", DEATHS_A_FAULT + 1), ("leaves", "process_crashed", 2)]
)
def test_one_that_always_fails_in_the_same_place_fails(
    database: Database, home: Path, does: str, code: str, times: int
) -> None:
    """Two failures are allowed: of its own, or as many deaths that may come from outside as count as one, and one."""
    job_id = add_training(database, at=2, does=does, always=1, step_seconds=0)
    for _ in range(times):
        skip_pause(database, job_id)
        work(database, home, max_attempts=2)
    job = read(database, job_id)

    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error["code"], job.error["category"]) == (code, "system_error")
    assert len(attempts_of(database, job_id)) == times


def test_one_that_is_killed_again_and_again_from_outside_is_not_given_up(database: Database, home: Path) -> None:
    """Four workers die with it before it takes a step, where three failures of its own would end it."""
    job_id = add_training(database, at=2, does="dies")
    for _ in range(4):
        with slot_acquired(settings_of(home), database) as context:
            claim_next(context)
        with slot_acquired(settings_of(home), database):
            skip_pause(database, job_id)
    work(database, home)

    assert outcomes(database, job_id) == ["worker_lost"] * 4 + ["finished"]


def test_one_that_gets_further_each_time_is_never_given_up(database: Database, home: Path) -> None:
    """It dies at step 2 of attempts 1 and 2, so twice in the same place; saving one step more counts anew."""
    job_id = add_training(database, save_every=1, at=2, does="dies")
    for _ in range(3):
        skip_pause(database, job_id)
        work(database, home, max_attempts=2)

    assert read(database, job_id).status is JobStatus.SUCCEEDED


def test_a_hung_one_is_ended_and_runs_again(database: Database, home: Path) -> None:
    job_id = add_training(database, save_every=1, at=3, does="hangs")
    work(database, home, silence_seconds=1, grace_seconds=0.5)

    assert outcomes(database, job_id) == ["hung"]
    assert read(database, job_id).status is JobStatus.QUEUED


def test_a_full_disk_pauses_the_job_and_it_goes_on_when_it_is_resumed(database: Database, home: Path) -> None:
    job_id = add_training(database, save_every=2, at=5, does="fills the disk")
    work(database, home)
    paused = read(database, job_id)
    for _ in range(2):
        tell(database, termination.resume, job_id)
        work(database, home)

    assert paused.status is JobStatus.PAUSED
    assert paused.error is not None
    assert (paused.error["code"], paused.error["hint"]) == ("disk_full", "make some")
    done = read(database, job_id)
    assert (done.status, done.error) == (JobStatus.SUCCEEDED, None)
    assert losses(database, job_id) == QUIET


def test_a_paused_training_goes_on_at_the_same_step(database: Database, home: Path) -> None:
    job_id = add_training(database, step_seconds=0.2)
    with slot_acquired(settings_of(home), database) as context, at_work(context):
        reached_step(database, job_id, 2)
        tell(database, termination.pause, job_id)
        wait_for("it is paused", lambda: read(database, job_id).status is JobStatus.PAUSED)
    paused = attempts_of(database, job_id)[0]
    tell(database, termination.resume, job_id)
    work(database, home)

    assert (paused.outcome, paused.exit_code) == ("paused", 75)
    assert (attempts_of(database, job_id)[1].resume_step or 0) >= 2
    assert losses(database, job_id) == QUIET


def test_a_checkpoint_that_is_asked_for_is_made_and_the_training_goes_on(database: Database, home: Path) -> None:
    job_id = add_training(database, step_seconds=0.2)
    with slot_acquired(settings_of(home), database) as context, at_work(context):
        reached_step(database, job_id, 2)
        tell(database, repository.ask_for_checkpoint, job_id)
        wait_for("it is done", lambda: read(database, job_id).status is JobStatus.SUCCEEDED)
    with database.reader() as session:
        steps = [found.step for found in repository.checkpoints(session, EVERY_PROJECT, job_id)]

    assert len(steps) == 2
    assert max(steps) == 8
    assert outcomes(database, job_id) == ["finished"]


def test_a_worker_that_stops_hands_its_job_on(database: Database, home: Path) -> None:
    job_id = add_training(database, step_seconds=0.2)
    with slot_acquired(settings_of(home), database) as context, at_work(context):
        reached_step(database, job_id, 2)
    handed_on = read(database, job_id)
    work(database, home)

    assert (handed_on.status, handed_on.run_after) == (JobStatus.QUEUED, None)
    assert outcomes(database, job_id) == ["worker_stopped", "finished"]
    assert losses(database, job_id) == QUIET


@pytest.mark.parametrize("wish", [termination.pause, termination.end])
def test_a_wish_between_the_claim_and_the_child_is_heard(database: Database, home: Path, wish: Any) -> None:
    job_id = add_training(database)
    with slot_acquired(settings_of(home), database) as context:
        claimed = claim_next(context)
        tell(database, wish, job_id)
        lifecycle.work_on(context, claimed)

    assert read(database, job_id).status in (JobStatus.PAUSED, JobStatus.CANCELLED)


@pytest.mark.parametrize("before", [None, termination.pause], ids=["running", "already-told-to-pause"])
def test_a_cancel_ends_a_trainer_in_the_middle_of_a_slow_step_and_leaves_its_checkpoint(
    database: Database, home: Path, before: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.supervising.attempt.CANCEL_GRACE_SECONDS", 0.5)
    job_id = add_training(database, save_every=1, at=3, does="hangs")
    settings = settings_of(home, grace_seconds=100)
    with slot_acquired(settings, database) as context, at_work(context):
        reached_step(database, job_id, 3)
        draft = settings.checkpoints_dir(job_id) / ".draft-step-00000003-attempt-1-1"
        draft.mkdir()
        if before is not None:
            tell(database, before, job_id)
            heartbeats = read(database, job_id).heartbeats
            wait_for("the trainer is told to pause", lambda: read(database, job_id).heartbeats > heartbeats + 1)
        tell(database, termination.end, job_id)
        began = time.monotonic()
        wait_for("it is cancelled", lambda: read(database, job_id).status is JobStatus.CANCELLED, 30)
        seconds = time.monotonic() - began

    assert seconds < 8
    assert checkpoints.newest(settings.checkpoints_dir(job_id)).step == 2
    assert not draft.exists()


def test_a_frozen_guardian_does_not_keep_a_job_that_is_to_be_cancelled(
    database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.supervising.attempt.KILL_WAIT_SECONDS", 0.5)
    job_id = add_training(database, steps=1000, step_seconds=0.05)
    with slot_acquired(settings_of(home, grace_seconds=0.5), database) as context, at_work(context):
        reached_step(database, job_id, 2)
        (guardian,) = processes_of(job_id, "guardian_process")
        os.kill(guardian, signal.SIGSTOP)
        tell(database, termination.end, job_id)
        wait_for("it is cancelled", lambda: read(database, job_id).status is JobStatus.CANCELLED)

    assert trainers_of(job_id) == []


@pytest.mark.parametrize(
    ("confinement", "is_training_confined", "is_fetching_confined"),
    [("auto", False, True), ("on", True, True), ("off", False, False)],
)
def test_on_a_gpu_host_the_download_of_a_base_is_confined_unless_confinement_is_off(
    database: Database,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    confinement: str,
    is_training_confined: bool,
    is_fetching_confined: bool,
) -> None:
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr("worker.confinement.allowed.NVIDIA_CONTROL", tmp_path / "nvidiactl")
    job_id = add_training(database)

    work(database, home, confinement=confinement)

    path = attempt_dir(settings_of(home).job_dir(job_id), 1) / "order.json"
    order = TrainingOrder.model_validate_json(path.read_text())
    assert of_training(order).is_confined is is_training_confined
    assert of_fetching(order).is_confined is is_fetching_confined
