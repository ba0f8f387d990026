"""The loss curve of a job over all its attempts, as if nothing had interrupted it."""

from typing import Any

from sqlalchemy.orm import Session

from app.jobs import repository
from app.jobs.queue import attempts
from app.jobs.queue.attempts import step_of
from app.jobs.schemas import Metrics

# The most points of a series. A longer one is thinned, because a curve on a screen cannot show more.
MOST_POINTS = 5000


def series(session: Session, job_id: str) -> Metrics:
    """Return each step and evaluation once, without the steps of an attempt that a later attempt repeated."""
    limits = attempts.superseded_behind(session, job_id)
    steps, every_nth_step = _points(session, job_id, "step", limits)
    evals, every_nth_eval = _points(session, job_id, "eval", limits)
    return Metrics(steps=steps, evals=evals, every_nth_step=every_nth_step, every_nth_eval=every_nth_eval)


def _points(session: Session, job_id: str, kind: str, limits: dict[int, int]) -> tuple[list[dict[str, Any]], int]:
    """Return the points of a series, ordered by step, and n: each n-th stored point and the last are among them.

    Points whose step cannot be read are left out.
    """
    count = repository.count_events(session, job_id, kind)
    nth = max(1, -(-count // MOST_POINTS))
    points: dict[int, dict[str, Any]] = {}
    for epoch, payload in repository.each_nth_event(session, job_id, kind, nth=nth, last=count):
        step = step_of(payload)
        if step is not None and step <= limits.get(epoch, step):
            points[step] = payload
    return [points[step] for step in sorted(points)], nth
