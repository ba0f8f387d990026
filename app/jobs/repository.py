"""Every query that the API makes about jobs. It never commits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    and_,
    delete,
    func,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.database.connection import database_time, utc_now
from app.jobs.models import Attempt, Checkpoint, IdempotencyKey, Job, JobEvent, JobLabel, MetricSummary, Worker
from app.jobs.queue import totals
from app.jobs.states import ALIVE, ENDED, WAITING, JobStatus, RequestedAction, Stage, sources_of
from app.jobs.telling import tell_of
from app.scope import Scope

# A temporary job is answered, or given up, within this time.
LONGEST_VALIDATION = timedelta(seconds=600)
# Columns that a list does not show, because they may be large.
DETAILS = (Job.sent, Job.plan, Job.observed, Job.data_report, Job.notices, Job.result)


# An event's number, its attempt, and its fields.
Reported = tuple[int, int, dict[str, Any]]


@dataclass(frozen=True)
class TemporaryJob:
    id: str
    created_at: datetime
    finished_at: datetime | None


def is_permitted(scope: Scope, job_id: str | InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """Return the condition under which rows of a job may be read.

    With the id of one job the database looks it up once for the query, and with a column once for each row.
    """
    if scope.projects is None:
        return true()
    return select(Job.id).where(Job.id == job_id, scope.permits(Job.project)).exists()


def get(session: Session, scope: Scope, job_id: str) -> Job | None:
    return session.scalar(_one(scope, job_id))


def _one(scope: Scope, job_id: str) -> Select[Job]:
    return select(Job).where(Job.id == job_id, scope.permits(Job.project))


def among(session: Session, scope: Scope, job_ids: Sequence[str]) -> Sequence[Job]:
    """Return those of the jobs that exist."""
    return session.scalars(select(Job).where(Job.id.in_(job_ids), scope.permits(Job.project))).all()


def lock(session: Session, scope: Scope, job_id: str) -> Job | None:
    """Return the row, locked until the session ends: no other session changes it or makes a job continue from it."""
    return session.scalar(_one(scope, job_id).with_for_update().execution_options(populate_existing=True))


def lock_against_removal(session: Session, scope: Scope, job_id: str) -> Job | None:
    """Return the row. It cannot be deleted until the session ends, but its worker may write to it."""
    locked = _one(scope, job_id).with_for_update(read=True, key_share=True)
    return session.scalar(locked.execution_options(populate_existing=True))


def find_status(session: Session, scope: Scope, job_id: str) -> str | None:
    return session.scalar(select(Job.status).where(Job.id == job_id, scope.permits(Job.project)))


def standing(session: Session, scope: Scope, job_id: str) -> tuple[JobStatus, str | None, int] | None:
    """Return the job's status, its worker and the version of its spec; None for an unknown job."""
    query = select(Job.status, Job.worker, Job.spec_version).where(Job.id == job_id, scope.permits(Job.project))
    found = session.execute(query).one_or_none()
    return (found.status, found.worker, found.spec_version) if found is not None else None


def attempts(session: Session, scope: Scope, job_id: str) -> Sequence[Attempt]:
    return attempts_of(session, scope, [job_id])


def attempts_of(session: Session, scope: Scope, job_ids: Sequence[str]) -> Sequence[Attempt]:
    """Return the attempts of these jobs. Those of one job are in the order of their epochs."""
    query = select(Attempt).where(Attempt.job_id.in_(job_ids), is_permitted(scope, Attempt.job_id))
    return session.scalars(query.order_by(Attempt.job_id, Attempt.epoch)).all()


def events(
    session: Session, scope: Scope, job_id: str, *, after: int, limit: int, kinds: Sequence[str] | None = None
) -> Sequence[JobEvent]:
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after, is_permitted(scope, job_id))
    chosen = query if kinds is None else query.where(JobEvent.kind.in_(kinds))
    return session.scalars(chosen.order_by(JobEvent.seq).limit(limit)).all()


