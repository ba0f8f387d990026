"""What a worker does to a job row: claim it, beat, store events, hand it on. It never commits.

Every statement names the fence (job, epoch, worker); when another attempt owns the job it changes nothing and raises
`Fenced`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from app.contracts.events import (
    AttemptEvent,
    DataPrepared,
    Noticed,
    PhaseStarted,
    RowsChecked,
    SpecResolved,
    StepLogged,
)
from app.jobs.models import Attempt, Job, JobEvent, Worker
from app.jobs.progress import checking_of, progress_of
from app.jobs.repository import append_event, move
from app.jobs.states import Desire, JobStatus, Stage


class Fenced(Exception):
    """The job belongs to another attempt, or has ended: drop what you were doing."""


@dataclass(frozen=True)
class Claim:
    """The right to work on one job, until somebody raises its epoch."""

    job_id: str
    epoch: int
    stage: Stage
    worker: str
    is_dry_run: bool = False

    @property
    def guards(self) -> tuple[ColumnElement[bool], ...]:
        return (Job.epoch == self.epoch, Job.worker == self.worker, Job.status == self.stage.active)


def claim(session: Session, stage: Stage, worker: str, now: datetime) -> Job | None:
    """Give the best waiting job to a worker, or None when there is none: by priority, then age.

    One conditional UPDATE; `epoch` is the fence that every later write of this attempt names.
    """
    is_waiting = (Job.status == stage.waiting, Job.worker.is_(None), or_(Job.run_after.is_(None), Job.run_after <= now))
    best = (
        select(Job.id)
        .where(*is_waiting)
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        update(Job)
        .where(Job.id == best, *is_waiting)
        .values(status=stage.active, worker=worker, epoch=Job.epoch + 1, beats=0, last_seq=Job.last_seq + 1)
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    job = session.scalars(statement).one_or_none()
    if job is None:
        return None
    if stage is Stage.TRAIN and job.started_at is None:
        job.started_at = now
    append_event(session, job, "status", {"status": job.status.value, "stage": stage.value, "worker": worker}, now)
    attempt = Attempt(job_id=job.id, epoch=job.epoch, stage=stage, worker=worker, started_at=now, events_offset=0)
    session.add(attempt)
    return job


def record(session: Session, claim: Claim, events: Sequence[AttemptEvent], offset: int) -> Desire:
    """One heartbeat: store what the child reported up to byte `offset` of its events file; learn the user's wish."""
    job = _fenced_update(session, claim, beats=Job.beats + 1, last_seq=Job.last_seq + len(events))
    first = job.last_seq - len(events) + 1
    for seq, event in enumerate(events, first):
        payload = event.model_dump(mode="json", exclude={"kind", "at"})
        session.add(JobEvent(job_id=job.id, seq=seq, epoch=claim.epoch, kind=event.kind, at=event.at, payload=payload))
        _apply(job, event)
    if events:
        attempt = update(Attempt).where(Attempt.job_id == claim.job_id, Attempt.epoch == claim.epoch)
        session.execute(attempt.values(events_offset=offset))
    return job.desired


def _fenced_update(session: Session, claim: Claim, **values: Any) -> Job:
    statement = update(Job).where(Job.id == claim.job_id, *claim.guards).values(**values).returning(Job)
    job = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if job is None:
        raise Fenced(f"{claim.job_id} is not held by attempt {claim.epoch} any more")
    return job


def _apply(job: Job, event: AttemptEvent) -> None:
    """Keep on the row what a poll of the job wants to see."""
    match event:
        case PhaseStarted():
            job.phase = event.phase.value
        case RowsChecked():
            job.checking = checking_of(event)
        case StepLogged():
            job.progress = progress_of(event)
        case Noticed():
            notice = event.model_dump(mode="json", exclude={"kind", "at"})
            if notice not in job.notices:
                job.notices = [*job.notices, notice]
        case DataPrepared():
            job.data_report = {**(job.data_report or {}), **event.report}
        case SpecResolved():
            job.resolved = with_values(job.resolved, event.values)


def with_values(spec: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of the spec with dotted paths set: {"training.optim": "adamw_torch_fused"}."""
    spec = dict(spec)
    for path, value in values.items():
        group, _, name = path.partition(".")
        spec[group] = {**spec[group], name: value}
    return spec


def finish(
    session: Session, claim: Claim, target: JobStatus, now: datetime, *, outcome: str, reason: str | None, **values: Any
) -> Job:
    """End the attempt and the job's stage: on to the queue, back to it, or to the job's end."""
    job = move(
        session, claim.job_id, target, now, *claim.guards, **{"worker": None, "phase": None, "checking": None, **values}
    )
    if job is None:
        raise Fenced(f"{claim.job_id} is not held by attempt {claim.epoch} any more")
    _end_attempt(session, claim.job_id, claim.epoch, now, outcome, reason)
    return job


def give_back(
    session: Session, job: Job, now: datetime, *, outcome: str, reason: str, run_after: datetime | None
) -> bool:
    """Take a job from its holder, so that it waits for its stage again. False when the holder moved meanwhile.

    `job` is the row as it was seen; epoch and beats are compared, and the epoch is raised to fence the old holder.
    """
    target = JobStatus.VALIDATING if job.status is JobStatus.VALIDATING else JobStatus.QUEUED
    unchanged = (Job.id == job.id, Job.epoch == job.epoch, Job.beats == job.beats, Job.status == job.status)
    statement = (
        update(Job)
        .where(*unchanged)
        .values(
            status=target,
            worker=None,
            phase=None,
            checking=None,
            run_after=run_after,
            epoch=Job.epoch + 1,
            last_seq=Job.last_seq + 1,
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    epoch = job.epoch
    updated = session.scalars(statement).one_or_none()
    if updated is None:
        return False
    append_event(session, updated, "status", {"status": target.value, "reason": reason}, now)
    _end_attempt(session, job.id, epoch, now, outcome, reason)
    return True


def _end_attempt(session: Session, job_id: str, epoch: int, now: datetime, outcome: str, reason: str | None) -> None:
    attempt = update(Attempt).where(Attempt.job_id == job_id, Attempt.epoch == epoch, Attempt.ended_at.is_(None))
    session.execute(attempt.values(ended_at=now, outcome=outcome, reason=reason))


def held(session: Session) -> Sequence[Job]:
    """Every job that a worker holds."""
    return session.scalars(select(Job).where(Job.worker.is_not(None))).all()


def job_held_by(session: Session, worker: str) -> str | None:
    return session.scalar(select(Job.id).where(Job.worker == worker).limit(1))


def waiting_stages(session: Session, now: datetime) -> set[Stage]:
    """The stages that have a job to claim."""
    due = or_(Job.run_after.is_(None), Job.run_after <= now)
    statuses = session.scalars(select(Job.status).where(Job.worker.is_(None), due).distinct()).all()
    return {stage for stage in Stage if stage.waiting in statuses}


def seen(session: Session, worker: Worker) -> None:
    session.merge(worker)
