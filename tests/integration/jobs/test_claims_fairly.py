"""Whose turn it is, how often a job may be lost, and what a batch that is sent twice leaves in the tables."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import get_args

import pytest
from sqlalchemy import insert, inspect

from app.contracts.events import AttemptEvent, CheckpointRemoved, CheckpointSaved, Noticed
from app.contracts.spec import SPEC_VERSION
from app.database.connection import Database
from app.jobs import repository
from app.jobs.models import Job, JobEvent
from app.jobs.queue import attempts, order
from app.jobs.queue.attempts import DEATHS_A_FAULT
from app.jobs.queue.claims import Claim, finish, record, take_back, waiting_stages
from app.jobs.states import JobStatus, RequestedAction, Stage
from app.scope import EVERY_PROJECT
from tests.support.jobs import NOW, add_job, read, take, taken

MANY = 1000


def store(
    database: Database, claim: Claim, *events: AttemptEvent, offset: int = 10, of_epoch: int | None = None
) -> None:
    with database.writer() as session:
        record(session, claim, events, offset, of_epoch=of_epoch)
        session.commit()


def begin_behind(database: Database, claim: Claim, step: int) -> None:
    with database.writer() as session:
        attempts.set_resume_step(session, claim.job_id, claim.epoch, step)
        session.commit()


def lose(database: Database, job_id: str, max_attempts: int = 3) -> Job:
    with database.writer() as session:
        job = take_back(
            session, read(database, job_id), NOW, reason="silent", max_attempts=max_attempts, pause=timedelta(seconds=5)
        )
        session.commit()
    assert job is not None
    return job


def retry(database: Database, step: int | None) -> Claim:
    """The next attempt of the one job, at once."""
    with database.writer() as session:
        for job in session.query(Job):
            job.run_after = None
        session.commit()
    claim = taken(database)
    if step is not None:
        begin_behind(database, claim, step)
    return claim


def saved(step: int, path: str | None = None) -> CheckpointSaved:
    return CheckpointSaved(step=step, path=path or f"/ck/{step}", bytes=9, sha256="ab", seconds=0.5)


def kinds(database: Database, job_id: str) -> list[str]:
    with database.reader() as session:
        return [event.kind for event in repository.events(session, EVERY_PROJECT, job_id, after=0, limit=100)]


def kept(database: Database, job_id: str) -> list[tuple[int, int]]:
    with database.reader() as session:
        return [(one.step, one.epoch) for one in repository.checkpoints(session, EVERY_PROJECT, job_id)]


def add_many(database: Database, project: str, count: int) -> None:
    """One long row, copied by the database's own bulk insert."""
    model = read(database, add_job(database, project=project, age=100))
    values = {column.key: getattr(model, column.key) for column in inspect(Job).column_attrs}
    rows = [{**values, "id": f"job-{n:024d}"} for n in range(count - 1)]
    with database.writer() as session:
        session.execute(insert(Job), rows)
        session.commit()


def test_a_project_with_a_thousand_jobs_does_not_starve_another(database: Database) -> None:
    add_many(database, "large", MANY)
    at_work = [taken(database, f"w{n}") for n in range(2)]
    small = add_job(database, project="small", age=0)

    assert {read(database, claim.job_id).project for claim in at_work} == {"large"}
    assert taken(database, "w3").job_id == small


def test_projects_take_turns_by_how_many_jobs_are_at_work(database: Database) -> None:
    for age in range(4):
        for project in ("a", "b", "c"):
            add_job(database, project=project, age=age)
    projects = [read(database, taken(database, f"w{n}").job_id).project for n in range(9)]

    assert [set(projects[n : n + 3]) for n in (0, 3, 6)] == [{"a", "b", "c"}] * 3


def test_projects_take_turns_also_if_there_are_more_of_them_than_workers(database: Database) -> None:
    """The oldest jobs of all are those of the project that has submitted most."""
    for place, (project, count) in enumerate({"large": 20, "b": 4, "c": 4, "d": 4, "e": 4}.items()):
        for _ in range(count):
            add_job(database, project=project, age=100 - place)
    at_work, begun = [taken(database, f"w{n}") for n in range(3)], Counter[str]()
    for number in range(17):
        claim = at_work.pop(number % 2)
        begun[str(read(database, claim.job_id).project)] += 1
        with database.writer() as session:
            finish(session, claim, JobStatus.SUCCEEDED, NOW, outcome="finished", reason=None)
            session.commit()
        at_work.append(taken(database, claim.worker))

    assert max(begun.values()) - min(begun.values()) <= 1, begun
    assert len(begun) == 5