def sample_events(
    session: Session, scope: Scope, job_id: str, kind: str, *, after: int, most: int
) -> tuple[Sequence[Reported], int]:
    """Return the events of a kind behind a number, and n: 1 if these are all, else one of each n events, and the last.

    Of more than `most` it seeks the first one behind each n-th number, so it reads as much of millions as of thousands.
    """
    of_job = (JobEvent.job_id == job_id, is_permitted(scope, job_id))
    query = select(JobEvent.seq).where(*of_job, JobEvent.kind == kind, JobEvent.seq > after)
    numbers = session.scalars(query.order_by(JobEvent.seq).limit(most + 1)).all()
    if len(numbers) <= most:
        return numbered_events(session, scope, job_id, kind, numbers), 1
    first, last = numbers[0], session.scalars(query.order_by(JobEvent.seq.desc()).limit(1)).one()
    nth = -(-(last - first + 1) // most)
    start = select(literal(first, BigInteger).label("number")).cte(recursive=True)
    each = start.union_all(select(start.c.number + nth).where(start.c.number + nth <= last))
    is_next = (*of_job, JobEvent.kind == kind, JobEvent.seq >= each.c.number)
    next_number = select(func.min(JobEvent.seq)).where(*is_next).correlate(each).scalar_subquery()
    found = session.scalars(select(next_number).select_from(each)).all()
    return numbered_events(session, scope, job_id, kind, sorted({*found, last})), nth


def numbered_events(
    session: Session, scope: Scope, job_id: str, kind: str, numbers: Sequence[int]
) -> Sequence[Reported]:
    """Return those of the events with these numbers that are of a kind, in their order."""
    of_job = (JobEvent.job_id == job_id, is_permitted(scope, job_id))
    query = select(JobEvent.seq, JobEvent.epoch, JobEvent.payload).where(*of_job)
    named = query.where(JobEvent.kind == kind, JobEvent.seq.in_(numbers)).order_by(JobEvent.seq)
    return [(seq, epoch, payload) for seq, epoch, payload in session.execute(named)]


def newest_event(session: Session, scope: Scope, job_id: str, kind: str) -> JobEvent | None:
    of_job = (JobEvent.job_id == job_id, is_permitted(scope, job_id))
    query = select(JobEvent).where(*of_job, JobEvent.kind == kind)
    return session.scalars(query.order_by(JobEvent.seq.desc()).limit(1)).first()


def newest_of_kind(session: Session, scope: Scope, job_ids: Sequence[str], kind: str) -> dict[str, JobEvent]:
    """Return the newest event of a kind of each of these jobs that has one. There should be few of this kind."""
    of_jobs = (JobEvent.job_id.in_(job_ids), is_permitted(scope, JobEvent.job_id))
    query = select(JobEvent).where(*of_jobs, JobEvent.kind == kind).order_by(JobEvent.job_id, JobEvent.seq)
    return {event.job_id: event for event in session.scalars(query)}


def newest_events(session: Session, scope: Scope, job_ids: Sequence[str]) -> dict[str, int]:
    """Return the number of the newest event of each of these jobs, without those that were deleted."""
    rows = session.execute(select(Job.id, Job.last_seq).where(Job.id.in_(job_ids), scope.permits(Job.project)))
    return {job_id: last_seq for job_id, last_seq in rows}


def checkpoints(session: Session, scope: Scope, job_id: str) -> Sequence[Checkpoint]:
    """Return the checkpoints of a job, newest first. Clients see only these rows.

    The trainer writes checkpoints into the job's folder, and the rows follow with its events, up to a heartbeat later.
    Only the worker reads the folder, for resuming (`worker.supervising.resuming`): it then finds a checkpoint that a
    killed process wrote without an event, and corrects the rows. A reader of a checkpoint must expect that it was
    replaced by a newer one meanwhile.
    """
    query = select(Checkpoint).where(Checkpoint.job_id == job_id, is_permitted(scope, job_id))
    return session.scalars(query.order_by(Checkpoint.step.desc(), Checkpoint.epoch.desc())).all()


def checkpoint(session: Session, scope: Scope, job_id: str, step: int | None) -> Checkpoint | None:
    """Return the newest checkpoint, or the newest one of a step."""
    found = checkpoints(session, scope, job_id)
    return next((one for one in found if step is None or one.step == step), None)


def continued_by(session: Session, scope: Scope, name: str) -> str | None:
    """Return the id of a job that has not ended and continues from this job or adapter, without temporary jobs."""
    is_alive = (Job.status.not_in(ENDED), ~Job.is_temporary)
    query = select(Job.id).where(Job.continues == name, *is_alive, scope.permits(Job.project))
    return session.scalar(query.limit(1))


def uses_file(session: Session, scope: Scope, file_id: str) -> bool:
    """Return whether a job that has not ended reads the file. A temporary job counts while its request waits."""
    named = or_(Job.file_id == file_id, Job.eval_file_id == file_id)
    is_abandoned = or_(Job.requested_action == RequestedAction.CANCEL, Job.created_at < utc_now() - LONGEST_VALIDATION)
    is_alive = and_(Job.status.not_in(ENDED), ~and_(Job.is_temporary, is_abandoned))
    return session.scalar(select(Job.id).where(named, is_alive, scope.permits(Job.project)).limit(1)) is not None


def add(session: Session, scope: Scope, job: Job) -> None:
    """Store a new job with its labels. A temporary job is in no list, so its labels are not stored by themselves.

    Raises InvalidRequest if its project is not in the scope.
    """
    scope.check(job.project)
    session.add(job)
    if not job.is_temporary:
        labels = job.labels.items()
        session.add_all(
            JobLabel(job_id=job.id, name=name, value=value, created_at=job.created_at) for name, value in labels
        )


def append_event(session: Session, job: Job, kind: str, payload: dict[str, Any], at: datetime) -> None:
    """Store an event with the number `last_seq`, which the caller's UPDATE of the row has raised for it."""
    session.add(JobEvent(job_id=job.id, seq=job.last_seq, epoch=job.epoch, kind=kind, at=at, payload=payload))


def move(
    session: Session,
    scope: Scope,
    job_id: str,
    target: JobStatus,
    now: datetime,
    *guards: Any,
    reason: str | None = None,
    **values: Any,
) -> Job | None:
    """Change a job's status with one guarded UPDATE, store the event, and tell webhooks. No other function changes it.

    Returns None if the job's status does not allow the move (any more), or a guard does not hold.
    """
    if target.is_final:
        values = {"finished_at": now, "worker": None, "slot": None, "phase": None, **values}
    elif target in WAITING:
        values = {"waiting_since": now, **values}
    statement = (
        update(Job)
        .where(Job.id == job_id, scope.permits(Job.project), Job.status.in_(sources_of(target)), *guards)
        .values(status=target, last_seq=Job.last_seq + 1, **values)
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    job = session.scalars(statement).one_or_none()
    if job is not None:
        append_event(session, job, "status", {"status": target.value, "reason": reason, "error": job.error}, now)
        tell_of(session, scope, job, now)
        if target.is_final:
            totals.add(session, totals.JOBS, job.kind, target)
    return job


def request(session: Session, scope: Scope, job_id: str, requested_action: RequestedAction, *guards: Any) -> Job | None:
    """Store what the user requested of the job. Returns None if the job has ended, or a guard does not hold."""
    statement = (
        update(Job)
        .where(Job.id == job_id, scope.permits(Job.project), Job.status.in_(ALIVE), *guards)
        .values(requested_action=requested_action)
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    return session.scalars(statement).one_or_none()


def append_request(session: Session, job: Job, what: str, now: datetime) -> None:
    """Store the event of a request that a worker has to carry out. The caller's UPDATE has locked the row."""
    job.last_seq += 1
    append_event(session, job, "request", {"request": what}, now)


def ask_for_checkpoint(session: Session, scope: Scope, job_id: str) -> Job | None:
    """Count one more requested checkpoint. Returns None if the job is not running."""
    statement = (
        update(Job)
        .where(Job.id == job_id, scope.permits(Job.project), Job.status == JobStatus.RUNNING)
        .values(checkpoints_requested=Job.checkpoints_requested + 1)
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    return session.scalars(statement).one_or_none()


def remove(session: Session, scope: Scope, job_id: str) -> bool:
    """Delete an ended job with all that is of it. Returns False if it does not exist or has not ended."""
    for table in (JobEvent, Attempt, Checkpoint, IdempotencyKey, JobLabel, MetricSummary):
        session.execute(delete(table).where(table.job_id == job_id, is_permitted(scope, job_id)))
    is_ended = (Job.id == job_id, scope.permits(Job.project), Job.status.not_in(ALIVE))
    return session.scalar(delete(Job).where(*is_ended).returning(Job.id)) is not None


def temporary_jobs(session: Session, scope: Scope) -> Sequence[TemporaryJob]:
    """Return all temporary jobs. They are few: those with a waiting request, and those that are about to be removed."""
    query = select(Job.id, Job.created_at, Job.finished_at).where(Job.is_temporary, scope.permits(Job.project))
    return [TemporaryJob(*row) for row in session.execute(query)]


def count_waiting(session: Session, scope: Scope, most: int, *, created_by: str | None = None) -> int:
    """Count the jobs whose training has not begun, without temporary jobs. Counting stops at `most`."""
    is_waiting = (Job.status.in_((JobStatus.VALIDATING, JobStatus.QUEUED)), ~Job.is_temporary)
    query = select(Job.id).where(*is_waiting, scope.permits(Job.project))
    if created_by is not None:
        query = query.where(Job.created_by == created_by)
    waiting = query.limit(most).subquery()
    return session.scalar(select(func.count()).select_from(waiting)) or 0


def expired(session: Session, scope: Scope, before: datetime, limit: int) -> Sequence[str]:
    """Return jobs that ended before a moment, oldest end first, without those that an unfinished job continues from."""
    other = aliased(Job)
    continues = (other.continues == Job.id, other.status.not_in(ENDED), ~other.is_temporary)
    is_continued = select(other.id).where(*continues).exists()
    is_over = (Job.finished_at < before, Job.status.not_in(ALIVE), ~Job.is_temporary, ~is_continued)
    query = select(Job.id).where(*is_over, scope.permits(Job.project))
    return session.scalars(query.order_by(Job.finished_at).limit(limit)).all()


def shown_among(session: Session, scope: Scope, job_ids: Sequence[str]) -> set[str]:
    """Return those of the jobs that a caller may see. Only its own request sees a temporary job."""
    query = select(Job.id).where(Job.id.in_(job_ids), ~Job.is_temporary, scope.permits(Job.project))
    return set(session.scalars(query))


def workers(session: Session) -> Sequence[Worker]:
    return session.scalars(select(Worker).order_by(Worker.name)).all()


def able_workers(session: Session, within: timedelta) -> dict[Stage, int]:
    """Return how many workers of each stage were seen within this time and have no problem."""
    is_able = (Worker.last_seen >= database_time(ago=within), Worker.problem.is_(None))
    query = select(Worker.stage, func.count()).where(*is_able).group_by(Worker.stage)
    return {Stage(stage): workers for stage, workers in session.execute(query)}


def newest_spec_version(session: Session, stage: Stage, within: timedelta) -> int | None:
    """Return the newest spec version of the workers that were seen within this time, or None if none was seen."""
    is_alive = (Worker.stage == stage, Worker.last_seen >= database_time(ago=within))
    return session.scalar(select(func.max(Worker.spec_version)).where(*is_alive))


def most_gpus(session: Session, within: timedelta) -> int:
    """Return the most GPUs that a training worker, which was seen within this time, can give to one training."""
    is_alive = (Worker.stage == Stage.TRAIN, Worker.last_seen >= database_time(ago=within))
    return session.scalar(select(func.max(Worker.gpus)).where(*is_alive)) or 0


def silent_workers(session: Session, for_longer_than: timedelta) -> Sequence[str]:
    return session.scalars(select(Worker.name).where(Worker.last_seen < database_time(ago=for_longer_than))).all()


def forget_workers(session: Session, names: Sequence[str], for_longer_than: timedelta) -> None:
    """Delete those of the workers that are still silent."""
    is_silent = Worker.last_seen < database_time(ago=for_longer_than)
    session.execute(delete(Worker).where(Worker.name.in_(names), is_silent))
