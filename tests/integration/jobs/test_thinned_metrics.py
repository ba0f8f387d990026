"""`?points=` keeps the lowest and the highest of each series, and reads as little of many events as of few."""

import json
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.contracts.events import Evaluated, StepLogged
from app.database.connection import Database
from app.jobs import metric_summaries
from app.jobs.metric_summaries import FACTOR, SMALLEST
from app.jobs.models import JobEvent, MetricSummary
from app.jobs.queue import attempts
from app.jobs.queue.claims import finish, record
from app.jobs.states import JobStatus
from app.scope import EVERY_PROJECT
from tests.support.events import a_step
from tests.support.jobs import NOW, add_job, taken

POINTS = 40
FIELDS = ("loss", "grad_norm", "tokens")


def a_noisy_step(step: int) -> StepLogged:
    chance = random.Random(step)
    return a_step(step, loss=chance.random() if chance.random() < 0.9 else None, grad_norm=1000 * chance.random())


def run(database: Database, job_id: str, first: int, last: int, *, resume_step: int = 0, batch: int = 331) -> None:
    """An attempt that logs these steps, in batches, with an evaluation at each 100th."""
    claim = taken(database)
    for begin in range(first, last + 1, batch):
        steps = range(begin, min(begin + batch, last + 1))
        events = [event for step in steps for event in reported(step)]
        with database.writer() as session:
            attempts.set_resume_step(session, job_id, claim.epoch, resume_step)
            record(session, claim, events, begin)
            session.commit()
    with database.writer() as session:
        finish(session, claim, JobStatus.QUEUED, NOW, outcome="worker_lost", reason=None)
        session.commit()


def reported(step: int) -> list[StepLogged | Evaluated]:
    evaluated = [Evaluated(step=step, eval_loss=1 / step, eval_seconds=1.0)] if step % 100 == 0 else []
    return [a_noisy_step(step), *evaluated]


