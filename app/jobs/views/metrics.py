"""The loss curve of a job, over all its attempts: that of a run which nothing interrupted."""

from typing import Any

from sqlalchemy.orm import Session

from app.jobs import repository
from app.jobs.queue import attempts
from app.jobs.queue.attempts import step_of
from app.jobs.schemas import Metrics

# Of a series. A longer one is thinned: so many are what a curve on a screen can show.
MOST_POINTS = 5000


def series(session: Session, job_id: str) -> Metrics:
    """Each step and evaluation once: what an attempt did behind the step where a later one went on does not count."""
    limits = attempts.superseded_behind(session, job_id)
    steps, every_nth_step = _points(session, job_id, "step", limits)
    evals, every_nth_eval = _points(session, job_id, "eval", limits)
    return Metrics(steps=steps, evals=evals, every_nth_step=every_nth_step, every_nth_eval=every_nth_eval)


def _points(session: Session, job_id: str, kind: str, limits: dict[int, int]) -> tuple[list[dict[str, Any]], int]:
    """The points of a series by their steps, and which part of them they are: each n-th that was stored, and the last.

    Those whose step cannot be read are left out.
    """
    count = repository.count_events(session, job_id, kind)
    nth = max(1, -(-count // MOST_POINTS))
    points: dict[int, dict[str, Any]] = {}
    for epoch, payload in repository.each_nth_event(session, job_id, kind, nth=nth, last=count):
        step = step_of(payload)
        if step is not None and step <= limits.get(epoch, step):
            points[step] = payload
    return [points[step] for step in sorted(points)], nth
