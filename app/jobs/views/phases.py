"""How long each attempt of a job was in each phase: download, load, training, evaluation, save, proof."""

from datetime import datetime
from itertools import zip_longest

from sqlalchemy.orm import Session

from app.contracts.stored import Unreadable
from app.database.connection import utc_now
from app.jobs import repository
from app.jobs.schemas import PhaseList, PhaseView
from app.scope import Scope

# A job with many evaluations has two events for each; of more than these the oldest are counted.
MOST_EVENTS = 5000


def list_phases(session: Session, scope: Scope, job_id: str) -> PhaseList:
    """Return the phases in the order in which they began, each once an attempt, with the seconds of all its times."""
    ends = {attempt.epoch: attempt.ended_at for attempt in repository.attempts(session, scope, job_id)}
    events = repository.events(session, scope, job_id, after=0, limit=MOST_EVENTS, kinds=["phase"])
    found: dict[tuple[int, str], PhaseView] = {}
    for event, following in zip_longest(events, events[1:]):
        if isinstance(event.payload, Unreadable):
            continue
        name = str(event.payload.get("phase"))
        end = following.at if following is not None and following.epoch == event.epoch else ends.get(event.epoch)
        view = found.setdefault(
            (event.epoch, name), PhaseView(attempt=event.epoch, phase=name, started_at=event.at, seconds=0.0, times=0)
        )
        view.seconds += _seconds(event.at, end)
        view.times += 1
        view.is_under_way = end is None
    return PhaseList(data=list(found.values()))


def _seconds(began: datetime, end: datetime | None) -> float:
    return max(0.0, ((end or utc_now()) - began).total_seconds())
