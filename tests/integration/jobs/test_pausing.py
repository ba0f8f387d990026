"""Pause, resume and checkpoints over HTTP: at every status, twice, and against a worker that moves meanwhile."""

from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.contracts.events import BestChanged, BestEvaluation, CheckpointSaved
from app.database.connection import Database, utc_now
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.queue.claims import Claim, finish, record, record_event, take_back
from app.jobs.states import ALIVE, ENDED, WORKER_STAGES, JobStatus, RequestedAction, Stage, given_back, next_status
from app.scope import EVERY_PROJECT
from tests.support.jobs import NOW, add_job, read, take, taken
from tests.support.jobs_api import error_of


def notified(api: TestClient) -> list[Stage]:
    found: list[Stage] = api.app.state.notifier.notified  # type: ignore[attr-defined]
    return found


def post_action(api: TestClient, job_id: str, what: str) -> tuple[str, bool, bool]:
    """Post an action. Return the status, and whether a pause and a cancel are requested."""
    answer = api.post(f"/jobs/{job_id}/{what}")
    assert answer.is_success, answer.text
    job = answer.json()
    return job["status"], job["pause_requested"], job["cancel_requested"]


def held(database: Database, stage: Stage = Stage.TRAIN, **values: Any) -> Claim:
    add_job(database, stage.waiting, **values)
    return taken(database, stage=stage)


def give_back(database: Database, claim: Claim) -> JobStatus:
    """What a worker does with a job whose attempt ended without a result."""
    with database.writer() as session:
        target = given_back(claim.stage, session.get_one(Job, claim.job_id).requested_action)
        job = finish(session, claim, target, NOW, outcome="worker_stopped", reason=None)
        session.commit()
    return job.status


def save(database: Database, claim: Claim, *steps: int) -> None:
    saved = [CheckpointSaved(step=step, path=f"/ck/{step}", bytes=9, sha256="ab", seconds=0.5) for step in steps]
    with database.writer() as session:
        record(session, claim, saved, 10)
        session.commit()


@pytest.mark.parametrize("status", sorted(ENDED))
@pytest.mark.parametrize("what", ["pause", "resume"])
def test_a_job_that_has_ended_is_neither_paused_nor_resumed(
    api: TestClient, database: Database, status: JobStatus, what: str
) -> None:
    answer = api.post(f"/jobs/{add_job(database, status)}/{what}")

    assert error_of(answer)[:2] == (409, "job_has_ended")
    assert f"cannot be {what}d" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("status", "after"),
    [
        (JobStatus.VALIDATING, ("validating", True, False)),
        (JobStatus.QUEUED, ("paused", False, False)),
        (JobStatus.PAUSED, ("paused", False, False)),
    ],
)
def test_a_job_that_nobody_holds_is_paused_once_however_often_it_is_asked(
    api: TestClient, database: Database, status: JobStatus, after: tuple[str, bool, bool]
) -> None:
    job_id = add_job(database, status)
    known = [post_action(api, job_id, "pause") for _ in range(2)]
    events = api.get(f"/jobs/{job_id}/events").json()["data"]

    assert known == [after, after]
    assert [event.get("status") for event in events].count("paused") == 1 or status is JobStatus.VALIDATING


@pytest.mark.parametrize("stage", WORKER_STAGES)
def test_a_job_that_is_held_is_asked_to_pause(api: TestClient, database: Database, stage: Stage) -> None:
    claim = held(database, stage)

    assert [post_action(api, claim.job_id, "pause") for _ in range(2)] == [(stage.active.value, True, False)] * 2
    assert read(database, claim.job_id).requested_action is RequestedAction.PAUSE


def requests(api: TestClient, job_id: str) -> list[str]:
    events = api.get(f"/jobs/{job_id}/events").json()["data"]
    assert [event["seq"] for event in events] == list(range(events[0]["seq"], events[0]["seq"] + len(events)))
    return [event["request"] for event in events if event["kind"] == "request"]


@pytest.mark.parametrize("stage", WORKER_STAGES)
def test_what_is_asked_of_a_worker_is_an_event_as_often_as_it_changes_something(
    api: TestClient, database: Database, stage: Stage
) -> None:
    job_id = held(database, stage).job_id

    for what in ("resume", "pause", "pause", "resume", "pause", "cancel", "cancel"):
        post_action(api, job_id, what)

    assert requests(api, job_id) == ["pause", "resume", "pause", "cancel"]


