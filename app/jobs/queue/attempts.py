"""Queries about the attempts of a job: how often they failed, where they resumed, which of their events are stored."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.access import usage
from app.jobs.models import Attempt, Job, JobEvent
from app.jobs.queue import totals
from app.jobs.states import Stage
from app.scope import EVERY_PROJECT

# Outcomes that do not count as failures of the job: its worker was stopped, its user paused it, the disk was full, the
# engine was away or used the memory, the store of files was away.
HANDED_BACK = frozenset(
    {
        "worker_stopped",
        "paused",
        "cancelled",
        "interrupted",
        "disk_full",
        "engine_unavailable",
        "no_room_beside_engine",
        "store_unavailable",
    }
)

# Crashes from outside, such as a killed process or a lost host. A job may also be the reason why its worker dies, so
# this many of them count as one failure.
FROM_OUTSIDE = frozenset({"worker_lost", "process_killed", "engine_died"})
DEATHS_A_FAULT = 7


def faults(session: Session, job_id: str, epoch: int) -> int:
    """Count the failures up to this attempt in the same stage after the same step.

    Returns 0 if the attempt saved a new checkpoint: progress resets the failure count.
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
    """Return whether the attempt saved a later step than any before, including checkpoints that were damaged."""
    is_saved = (JobEvent.job_id == attempt.job_id, JobEvent.kind == "checkpoint", JobEvent.epoch <= attempt.epoch)
    newest = select(func.max(JobEvent.seq)).where(*is_saved).group_by(JobEvent.epoch)  # the steps of an attempt ascend
    saved = select(JobEvent.epoch, JobEvent.payload).where(JobEvent.job_id == attempt.job_id, JobEvent.seq.in_(newest))
    steps = {row.epoch: step_of(row.payload) or 0 for row in session.execute(saved)}
    own = steps.pop(attempt.epoch, 0)
    return own > max((attempt.resume_step or 0, *steps.values()))


def step_of(payload: dict[str, Any]) -> int | None:
    """Return the step of an event, or None if its payload has none."""
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
    """End an attempt. The seconds of a training are counted as used by its project and by who submitted it."""
    attempt = update(Attempt).where(Attempt.job_id == job_id, Attempt.epoch == epoch, Attempt.ended_at.is_(None))
    values = {"ended_at": now, "outcome": outcome, "reason": reason, "exit_code": exit_code}
    begun = session.execute(attempt.values(**values).returning(Attempt.stage, Attempt.started_at)).one_or_none()
    if begun is None:
        return
    totals.add(session, totals.ATTEMPTS, str(begun.stage), outcome)
    if begun.stage is Stage.TRAIN:
        job = session.execute(select(Job.project, Job.created_by, Job.gpus).where(Job.id == job_id)).one()
        seconds = max(0.0, (now - begun.started_at).total_seconds()) * job.gpus
        usage.add(session, EVERY_PROJECT, usage.UsageKey(now.date(), job.project, job.created_by), gpu_seconds=seconds)


def of_stage(session: Session, job_id: str, stage: Stage) -> Sequence[Attempt]:
    """Return all attempts at a stage, the oldest first."""
    query = select(Attempt).where(Attempt.job_id == job_id, Attempt.stage == stage)
    return session.scalars(query.order_by(Attempt.epoch)).all()


def stored_offset(session: Session, job_id: str, epoch: int) -> int:
    """Return how many bytes of the attempt's events file are stored."""
    query = select(Attempt.events_offset).where(Attempt.job_id == job_id, Attempt.epoch == epoch)
    return session.scalar(query) or 0


def store_offset(session: Session, job_id: str, epoch: int, offset: int) -> None:
    attempt = update(Attempt).where(Attempt.job_id == job_id, Attempt.epoch == epoch)
    session.execute(attempt.values(events_offset=offset))


def set_resume_step(session: Session, job_id: str, epoch: int, step: int) -> None:
    attempt = update(Attempt).where(Attempt.job_id == job_id, Attempt.epoch == epoch)
    session.execute(attempt.values(resume_step=step))


def closing_events(session: Session, job_id: str, epoch: int) -> Sequence[JobEvent]:
    """Return the last events of an attempt: adapter or other artifact saved, finished, failed."""
    kinds = JobEvent.kind.in_(("adapter", "artifact", "finished", "failed"))
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.epoch == epoch, kinds)
    return session.scalars(query.order_by(JobEvent.seq)).all()
