"""What is asked and kept of the attempts of a job: how often they failed, where they went on, what they left unread."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.jobs.models import Attempt, JobEvent
from app.jobs.states import Stage

# Ends that say nothing against the job: its worker was stopped, its user paused it, its disk was full, the engine away
# or in its way.
HANDED_BACK = frozenset(
    {
        "worker_stopped",
        "paused",
        "cancelled",
        "interrupted",
        "disk_full",
        "engine_unavailable",
        "no_room_beside_engine",
    }
)


# Deaths that came from outside: whoever kills a host's processes again and again means no job by it. So many of them
# are one fault, since a job may also be what kills its worker.
FROM_OUTSIDE = frozenset({"worker_lost", "process_killed", "engine_died"})
DEATHS_A_FAULT = 7


def faults(session: Session, job_id: str, epoch: int) -> int:
    """How often attempts up to this one failed where it failed: in its stage, behind the same step.

    An attempt that got as far as a new checkpoint makes good for those before it, so it counts 0.
    """
    attempts = session.scalars(select(Attempt).where(Attempt.job_id == job_id, Attempt.epoch <= epoch)).all()
    this = next((attempt for attempt in attempts if attempt.epoch == epoch), None)
    if this is None or _has_progressed(session, this):
        return 0
    same = (one for one in attempts if one.stage is this.stage and (one.resume_step or 0) == (this.resume_step or 0))
    outcomes = [one.outcome for one in same if one.epoch != epoch and one.outcome not in HANDED_BACK]
    deaths = sum(1 for outcome in outcomes if outcome in FROM_OUTSIDE)
    return 1 + len(outcomes) - deaths + deaths // DEATHS_A_FAULT


def _has_progressed(session: Session, attempt: Attempt) -> bool:
    """Whether it saved a step beyond all that were saved before, those included that turned out to be damaged."""
    is_saved = (JobEvent.job_id == attempt.job_id, JobEvent.kind == "checkpoint", JobEvent.epoch <= attempt.epoch)
    newest = select(func.max(JobEvent.seq)).where(*is_saved).group_by(JobEvent.epoch)  # the steps of an attempt ascend
    saved = select(JobEvent.epoch, JobEvent.payload).where(JobEvent.job_id == attempt.job_id, JobEvent.seq.in_(newest))
    steps = {row.epoch: step_of(row.payload) or 0 for row in session.execute(saved)}
    own = steps.pop(attempt.epoch, 0)
    return own > max((attempt.resume_step or 0, *steps.values()))


def step_of(payload: dict[str, Any]) -> int | None:
    """The step that an event is about; None where it says none."""
    step = payload.get("step")
    return step if isinstance(step, int) else None


def begin(session: Session, job_id: str, epoch: int, stage: Stage, worker: str, now: datetime) -> None:
    session.add(Attempt(job_id=job_id, epoch=epoch, stage=stage, worker=worker, started_at=now, events_offset=0))


def end(
    session: Session,
    job_id: str,
    epoch: int,
    now: datetime,
    *,
    outcome: str,
    reason: str | None,
    exit_code: int | None = None,
) -> None:
    attempt = update(Attempt).where(Attempt.job_id == job_id, Attempt.epoch == epoch, Attempt.ended_at.is_(None))
    session.execute(attempt.values(ended_at=now, outcome=outcome, reason=reason, exit_code=exit_code))


def of_stage(session: Session, job_id: str, stage: Stage) -> Sequence[Attempt]:
    """All of them, the oldest first."""
    query = select(Attempt).where(Attempt.job_id == job_id, Attempt.stage == stage)
    return session.scalars(query.order_by(Attempt.epoch)).all()


def stored_offset(session: Session, job_id: str, epoch: int) -> int:
    """Bytes of the attempt's events file that are stored."""
    query = select(Attempt.events_offset).where(Attempt.job_id == job_id, Attempt.epoch == epoch)
    return session.scalar(query) or 0


def store_offset(session: Session, job_id: str, epoch: int, offset: int) -> None:
    attempt = update(Attempt).where(Attempt.job_id == job_id, Attempt.epoch == epoch)
    session.execute(attempt.values(events_offset=offset))


def set_resume_step(session: Session, job_id: str, epoch: int, step: int) -> None:
    attempt = update(Attempt).where(Attempt.job_id == job_id, Attempt.epoch == epoch)
    session.execute(attempt.values(resume_step=step))


def superseded_behind(session: Session, job_id: str) -> dict[int, int]:
    """For each training attempt the last step of it that counts, where a later one went on behind an earlier step."""
    limits: dict[int, int] = {}
    lowest: int | None = None
    for attempt in reversed(of_stage(session, job_id, Stage.TRAIN)):
        if lowest is not None:
            limits[attempt.epoch] = lowest
        if attempt.resume_step is not None:
            lowest = attempt.resume_step if lowest is None else min(lowest, attempt.resume_step)
    return limits


def closing_events(session: Session, job_id: str, epoch: int) -> Sequence[JobEvent]:
    """What an attempt said at its end: that it has an adapter, and that it finished."""
    kinds = JobEvent.kind.in_(("adapter", "finished", "failed"))
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.epoch == epoch, kinds)
    return session.scalars(query.order_by(JobEvent.seq)).all()
