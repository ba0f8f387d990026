"""The worker's writes to a job row: claim it, send heartbeats, store events, end the attempt. It never commits.

Every statement names the fence (job, epoch, worker). If another attempt owns the job, nothing changes and `Fenced` is
raised.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session, defer

from app.access.limits import NO_LIMITS, Limits
from app.contracts.events import (
    AttemptEvent,
    CheckpointRemoved,
    CheckpointSaved,
    DataPrepared,
    MemoryMeasured,
    Noticed,
    PhaseStarted,
    RowsChecked,
    SpecPinned,
    SpecResolved,
    StepEvent,
    StepTaken,
)
from app.contracts.spec import SPEC_VERSION
from app.contracts.stored import with_values
from app.database.connection import database_time
from app.jobs import measurements
from app.jobs.kinds import stage_of
from app.jobs.metric_summaries import SMALLEST, summarise
from app.jobs.models import Checkpoint, Job, JobEvent, Worker
from app.jobs.queue import attempts, project_quotas
from app.jobs.queue.order import jobs_at_work, last_turn, take_turn, waits_for
from app.jobs.repository import DETAILS, append_event, move
from app.jobs.states import ALIVE, JobStatus, RequestedAction, Stage, given_back
from app.jobs.telling import tell_of
from app.jobs.views.progress import checking_of, progress_of
from app.scope import EVERY_PROJECT

# No attempt is delayed by more than 600 s, and clocks differ by less than the other 300 s. A later `run_after` was
# written by a clock that was wrong, so it is ignored.
LONGEST_PAUSE = timedelta(seconds=900)
# The first of the two numbers of PostgreSQL's advisory locks; the second one is the stage.
LOCK_OF_CLAIMS = 1_129_270_605


class Fenced(Exception):
    """The job belongs to another attempt, or has ended. The caller must stop its work on the job."""


@dataclass(frozen=True)
class Claim:
    """The right to work on one job, until the job's epoch is raised."""

    job_id: str
    epoch: int
    stage: Stage
    worker: str

    @property
    def guards(self) -> tuple[ColumnElement[bool], ...]:
        return (Job.epoch == self.epoch, Job.worker == self.worker, Job.status == self.stage.active)

    def fenced(self) -> Fenced:
        return Fenced(f"{self.job_id} is not held by attempt {self.epoch} any more")


@dataclass(frozen=True)
class RequestedState:
    """What the user has requested of a job that a worker holds."""

    requested_action: RequestedAction
    checkpoints_requested: int