def test_a_job_that_waits_for_its_check_writes_that_it_is_to_be_paused(api: TestClient, database: Database) -> None:
    job_id = add_job(database, JobStatus.VALIDATING)

    post_action(api, job_id, "pause")

    assert requests(api, job_id) == ["pause"]


@pytest.mark.parametrize("status", sorted(ALIVE))
def test_resuming_twice_is_the_same_as_once(api: TestClient, database: Database, status: JobStatus) -> None:
    requested_action = RequestedAction.PAUSE if status is JobStatus.PAUSED else RequestedAction.RUN
    job_id = add_job(database, status, requested_action=requested_action)
    after = ("queued" if status is JobStatus.PAUSED else status.value, False, False)

    assert [post_action(api, job_id, "resume") for _ in range(2)] == [after, after]
    assert read(database, job_id).requested_action is RequestedAction.RUN


def test_a_resumed_job_is_claimed_at_once_and_its_workers_are_notified(api: TestClient, database: Database) -> None:
    error = {"category": "system_error", "code": "disk_full", "message": "m"}
    later = utc_now() + timedelta(seconds=300)
    job_id = add_job(database, JobStatus.PAUSED, requested_action=RequestedAction.PAUSE, run_after=later, error=error)
    answer = api.post(f"/jobs/{job_id}/resume").json()

    assert (answer["status"], answer["error"]) == ("queued", None)
    assert notified(api) == [Stage.TRAIN]
    assert take(database) is not None


@pytest.mark.parametrize("stage", WORKER_STAGES)
def test_resuming_a_job_that_is_not_paused_yet_withdraws_the_pause(
    api: TestClient, database: Database, stage: Stage
) -> None:
    claim = held(database, stage)
    post_action(api, claim.job_id, "pause")

    assert post_action(api, claim.job_id, "resume") == (stage.active.value, False, False)
    assert give_back(database, claim) is stage.waiting
    assert notified(api) == []


@pytest.mark.parametrize("what", ["pause", "resume"])
@pytest.mark.parametrize("stage", WORKER_STAGES)
def test_a_cancel_is_not_taken_back(api: TestClient, database: Database, what: str, stage: Stage) -> None:
    claim = held(database, stage)
    post_action(api, claim.job_id, "cancel")
    answer = api.post(f"/jobs/{claim.job_id}/{what}")

    assert error_of(answer)[:2] == (409, "job_has_ended")
    assert "is being cancelled" in answer.json()["error"]["message"]
    assert read(database, claim.job_id).requested_action is RequestedAction.CANCEL


@pytest.mark.parametrize("stage", WORKER_STAGES)
def test_a_cancel_beats_a_pause(api: TestClient, database: Database, stage: Stage) -> None:
    claim = held(database, stage)
    post_action(api, claim.job_id, "pause")

    assert post_action(api, claim.job_id, "cancel") == (stage.active.value, False, True)
    assert give_back(database, claim) is JobStatus.CANCELLED


@pytest.mark.parametrize("status", [JobStatus.VALIDATING, JobStatus.QUEUED, JobStatus.PAUSED])
def test_what_nobody_holds_is_cancelled_at_once_also_when_it_is_paused(
    api: TestClient, database: Database, status: JobStatus
) -> None:
    job_id = add_job(database, status, requested_action=RequestedAction.PAUSE)

    assert [post_action(api, job_id, "cancel") for _ in range(2)] == [("cancelled", False, False)] * 2


def test_a_paused_job_is_not_claimed(api: TestClient, database: Database) -> None:
    post_action(api, add_job(database), "pause")

    assert take(database) is None


def test_a_job_paused_while_it_is_checked_is_checked_to_the_end_first(api: TestClient, database: Database) -> None:
    first = held(database, Stage.CHECK)
    post_action(api, first.job_id, "pause")
    assert give_back(database, first) is JobStatus.VALIDATING

    claim = taken(database, stage=Stage.CHECK)
    with database.writer() as session:
        target = next_status(Stage.CHECK, Stage.TRAIN, session.get_one(Job, claim.job_id).requested_action)
        finish(session, claim, target, NOW, outcome="finished", reason=None)
        session.commit()
    assert post_action(api, claim.job_id, "resume") == ("queued", False, False)


