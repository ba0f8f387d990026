"""The loss curve of a job, over all its attempts: that of a run which nothing interrupted."""

from sqlalchemy.orm import Session

from app.jobs import attempts, repository
from app.jobs.models import JobEvent
from app.jobs.schemas import Metrics

ALL = 10_000_000


def series(session: Session, job_id: str) -> Metrics:
    """Each step and evaluation once: what an attempt did behind the step where a later one went on does not count."""
    limits = attempts.superseded_behind(session, job_id)
    points = {
        (event.kind, event.payload["step"]): event.payload
        for event in repository.events(session, job_id, after=0, limit=ALL, kinds=("step", "eval"))
        if _counts(event, limits)
    }
    ordered = sorted(points)
    return Metrics(
        steps=[points[key] for key in ordered if key[0] == "step"],
        evals=[points[key] for key in ordered if key[0] == "eval"],
    )


def _counts(event: JobEvent, limits: dict[int, int]) -> bool:
    limit = limits.get(event.epoch)
    return limit is None or event.payload["step"] <= limit