def claim(
    session: Session,
    stage: Stage,
    worker: str,
    slot: str,
    now: datetime,
    *,
    gpus: int | None = None,
    default_limits: Limits = NO_LIMITS,
) -> Job | None:
    """Give the best waiting job to a worker, or return None if there is none. `gpus`: the most that it may need.

    The best is the one of highest priority, then of the project with the fewest running jobs, then of the project whose
    last job of this stage began the longest ago, then the oldest. A project that has reached a limit is passed over;
    `default_limits` are those of projects without their own.

    One conditional UPDATE; `epoch` is the fence that every later write of this attempt names.
    """
    _wait_for_other_claims(session, stage)
    is_waiting = [*waits_for(stage), *_is_free(now)]
    if gpus is not None:
        is_waiting.append(Job.gpus <= gpus)
    if stage is Stage.TRAIN and (full := project_quotas.reasons(session, default_limits)):
        is_waiting.append(Job.project.not_in(sorted(full)))
    at_work, turns = jobs_at_work(stage), last_turn(stage)
    fewest_and_oldest = (func.coalesce(at_work.c.jobs, 0), func.coalesce(turns.c.number, 0))
    best = (
        select(Job.id)
        .outerjoin(at_work, at_work.c.project == Job.project)
        .outerjoin(turns, turns.c.project == Job.project)
        .where(*is_waiting)
        .order_by(Job.priority.desc(), *fewest_and_oldest, Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=Job)
        .scalar_subquery()
    )
    statement = (
        update(Job)
        .where(Job.id == best, *is_waiting)
        .values(
            status=stage.active, worker=worker, slot=slot, epoch=Job.epoch + 1, heartbeats=0, last_seq=Job.last_seq + 1
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    job = session.scalars(statement).one_or_none()
    if job is not None:
        _begin(session, job, stage, worker, now)
    return job


def _wait_for_other_claims(session: Session, stage: Stage) -> None:
    """Let one session at a time claim for a stage, until it ends. SQLite lets one session at a time write anyway.

    Two that claimed at once would both take the turn of one project, and exceed its limits together.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(LOCK_OF_CLAIMS, [*Stage].index(stage))))


def _begin(session: Session, job: Job, stage: Stage, worker: str, now: datetime) -> None:
    if stage is not Stage.CHECK and job.started_at is None:
        job.started_at = now
        tell_of(session, EVERY_PROJECT, job, now)
    take_turn(session, stage, job.project)
    append_event(session, job, "status", {"status": job.status.value, "stage": stage.value, "worker": worker}, now)
    attempts.begin(session, job.id, job.epoch, stage, worker, now)


def leave(session: Session, job_id: str) -> None:
    """Leave a waiting job that this version does not understand to workers of a newer version. It is no attempt."""
    is_waiting = (Job.worker.is_(None), Job.status.in_([stage.waiting for stage in Stage]))
    session.execute(update(Job).where(Job.id == job_id, *is_waiting).values(spec_version=SPEC_VERSION + 1))


def _is_free(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """The job has no worker, is due, and has a spec that this version understands."""
    return (Job.worker.is_(None), _is_due(now), Job.spec_version <= SPEC_VERSION)


def _is_due(now: datetime) -> ColumnElement[bool]:
    return or_(Job.run_after.is_(None), Job.run_after <= now, Job.run_after > now + LONGEST_PAUSE)


def record(
    session: Session, claim: Claim, events: Sequence[AttemptEvent], offset: int, *, of_epoch: int | None = None
) -> RequestedState:
    """Send one heartbeat: store the child's events up to byte `offset` of its events file.

    Returns what the user has requested. A batch whose offset is stored already is skipped: its commit succeeded, and
    only the response was lost. `of_epoch` names an earlier attempt whose events were not read. Raises Fenced.
    """
    epoch = claim.epoch if of_epoch is None else of_epoch
    if events and attempts.stored_offset(session, claim.job_id, epoch) >= offset:
        events = ()
    job = _append(session, claim, events, epoch)
    if events:
        attempts.store_offset(session, claim.job_id, epoch, offset)
    return RequestedState(job.requested_action, job.checkpoints_requested)


def record_event(session: Session, claim: Claim, event: AttemptEvent, *, of_epoch: int | None = None) -> None:
    """Store an event of the worker itself, which is in no file. `of_epoch` names an earlier attempt. Raises Fenced."""
    _append(session, claim, [event], claim.epoch if of_epoch is None else of_epoch)


def _append(session: Session, claim: Claim, events: Sequence[AttemptEvent], epoch: int) -> Job:
    kept = [event for event in events if not isinstance(event, StepTaken)]
    job = _fenced_update(session, claim, heartbeats=Job.heartbeats + 1, last_seq=Job.last_seq + len(kept))
    for seq, one in enumerate(kept, job.last_seq - len(kept) + 1):
        payload = one.model_dump(mode="json", exclude={"kind", "at"})
        session.add(JobEvent(job_id=job.id, seq=seq, epoch=epoch, kind=one.kind, at=one.at, payload=payload))
    for event in events:
        if isinstance(event, CheckpointSaved | CheckpointRemoved):
            _apply_checkpoint(session, job.id, event, epoch)
        elif isinstance(event, MemoryMeasured):
            measurements.store(session, claim.worker, event)
        else:
            _apply(job, event)
    if job.last_seq // SMALLEST > (job.last_seq - len(kept)) // SMALLEST:
        summarise(session, EVERY_PROJECT, job.id, job.last_seq)
    return job


def _fenced_update(session: Session, claim: Claim, **values: Any) -> Job:
    statement = update(Job).where(Job.id == claim.job_id, *claim.guards).values(**values).returning(Job)
    job = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if job is None:
        raise claim.fenced()
    return job


def _apply(job: Job, event: AttemptEvent) -> None:
    """Update the columns of the row that `GET /jobs/{id}` shows."""
    match event:
        case PhaseStarted():
            job.phase = event.phase.value
        case RowsChecked():
            job.checking = checking_of(event)
        case StepEvent():
            job.progress = progress_of(event)
        case Noticed():
            if event.shown() not in job.notices:
                job.notices = [*job.notices, event.shown()]
        case DataPrepared():
            job.data_report = {**(job.data_report or {}), **event.report}
        case SpecPinned() | SpecResolved():
            _apply_values(job, event)


def _apply_values(job: Job, event: SpecPinned | SpecResolved) -> None:
    if isinstance(event, SpecPinned):
        job.plan = with_values(job.plan, event.values)
    else:
        job.observed = {**(job.observed or {}), **event.values}


def _apply_checkpoint(session: Session, job_id: str, event: CheckpointSaved | CheckpointRemoved, epoch: int) -> None:
    name = PurePath(event.path).name  # the home may have been moved since the event was written
    if isinstance(event, CheckpointSaved):
        values = {**event.model_dump(exclude={"kind", "at"}), "path": f"jobs/{job_id}/checkpoints/{name}"}
        session.merge(Checkpoint(job_id=job_id, epoch=epoch, created_at=event.at, **values))
    session.flush()  # saves and removals of one batch must be done in their order
    if isinstance(event, CheckpointRemoved):
        is_named = Checkpoint.path.endswith(f"/{name}", autoescape=True)
        session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id, is_named))


def lock(session: Session, claim: Claim) -> Job:
    """Return the row, locked until the session ends. Raises Fenced."""
    query = select(Job).where(Job.id == claim.job_id, *claim.guards).with_for_update()
    job = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if job is None:
        raise claim.fenced()
    return job


def finish(
    session: Session,
    claim: Claim,
    target: JobStatus,
    now: datetime,
    *,
    outcome: str,
    reason: str | None,
    exit_code: int | None = None,
    **values: Any,
) -> Job:
    """End the attempt and move the job to `target`, without a worker. `values` are further columns. Raises Fenced."""
    values = {**FREE, "checking": None, **values}
    job = move(session, EVERY_PROJECT, claim.job_id, target, now, *claim.guards, reason=reason, **values)
    if job is None:
        raise claim.fenced()
    attempts.end(session, claim.job_id, claim.epoch, now, outcome=outcome, reason=reason, exit_code=exit_code)
    return job


FREE: dict[str, Any] = {"worker": None, "slot": None, "phase": None}


def take_back(
    session: Session, job: Job, now: datetime, *, reason: str, max_attempts: int, pause: timedelta | None
) -> Job | None:
    """Requeue (or fail) a job whose worker died. Returns None if the row changed since it was read, that is, the worker
    is alive.

    `job` is the row as it was read. The epoch is raised to fence the old worker, and what the user requested is read
    again. The job fails if it failed `max_attempts` times in the same place.
    """
    stage = stage_of(job)
    if stage is None:  # a kind of job that only another version knows
        return None
    seen = (Job.epoch == job.epoch, Job.heartbeats == job.heartbeats, Job.status == job.status)
    query = select(Job).where(Job.id == job.id, *seen).with_for_update()
    lost = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if lost is None:
        return None
    epoch, target = lost.epoch, given_back(stage, lost.requested_action)
    values: dict[str, Any] = {"run_after": now + pause if pause else None, "checking": None}
    if target is stage.waiting and attempts.faults(session, job.id, epoch) >= max_attempts:
        target, values = JobStatus.FAILED, {"error": _lost(reason), "checking": None}
    taken = move(
        session, EVERY_PROJECT, job.id, target, now, *seen, reason=reason, epoch=Job.epoch + 1, **FREE, **values
    )
    if taken is not None:
        attempts.end(session, job.id, epoch, now, outcome="worker_lost", reason=reason)
    return taken


def _lost(reason: str) -> dict[str, Any]:
    message = f"{reason}, again and again in the same place"
    hint = "the log of the last attempt, and that of its worker, may tell why"
    return {"category": "system_error", "code": "worker_lost", "message": message, "hint": hint}


def held(session: Session) -> Sequence[Job]:
    """Return every job that a worker holds, without its documents and without jobs whose status is unknown here."""
    documents = (*DETAILS, Job.labels, Job.checking, Job.progress, Job.error)
    query = select(Job).options(*(defer(document, raiseload=True) for document in documents))
    return [job for job in session.scalars(query.where(Job.worker.is_not(None))) if job.status in ALIVE]


def job_held_by(session: Session, worker: str) -> str | None:
    return next(iter(_held_by(session, worker)), None)


def jobs_held_by(session: Session, worker: str) -> int:
    return len(_held_by(session, worker))


def _held_by(session: Session, worker: str) -> list[str]:
    rows = session.execute(select(Job.id, Job.status).where(Job.worker == worker))
    return [row.id for row in rows if row.status in ALIVE]


def waiting_stages(session: Session, now: datetime) -> set[Stage]:
    """Return the stages that have a job to claim."""
    is_free = _is_free(now)
    first = {stage: select(Job.id).where(*waits_for(stage), *is_free).limit(1) for stage in Stage}
    return {stage for stage, query in first.items() if session.scalar(query) is not None}


def record_worker(session: Session, worker: Worker) -> None:
    """Store a worker's row with the current time of the database and the newest spec version that it understands."""
    worker = session.merge(worker)
    worker.spec_version = SPEC_VERSION
    worker.last_seen = database_time()