@pytest.mark.parametrize(
    ("what", "after"), [("pause", JobStatus.PAUSED), ("cancel", JobStatus.CANCELLED), ("resume", JobStatus.QUEUED)]
)
def test_a_request_is_fulfilled_though_the_job_is_given_back_at_this_moment(
    api: TestClient, database: Database, what: str, after: JobStatus
) -> None:
    """The holder's transaction is open, and ends while the request waits for it."""
    claim = held(database)
    with ThreadPoolExecutor(1) as pool:
        with database.writer() as session:
            finish(session, claim, JobStatus.QUEUED, NOW, outcome="worker_stopped", reason=None)
            answer = pool.submit(post_action, api, claim.job_id, what)
            assert not wait([answer], timeout=0.5).done
            session.commit()
        assert answer.result() == (after.value, False, False)


@pytest.mark.parametrize(
    ("requested_action", "after"),
    [
        (RequestedAction.RUN, JobStatus.QUEUED),
        (RequestedAction.PAUSE, JobStatus.PAUSED),
        (RequestedAction.CANCEL, JobStatus.CANCELLED),
    ],
)
def test_a_request_is_fulfilled_though_the_lost_job_is_taken_back_at_this_moment(
    database: Database, requested_action: RequestedAction, after: JobStatus
) -> None:
    claim = held(database)
    seen = read(database, claim.job_id)
    with database.writer() as session:
        repository.request(session, EVERY_PROJECT, claim.job_id, requested_action)
        session.commit()
    with database.writer() as session:
        taken = take_back(session, seen, NOW, reason="silent", max_attempts=9, pause=None)
        session.commit()

    assert taken is not None
    assert (taken.status, taken.worker) == (after, None)


def test_a_checkpoint_is_asked_of_a_running_job(api: TestClient, database: Database) -> None:
    claim = held(database)
    answers = [api.post(f"/jobs/{claim.job_id}/checkpoint") for _ in range(2)]
    with database.writer() as session:
        requested = record(session, claim, [], 0)

    assert [answer.status_code for answer in answers] == [202, 202]
    assert requested.checkpoints_requested == 2
    assert requests(api, claim.job_id) == ["checkpoint"] * 2


@pytest.mark.parametrize("status", [status for status in JobStatus if status is not JobStatus.RUNNING])
def test_a_job_that_does_not_run_makes_no_checkpoint(api: TestClient, database: Database, status: JobStatus) -> None:
    answer = api.post(f"/jobs/{add_job(database, status)}/checkpoint")

    assert error_of(answer)[:2] == (409, "job_not_running")
    assert f"is {status.value}" in answer.json()["error"]["message"]


def test_checkpoints_are_listed_newest_first(api: TestClient, database: Database) -> None:
    claim = held(database)
    save(database, claim, 20, 30)
    found = api.get(f"/jobs/{claim.job_id}/checkpoints").json()

    assert [(one["step"], one["attempt"], one["bytes"]) for one in found["data"]] == [(30, 1, 9), (20, 1, 9)]
    assert "path" not in found["data"][0]
    assert [one["is_best"] for one in found["data"]] == [False, False]


@pytest.mark.parametrize(
    ("best", "expected"), [([20], [False, True]), ([20, 30], [True, False]), ([20, None], [False, False])]
)
def test_the_checkpoint_of_the_best_evaluation_is_named(
    api: TestClient, database: Database, best: list[int | None], expected: list[bool]
) -> None:
    claim = held(database)
    save(database, claim, 20, 30)
    with database.writer() as session:
        for step in best:
            value = BestEvaluation(step=step, metric="eval_loss", value=1.0) if step is not None else None
            record_event(session, claim, BestChanged(best=value))
        session.commit()

    found = api.get(f"/jobs/{claim.job_id}/checkpoints").json()["data"]

    assert [one["is_best"] for one in found] == expected


@pytest.mark.parametrize(
    ("method", "what"),
    [("POST", "pause"), ("POST", "resume"), ("POST", "checkpoint"), ("POST", "cancel"), ("GET", "checkpoints")],
)
def test_unknown_jobs_and_temporary_jobs_are_not_found(
    api: TestClient, database: Database, method: str, what: str
) -> None:
    hidden = add_job(database, JobStatus.VALIDATING, is_temporary=True)
    answers = [api.request(method, f"/jobs/{job_id}/{what}") for job_id in (hidden, "job-" + "a" * 24, "x")]

    assert [error_of(answer)[:2] for answer in answers] == [(404, "unknown_job")] * 3
    assert read(database, hidden).requested_action is RequestedAction.RUN