def test_projects_take_turns_though_workers_claim_at_once(database: Database) -> None:
    for project in "abcde":
        for _ in range(12):
            add_job(database, project=project)
    begun: Counter[str] = Counter()

    with ThreadPoolExecutor(3) as pool:
        for _ in range(10):
            claims = list(pool.map(lambda worker: taken(database, worker), ["w0", "w1", "w2"]))
            for claim in claims:
                begun[read(database, claim.job_id).project] += 1
                with database.writer() as session:
                    finish(session, claim, JobStatus.FAILED, NOW, outcome="failed", reason=None)
                    session.commit()

    assert begun == dict.fromkeys("abcde", 6)


def test_priority_comes_before_fairness_and_fairness_before_age(database: Database) -> None:
    add_job(database, project="busy", age=90)
    taken(database)
    old, young = add_job(database, project="busy", age=60), add_job(database, project="idle", age=0)
    urgent = add_job(database, project="busy", age=0, priority=1)

    assert [taken(database, f"v{n}").job_id for n in range(3)] == [urgent, young, old]


def test_a_waiting_job_knows_the_place_at_which_it_is_taken(database: Database) -> None:
    add_job(database, project="a", age=99)
    taken(database, "v")
    waiting = [add_job(database, project="aabac"[n % 5], priority=n % 3 == 0, age=n * 7 % 11) for n in range(15)]
    with database.reader() as session:
        places = {order.places(session, Stage.TRAIN, [job], SPEC_VERSION)[job]: job for job in waiting}

    assert [places[place] for place in range(1, 16)] == [taken(database, f"w{n}").job_id for n in range(15)]


def test_jobs_that_are_checked_count_nothing_against_a_training(database: Database) -> None:
    for _ in range(3):
        add_job(database, JobStatus.VALIDATING, project="checked")
        taken(database, stage=Stage.CHECK)
    old, _ = add_job(database, project="checked", age=60), add_job(database, project="other")

    assert taken(database).job_id == old


def test_a_pause_written_by_a_clock_that_was_set_back_strands_no_job(database: Database) -> None:
    add_job(database, run_after=NOW + timedelta(days=400))
    with database.reader() as session:
        assert waiting_stages(session, NOW) == {Stage.TRAIN}

    assert take(database) is not None


@pytest.mark.parametrize("seconds", [1, 599, 600, 630])
def test_the_longest_pause_is_kept_though_clocks_differ_a_little(database: Database, seconds: int) -> None:
    add_job(database, run_after=NOW + timedelta(seconds=seconds))

    assert take(database) is None


@pytest.mark.parametrize(
    ("stage", "requested_action", "target"),
    [
        (Stage.TRAIN, RequestedAction.RUN, JobStatus.QUEUED),
        (Stage.TRAIN, RequestedAction.PAUSE, JobStatus.PAUSED),
        (Stage.TRAIN, RequestedAction.CANCEL, JobStatus.CANCELLED),
        (Stage.CHECK, RequestedAction.RUN, JobStatus.VALIDATING),
        (Stage.CHECK, RequestedAction.PAUSE, JobStatus.VALIDATING),
        (Stage.CHECK, RequestedAction.CANCEL, JobStatus.CANCELLED),
    ],
)
def test_a_lost_job_becomes_what_its_user_wants(
    database: Database, stage: Stage, requested_action: RequestedAction, target: JobStatus
) -> None:
    job_id = add_job(database, stage.waiting, requested_action=requested_action)
    claim = taken(database, stage=stage)
    lose(database, job_id)
    job = read(database, job_id)

    assert (job.status, job.worker, job.slot, job.phase, job.epoch) == (target, None, None, None, claim.epoch + 1)
    with database.reader() as session:
        (attempt,) = repository.attempts(session, EVERY_PROJECT, job_id)
    assert (attempt.outcome, attempt.reason, attempt.ended_at) == ("worker_lost", "silent", NOW)


@pytest.mark.parametrize("step", [None, 0, 40])
def test_a_job_lost_too_often_in_the_same_place_fails(database: Database, step: int | None) -> None:
    job_id = add_job(database)
    for _ in range(2 * DEATHS_A_FAULT):
        retry(database, step)
        assert lose(database, job_id).status is JobStatus.QUEUED
    retry(database, step)
    job = lose(database, job_id)

    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error["code"], job.error["category"]) == ("worker_lost", "system_error")
    assert "again and again in the same place" in job.error["message"]