def metrics(api: TestClient, job_id: str, **query: int) -> dict[str, Any]:
    answer = api.get(f"/jobs/{job_id}/metrics", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def points_of(found: dict[str, Any], field: str) -> list[tuple[int, float]]:
    return [(row["step"], row[field]) for row in found["steps"] if row.get(field) is not None]


def true_points(field: str, first: int, last: int) -> list[tuple[int, float]]:
    points = [(step, getattr(a_noisy_step(step), field)) for step in range(first, last + 1)]
    return [point for point in points if point[1] is not None]


def check(found: dict[str, Any], first: int, last: int) -> None:
    """Every point is one that was logged. First, last, lowest and highest are there, also those of the middle."""
    for field in FIELDS:
        shown, true = points_of(found, field), true_points(field, first, last)
        assert set(shown) <= set(true)
        assert len(shown) <= POINTS
        assert (shown[0], shown[-1]) == (true[0], true[-1])
        for choose in (min, max):
            assert choose(value for _, value in shown) == choose(value for _, value in true)


@pytest.mark.parametrize("steps", [41, 100, 700, 3001])
def test_peaks_stay_and_there_are_so_many_points_at_the_most(api: TestClient, database: Database, steps: int) -> None:
    job_id = add_job(database)
    run(database, job_id, 1, steps)
    found = metrics(api, job_id, points=POINTS)

    check(found, 1, steps)
    assert found["every_nth_step"] is None
    assert all(len(points_of(found, field)) >= POINTS // 4 for field in FIELDS)


@pytest.mark.parametrize("batch", [16, 75, 2000])
def test_the_summaries_are_the_same_however_the_events_came(api: TestClient, database: Database, batch: int) -> None:
    job_id = add_job(database)
    run(database, job_id, 1, 1200, batch=batch)
    with database.reader() as session:
        stored = select(MetricSummary.level, func.count()).group_by(MetricSummary.level).order_by(MetricSummary.level)
        levels = [count for _, count in session.execute(stored)]
        last = session.scalars(select(func.max(JobEvent.seq))).one()

    complete = last // SMALLEST - (1 if last % SMALLEST == 0 else 0)
    assert levels == [complete // FACTOR**level for level in range(4)]
    check(metrics(api, job_id, points=POINTS), 1, 1200)


def test_of_few_points_all_are_shown_whole(api: TestClient, database: Database) -> None:
    job_id = add_job(database)
    run(database, job_id, 1, POINTS)
    whole = metrics(api, job_id)

    assert metrics(api, job_id, points=POINTS) == whole
    assert whole["every_nth_step"] == 1


def test_steps_that_a_later_attempt_repeated_are_of_the_later_one(api: TestClient, database: Database) -> None:
    job_id = add_job(database)
    run(database, job_id, 1, 900)
    run(database, job_id, 301, 1500, resume_step=300)
    run(database, job_id, 1451, 2000, resume_step=1450)

    check(metrics(api, job_id, points=POINTS), 1, 2000)
    assert [row["step"] for row in metrics(api, job_id, points=POINTS)["evals"]] == list(range(100, 2001, 100))


def test_peaks_of_a_superseded_attempt_are_gone(api: TestClient, database: Database) -> None:
    job_id = add_job(database)
    run(database, job_id, 1, 2000)
    run(database, job_id, 18, 30, resume_step=17)

    check(metrics(api, job_id, points=POINTS), 1, 30)


@pytest.mark.parametrize(("first", "last"), [(1, 30), (500, 529), (777, 1333), (1990, 3000)])
def test_a_part_of_the_steps_is_shown_in_more_detail(
    api: TestClient, database: Database, first: int, last: int
) -> None:
    job_id = add_job(database)
    run(database, job_id, 1, 3000)
    found = metrics(api, job_id, points=POINTS, from_step=first, to_step=last)

    check(found, first, last)
    assert (found["every_nth_step"] == 1) == (last - first < POINTS)
    gaps = [after[0] - before[0] for before, after in pairwise(points_of(found, "grad_norm"))]
    assert max(gaps) <= (last - first) // (POINTS // 4) * 2 + 1


def test_a_span_without_steps_is_empty(api: TestClient, database: Database) -> None:
    job_id = add_job(database)
    run(database, job_id, 1, 300)

    assert metrics(api, job_id, points=POINTS, from_step=1000)["steps"] == []
    assert metrics(api, job_id, from_step=20, to_step=10)["steps"] == []


def test_numbers_in_an_object_are_thinned_under_their_own_names(api: TestClient, database: Database) -> None:
    job_id = add_job(database)
    store(database, job_id, 1000, lambda step: {"step": step, "metrics": {"kl": 1 if step == 555 else 0}, "note": "x"})
    found = metrics(api, job_id, points=POINTS)["steps"]

    assert {"step": 555, "metrics": {"kl": 1}} in found
    assert all("note" not in row for row in found)


def store(database: Database, job_id: str, count: int, payload: Callable[[int], dict[str, Any]]) -> None:
    with database.writer() as session:
        for step in range(1, count + 1):
            event = {"job_id": job_id, "seq": step + 1, "epoch": 1, "kind": "step", "at": NOW}
            session.add(JobEvent(**event, payload=payload(step)))
        metric_summaries.summarise(session, EVERY_PROJECT, job_id, count + 1)
        session.commit()


def test_what_is_damaged_is_left_out(api: TestClient, database: Database) -> None:
    job_id = add_job(database)
    store(database, job_id, 1000, lambda step: {"step": "x"} if step % 10 == 0 else {"step": step, "loss": True})
    with database.writer() as session:
        for row in session.scalars(select(MetricSummary).where(MetricSummary.number % 3 == 1)):
            row.parts = [{"kind": "step"}]
        session.commit()

    found = metrics(api, job_id, points=POINTS)["steps"]
    assert found == [] or "loss" not in json.dumps(found)


def test_events_that_an_older_version_stored_are_read_as_a_sample(
    api: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_summaries, "MOST_AT_ONCE", 2 * SMALLEST)
    monkeypatch.setattr(metric_summaries, "MOST_EVENTS", 100)
    job_id = add_job(database)
    store(database, job_id, 1000, lambda step: {"step": step, "loss": step})

    points = points_of(metrics(api, job_id, points=POINTS), "loss")
    assert (points[0], points[-1]) == ((1, 1), (1000, 1000))


@pytest.mark.parametrize("wrong", [{"points": 7}, {"points": 2001}, {"from_step": -1}, {"to_step": "x"}])
def test_a_wrong_number_is_refused(api: TestClient, database: Database, wrong: dict[str, Any]) -> None:
    answer = api.get(f"/jobs/{add_job(database)}/metrics", params=wrong)

    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == next(iter(wrong))
