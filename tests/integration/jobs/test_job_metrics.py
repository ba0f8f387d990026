"""The loss curve of a job that was interrupted is that of one that was not: every step once, evaluations too."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from sqlalchemy import text

from app.contracts.events import AttemptEvent, Evaluated, StepLogged
from app.database.connection import Database
from app.jobs.queue import attempts
from app.jobs.queue.claims import finish, record
from app.jobs.states import JobStatus, Stage
from app.jobs.views import metrics
from app.scope import EVERY_PROJECT
from tests.support.events import a_step
from tests.support.jobs import NOW, add_job, taken

STEPS = range(1, 61)
EVAL_STEPS = range(10, 61, 10)


@dataclass(frozen=True)
class Ran:
    """An attempt that logged the steps after `resume_step` (null: it never knew where it began) up to `last`."""

    resume_step: int | None
    last: int
    is_read_late: bool = False


def step(number: int, attempt: int) -> StepLogged:
    """`seconds` says which attempt logged it."""
    return a_step(number, seconds=float(attempt))


def logged(ran: Ran, attempt: int) -> list[AttemptEvent]:
    found: list[AttemptEvent] = []
    for number in range((ran.resume_step or 0) + 1, ran.last + 1):
        found.append(step(number, attempt))
        if number in EVAL_STEPS:
            found.append(Evaluated(step=number, eval_loss=2 / number, eval_seconds=float(attempt)))
    return found


def run(database: Database, *ran: Ran) -> str:
    """A job of these attempts. What one that is read late has logged, the next one stores for it."""
    job_id = add_job(database)
    unread: list[tuple[int, Sequence[AttemptEvent]]] = []
    for one in ran:
        claim = taken(database)
        with database.writer() as session:
            for epoch, events in unread:
                record(session, claim, events, 10**6, of_epoch=epoch)
            unread = [(claim.epoch, logged(one, claim.epoch))] if one.is_read_late else []
            if one.resume_step is not None:
                attempts.set_resume_step(session, job_id, claim.epoch, one.resume_step)
            if not one.is_read_late:
                record(session, claim, logged(one, claim.epoch), 10**6)
            finish(session, claim, JobStatus.QUEUED, NOW, outcome="worker_lost", reason=None)
            session.commit()
    return job_id


def series(database: Database, job_id: str) -> tuple[list[int], list[float], list[int]]:
    """The steps, which attempt each is of, and the steps of the evaluations."""
    with database.reader() as session:
        found = metrics.series(session, EVERY_PROJECT, job_id)
    steps, evals = found.steps, found.evals
    return [one["step"] for one in steps], [one["seconds"] for one in steps], [one["step"] for one in evals]


@pytest.mark.parametrize(
    "ran",
    [
        [Ran(0, 60)],
        [Ran(0, 47), Ran(40, 60)],
        [Ran(0, 47), Ran(0, 60)],
        [Ran(0, 40), Ran(40, 60)],
        [Ran(0, 47), Ran(None, 0), Ran(40, 60)],
        [Ran(0, 47), Ran(40, 55), Ran(20, 35), Ran(30, 60)],
        [Ran(0, 60), Ran(60, 60)],
        [Ran(0, 47, is_read_late=True), Ran(40, 60)],
        [Ran(None, 0), Ran(None, 0), Ran(0, 60), Ran(None, 0)],
    ],
    ids=str,
)
def test_an_interrupted_run_shows_the_series_of_a_quiet_one(database: Database, ran: list[Ran]) -> None:
    steps, _, evals = series(database, run(database, *ran))

    assert steps == list(STEPS)
    assert evals == list(EVAL_STEPS)


def test_a_step_is_of_the_attempt_that_the_result_comes_from(database: Database) -> None:
    _, of_attempt, _ = series(database, run(database, Ran(0, 47), Ran(None, 0), Ran(40, 60)))

    assert of_attempt == [1.0] * 40 + [3.0] * 20


def test_an_attempt_that_began_again_hides_all_before_it_though_it_is_shorter(database: Database) -> None:
    steps, of_attempt, evals = series(database, run(database, Ran(0, 47), Ran(0, 12)))

    assert (steps, set(of_attempt), evals) == (list(range(1, 13)), {2.0}, [10])


def test_an_attempt_that_does_not_know_yet_where_it_begins_hides_nothing(database: Database) -> None:
    steps, _, _ = series(database, run(database, Ran(0, 47), Ran(None, 0)))

    assert steps == list(range(1, 48))


def test_a_job_that_goes_on_from_another_begins_behind_its_checkpoint(database: Database) -> None:
    steps, _, evals = series(database, run(database, Ran(40, 52), Ran(50, 60)))

    assert (steps, evals) == (list(range(41, 61)), [50, 60])


def test_a_check_hides_nothing_of_a_training(database: Database) -> None:
    job_id = run(database, Ran(0, 60))
    with database.writer() as session:
        attempts.begin(session, job_id, 9, Stage.CHECK, "w", NOW)
        attempts.set_resume_step(session, job_id, 9, 0)
        session.commit()
    with database.reader() as session:
        assert metrics.superseded_behind(session, EVERY_PROJECT, job_id) == {}


@pytest.mark.parametrize(("count", "nth"), [(1, 1), (metrics.MOST_POINTS, 1), (12_001, 3), (12_002, 3)])
def test_a_long_series_is_thinned_and_ends_with_its_last_point(database: Database, count: int, nth: int) -> None:
    job_id = add_job(database)
    payload = "CAST('{\"step\": ' || i || '}' AS JSON)" if is_postgres(database) else "'{\"step\": ' || i || '}'"
    rows = f"SELECT :job, i + 1, 1, 'step', created_at, {payload} FROM n CROSS JOIN jobs"
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)"
    insert = f"{numbers} INSERT INTO job_events (job_id, seq, epoch, kind, at, payload) {rows}"
    with database.writer() as session:
        session.execute(text(insert), {"job": job_id, "count": count})
        session.commit()

    with database.reader() as session:
        found = metrics.series(session, EVERY_PROJECT, job_id)

    expected = [*range(1, count, nth)]
    assert [point["step"] for point in found.steps] == [*expected, count]
    assert (found.every_nth_step, found.every_nth_eval, found.evals) == (nth, 1, [])


def is_postgres(database: Database) -> bool:
    return database.engine.dialect.name == "postgresql"