def test_a_job_that_gets_further_may_be_lost_any_number_of_times(database: Database) -> None:
    job_id = add_job(database)
    for step in range(0, 100, 10):
        claim = retry(database, step)
        store(database, claim, saved(step + 10))
        assert lose(database, job_id, max_attempts=1).status is JobStatus.QUEUED


def test_a_checkpoint_of_the_step_it_began_with_is_no_progress(database: Database) -> None:
    job_id = add_job(database)
    store(database, retry(database, 40), saved(40))

    assert lose(database, job_id, max_attempts=1).status is JobStatus.FAILED


def test_the_checkpoint_of_another_attempt_is_no_progress_of_this_one(database: Database) -> None:
    job_id = add_job(database)
    store(database, retry(database, 0), saved(40))
    lose(database, job_id)
    retry(database, 0)

    assert lose(database, job_id, max_attempts=1).status is JobStatus.FAILED


def test_attempts_that_were_handed_back_do_not_count(database: Database) -> None:
    job_id = add_job(database)
    for outcome in sorted(attempts.HANDED_BACK):
        claim = retry(database, 0)
        with database.writer() as session:
            finish(session, claim, JobStatus.QUEUED, NOW, outcome=outcome, reason=None)
            session.commit()
    retry(database, 0)

    assert lose(database, job_id, max_attempts=2).status is JobStatus.QUEUED


def test_a_job_that_is_to_be_paused_or_cancelled_does_not_fail_for_being_lost(database: Database) -> None:
    job_id = add_job(database, requested_action=RequestedAction.PAUSE)
    taken(database)

    assert lose(database, job_id, max_attempts=1).status is JobStatus.PAUSED


def test_a_batch_that_is_sent_twice_is_stored_once(database: Database) -> None:
    """Its commit went well, and the answer was lost."""
    job_id = add_job(database)
    claim = taken(database)
    batch = (Noticed(code="a", message="a"), saved(10))
    for _ in range(2):
        store(database, claim, *batch, offset=50)
    store(database, claim, saved(20), offset=90)

    assert kinds(database, job_id) == ["status", "status", "notice", "checkpoint", "checkpoint"]
    assert read(database, job_id).last_seq == 5


def test_a_heartbeat_without_events_keeps_the_offset(database: Database) -> None:
    add_job(database)
    claim = taken(database)
    store(database, claim, offset=50)
    store(database, claim, saved(10), offset=50)

    assert kept(database, claim.job_id) == [(10, claim.epoch)]


def test_what_an_earlier_attempt_left_unread_is_stored_as_its_own(database: Database) -> None:
    job_id = add_job(database)
    first = retry(database, 0)
    store(database, first, saved(10), offset=50)
    lose(database, job_id)
    second = retry(database, None)
    for _ in range(2):
        store(database, second, saved(20), offset=90, of_epoch=first.epoch)
    store(database, second, saved(30), offset=40)

    assert kept(database, job_id) == [(30, second.epoch), (20, first.epoch), (10, first.epoch)]
    with database.reader() as session:
        epochs = [
            one.epoch
            for one in repository.events(session, EVERY_PROJECT, job_id, after=0, limit=100, kinds=["checkpoint"])
        ]
        offsets = [attempts.stored_offset(session, job_id, claim.epoch) for claim in (first, second)]
    assert (epochs, offsets) == ([first.epoch, first.epoch, second.epoch], [90, 40])


def test_every_kind_of_event_fits_into_its_column() -> None:
    """SQLite takes any length, PostgreSQL refuses the whole batch."""
    events = get_args(get_args(AttemptEvent)[0])
    length = JobEvent.__table__.columns["kind"].type.length  # type: ignore[attr-defined]

    assert len(events) > 10
    assert max(len(event.model_fields["kind"].default) for event in events) <= length


def test_the_table_holds_the_checkpoints_that_are_on_the_disk(database: Database) -> None:
    job_id = add_job(database)
    claim = taken(database)
    gone = CheckpointRemoved(step=10, path="/ck/10")
    store(database, claim, saved(10), saved(20), gone, saved(30), offset=50)
    store(database, claim, CheckpointRemoved(step=20, path="/ck/20"), offset=60)

    assert kept(database, job_id) == [(30, claim.epoch)]


def test_two_attempts_may_keep_a_checkpoint_of_the_same_step(database: Database) -> None:
    job_id = add_job(database)
    first = retry(database, 0)
    store(database, first, saved(10, "/ck/1-10"))
    lose(database, job_id)
    second = retry(database, 0)
    store(database, second, saved(10, "/ck/3-10"), CheckpointRemoved(step=10, path="/ck/1-10"))

    assert kept(database, job_id) == [(10, second.epoch)]
