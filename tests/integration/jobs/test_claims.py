"""A job is worked on by one worker at a time, and only its holder writes to it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from app.contracts.events import AttemptEvent, Noticed, Phase, PhaseStarted, RowsChecked, StepTaken
from app.database.connection import Database
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.queue.claims import Claim, Fenced, RequestedState, finish, record, take_back
from app.jobs.states import JobStatus, RequestedAction, Stage
from app.scope import EVERY_PROJECT
from tests.support.events import a_step
from tests.support.jobs import NOW, add_job, read, take, taken

STEP = a_step(5, total_steps=20, epoch=0.25, loss=1.5, grad_norm=0.5, tokens=100, tokens_per_second=50.0, seconds=2.0)


def store(database: Database, claim: Claim, *events: AttemptEvent, offset: int = 1) -> RequestedState:
    with database.writer() as session:
        requested = record(session, claim, events, offset)
        session.commit()
    return requested


def lose(session: Session, job: Job) -> bool:
    """Take the job back from a holder that fell silent."""
    return take_back(session, job, NOW, reason="silent", max_attempts=99, pause=None) is not None


def test_a_waiting_job_is_claimed_only_once(database: Database) -> None:
    add_job(database)

    assert take(database, "w1") is not None
    assert take(database, "w2") is None


def test_many_workers_at_once_claim_every_job_once(database: Database) -> None:
    ids = {add_job(database, age=age) for age in range(12)}
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: take(database, f"w{n}"), range(20)))

    assert sorted(claim.job_id for claim in claims if claim) == sorted(ids)


def test_the_highest_priority_comes_first_and_then_the_oldest(database: Database) -> None:
    young, old, urgent = add_job(database), add_job(database, age=60), add_job(database, priority=5)

    assert [taken(database).job_id for _ in range(3)] == [urgent, old, young]


def test_a_job_that_pauses_after_a_failure_is_not_claimed_yet(database: Database) -> None:
    add_job(database, run_after=NOW + timedelta(seconds=1))

    assert take(database) is None


def test_each_stage_claims_only_its_own_jobs(database: Database) -> None:
    unchecked = add_job(database, JobStatus.VALIDATING)

    assert take(database, stage=Stage.TRAIN) is None
    assert taken(database, stage=Stage.CHECK).job_id == unchecked


def test_events_are_numbered_without_gaps_and_show_on_the_row(database: Database) -> None:
    claim = taken_with_job(database)
    store(database, claim, PhaseStarted(phase=Phase.TRAIN), STEP)
    with database.reader() as session:
        events = repository.events(session, EVERY_PROJECT, claim.job_id, after=0, limit=100)
    job = read(database, claim.job_id)

    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert (job.phase, job.last_seq) == ("train", 4)
    assert job.progress is not None
    assert (job.progress["percent"], job.progress["eta_seconds"]) == (25.0, 6.0)


def test_a_step_that_is_not_logged_moves_the_progress_on_and_is_no_event(database: Database) -> None:
    claim = taken_with_job(database)
    taken_step = StepTaken.model_validate({**STEP.model_dump(exclude={"kind"}), "step": 6, "loss": 1.25})
    store(database, claim, STEP, taken_step, PhaseStarted(phase=Phase.SAVE))
    with database.reader() as session:
        events = repository.events(session, EVERY_PROJECT, claim.job_id, after=0, limit=100)
    job = read(database, claim.job_id)

    assert [(event.seq, event.kind) for event in events][-2:] == [(job.last_seq - 1, "step"), (job.last_seq, "phase")]
    assert job.progress is not None
    assert (job.progress["step"], job.progress["percent"], job.progress["loss"]) == (6, 30.0, 1.25)


@pytest.mark.parametrize(("total", "percent"), [(400, 25.0), (50, 100.0), (None, None)])
def test_a_check_shows_how_far_it_is_until_it_has_ended(
    database: Database, total: int | None, percent: float | None
) -> None:
    job_id = add_job(database, JobStatus.VALIDATING)
    claim = taken(database, stage=Stage.CHECK)
    rows = RowsChecked(source="source", records=9, bytes_read=100, total_bytes=total, seconds=1.5)
    store(database, claim, rows)

    shown = {"source": "source", "records": 9, "bytes_read": 100, "total_bytes": total, "seconds": 1.5}
    assert read(database, job_id).checking == {**shown, "percent": percent}
    with database.writer() as session:
        finish(session, claim, JobStatus.QUEUED, NOW, outcome="finished", reason=None)
        session.commit()
    assert read(database, job_id).checking is None


def test_a_check_that_begins_again_shows_nothing_of_the_one_before(database: Database) -> None:
    job_id = add_job(database, JobStatus.VALIDATING)
    claim = taken(database, stage=Stage.CHECK)
    store(database, claim, RowsChecked(source="source", records=9, bytes_read=0, total_bytes=None, seconds=1.5))
    with database.writer() as session:
        lose(session, read(database, job_id))
        session.commit()

    assert read(database, job_id).checking is None


def taken_with_job(database: Database) -> Claim:
    add_job(database)
    return taken(database)


def test_a_notice_is_kept_once_however_often_it_is_given(database: Database) -> None:
    claim = taken_with_job(database)
    notice = Noticed(code="optimizer_replaced", message="m", field="training.optim")
    store(database, claim, notice, notice)

    assert len(read(database, claim.job_id).notices) == 1


def test_a_holder_that_lost_its_job_can_write_nothing(database: Database) -> None:
    claim = taken_with_job(database)
    with database.writer() as session:
        lose(session, session.get_one(Job, claim.job_id))
        session.commit()

    with pytest.raises(Fenced):
        store(database, claim, STEP)
    with database.writer() as session, pytest.raises(Fenced):
        finish(session, claim, JobStatus.SUCCEEDED, NOW, outcome="finished", reason=None)


def test_a_job_is_not_taken_back_after_a_heartbeat(database: Database) -> None:
    claim = taken_with_job(database)
    seen = read(database, claim.job_id)
    store(database, claim)
    with database.writer() as session:
        assert not lose(session, seen)


def test_a_job_taken_back_runs_again_under_a_higher_epoch(database: Database) -> None:
    first = taken_with_job(database)
    with database.writer() as session:
        assert lose(session, read(database, first.job_id))
        session.commit()
    second = taken(database, "w2")

    assert second.job_id == first.job_id
    assert second.epoch > first.epoch


def test_a_heartbeat_learns_that_the_job_is_to_be_cancelled(database: Database) -> None:
    claim = taken_with_job(database)
    with database.writer() as session:
        repository.request(session, EVERY_PROJECT, claim.job_id, RequestedAction.CANCEL)
        session.commit()

    assert store(database, claim).requested_action is RequestedAction.CANCEL


def test_a_finished_job_stays_as_it_is(database: Database) -> None:
    claim = taken_with_job(database)
    with database.writer() as session:
        finish(session, claim, JobStatus.SUCCEEDED, NOW, outcome="finished", reason=None)
        session.commit()
    with database.writer() as session:
        assert repository.move(session, EVERY_PROJECT, claim.job_id, JobStatus.CANCELLED, NOW) is None
        assert repository.request(session, EVERY_PROJECT, claim.job_id, RequestedAction.CANCEL) is None


def test_a_worker_that_took_its_job_again_is_fenced_from_the_attempt_before(database: Database) -> None:
    """A restarted worker bears the same name: only the epoch tells the two attempts apart."""
    before = taken_with_job(database)
    with database.writer() as session:
        assert lose(session, read(database, before.job_id))
        session.commit()
    again = taken(database, before.worker)

    with pytest.raises(Fenced):
        store(database, before, STEP)
    assert store(database, again).requested_action is RequestedAction.RUN
