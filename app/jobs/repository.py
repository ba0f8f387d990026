"""Every query that the API makes about jobs. It never commits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Subquery,
    and_,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased

from app.database.connection import database_time, utc_now
from app.jobs.kinds import kinds_with
from app.jobs.models import Attempt, Checkpoint, IdempotencyKey, Job, JobEvent, JobLabel, MetricSummary, Worker
from app.jobs.states import ALIVE, ENDED, JobStatus, RequestedAction, Stage, sources_of

# A dry run is answered, or given up, within this time.
LONGEST_DRY_RUN = timedelta(seconds=600)
# Columns that a list does not show, because they may be large.
DETAILS = (Job.sent, Job.plan, Job.observed, Job.data_report, Job.notices, Job.result)


# An event's number, its attempt, and its fields.
Reported = tuple[int, int, dict[str, Any]]


@dataclass(frozen=True)
class DryRun:
    id: str
    created_at: datetime
    finished_at: datetime | None


def get(session: Session, job_id: str) -> Job | None:
    return session.get(Job, job_id)


def among(session: Session, job_ids: Sequence[str]) -> Sequence[Job]:
    """Return those of the jobs that exist."""
    return session.scalars(select(Job).where(Job.id.in_(job_ids))).all()


def lock(session: Session, job_id: str) -> Job | None:
    """Return the row, locked until the session ends: no other session changes it or makes a job continue from it."""
    return session.get(Job, job_id, with_for_update=True)


def lock_against_removal(session: Session, job_id: str) -> Job | None:
    """Return the row. It cannot be deleted until the session ends, but its worker may write to it."""
    return session.get(Job, job_id, with_for_update={"read": True, "key_share": True})


def find_status(session: Session, job_id: str) -> str | None:
    return session.scalar(select(Job.status).where(Job.id == job_id))


def standing(session: Session, job_id: str) -> tuple[JobStatus, str | None, int] | None:
    """Return the job's status, its worker and the version of its spec; None for an unknown job."""
    query = select(Job.status, Job.worker, Job.spec_version).where(Job.id == job_id)
    found = session.execute(query).one_or_none()
    return (found.status, found.worker, found.spec_version) if found is not None else None


def attempts(session: Session, job_id: str) -> Sequence[Attempt]:
    return attempts_of(session, [job_id])


def attempts_of(session: Session, job_ids: Sequence[str]) -> Sequence[Attempt]:
    """Return the attempts of these jobs. Those of one job are in the order of their epochs."""
    query = select(Attempt).where(Attempt.job_id.in_(job_ids)).order_by(Attempt.job_id, Attempt.epoch)
    return session.scalars(query).all()


def events(
    session: Session, job_id: str, *, after: int, limit: int, kinds: Sequence[str] | None = None
) -> Sequence[JobEvent]:
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after).order_by(JobEvent.seq).limit(limit)
    return session.scalars(query if kinds is None else query.where(JobEvent.kind.in_(kinds))).all()


def sample_events(session: Session, job_id: str, kind: str, *, after: int, most: int) -> tuple[Sequence[Reported], int]:
    """Return the events of a kind behind a number, and n: 1 if these are all, else one of each n events, and the last.

    Of more than `most` it seeks the first one behind each n-th number, so it reads as much of millions as of thousands.
    """
    query = select(JobEvent.seq).where(JobEvent.job_id == job_id, JobEvent.kind == kind, JobEvent.seq > after)
    numbers = session.scalars(query.order_by(JobEvent.seq).limit(most + 1)).all()
    if len(numbers) <= most:
        return numbered_events(session, job_id, kind, numbers), 1
    first, last = numbers[0], session.scalars(query.order_by(JobEvent.seq.desc()).limit(1)).one()
    nth = -(-(last - first + 1) // most)
    start = select(literal(first, BigInteger).label("number")).cte(recursive=True)
    each = start.union_all(select(start.c.number + nth).where(start.c.number + nth <= last))
    is_next = (JobEvent.job_id == job_id, JobEvent.kind == kind, JobEvent.seq >= each.c.number)
    next_number = select(func.min(JobEvent.seq)).where(*is_next).correlate(each).scalar_subquery()
    found = session.scalars(select(next_number).select_from(each)).all()
    return numbered_events(session, job_id, kind, sorted({*found, last})), nth


def numbered_events(session: Session, job_id: str, kind: str, numbers: Sequence[int]) -> Sequence[Reported]:
    """Return those of the events with these numbers that are of a kind, in their order."""
    query = select(JobEvent.seq, JobEvent.epoch, JobEvent.payload).where(JobEvent.job_id == job_id)
    named = query.where(JobEvent.kind == kind, JobEvent.seq.in_(numbers)).order_by(JobEvent.seq)
    return [(seq, epoch, payload) for seq, epoch, payload in session.execute(named)]


def newest_event(session: Session, job_id: str, kind: str) -> JobEvent | None:
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.kind == kind)
    return session.scalars(query.order_by(JobEvent.seq.desc()).limit(1)).first()


def newest_events(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """Return the number of the newest event of each of these jobs, without those that were deleted."""
    rows = session.execute(select(Job.id, Job.last_seq).where(Job.id.in_(job_ids)))
    return {job_id: last_seq for job_id, last_seq in rows}


def checkpoints(session: Session, job_id: str) -> Sequence[Checkpoint]:
    """Return the checkpoints of a job, newest first. Clients see only these rows.

    The trainer writes checkpoints into the job's folder, and the rows follow with its events, up to a heartbeat later.
    Only the worker reads the folder, for resuming (`worker.supervising.resuming`): it then finds a checkpoint that a
    killed process wrote without an event, and corrects the rows. A reader of a checkpoint must expect that it was
    replaced by a newer one meanwhile.
    """
    query = select(Checkpoint).where(Checkpoint.job_id == job_id)
    return session.scalars(query.order_by(Checkpoint.step.desc(), Checkpoint.epoch.desc())).all()


def waits_for(stage: Stage) -> tuple[ColumnElement[bool], ...]:
    """The conditions under which a job without a worker waits for this stage. Jobs of unknown kinds do not."""
    return (Job.status == stage.waiting, Job.kind.in_(kinds_with(stage)))


def jobs_at_work(stage: Stage) -> Subquery:
    """Select (project, jobs): how many jobs of each project have the active status of a stage; no row for none."""
    is_held = (Job.worker.is_not(None), Job.status == stage.active)
    return select(Job.project, func.count().label("jobs")).where(*is_held).group_by(Job.project).subquery()


def places(session: Session, stage: Stage, job_ids: Sequence[str], spec_version: int) -> dict[str, int]:
    """Return the queue positions (from 1) of those of these jobs that wait, if no running job ended meanwhile.

    The order is that of `claims.claim`: priority, then fair share between projects, then age. For fair share a job's
    `turn` is the number of its project's jobs that will be running once it has started. Only specs up to `spec_version`
    are counted, which a worker of that version understands. Dry runs are not counted.
    """
    query = _places(stage, tuple(kinds_with(stage)))
    rows = session.execute(query, {"job_ids": list(job_ids), "spec_version": spec_version})
    return {job_id: place for job_id, place in rows}


@cache  # building this query takes longer than executing it
def _places(stage: Stage, _kinds: tuple[str, ...]) -> Select[str, int]:
    at_work = jobs_at_work(stage)
    is_understood = Job.spec_version <= bindparam("spec_version")
    is_waiting = (*waits_for(stage), Job.worker.is_(None), ~Job.is_temporary, is_understood)
    number = func.row_number().over(partition_by=Job.project, order_by=(Job.priority.desc(), Job.created_at, Job.id))
    turn = (func.coalesce(at_work.c.jobs, 0) + number).label("turn")
    waiting = select(Job.id, Job.priority, Job.created_at, turn).where(*is_waiting)
    one = waiting.outerjoin(at_work, at_work.c.project == Job.project).subquery()
    order = (one.c.priority.desc(), one.c.turn, one.c.created_at, one.c.id)
    placed = select(one.c.id, func.row_number().over(order_by=order).label("place")).subquery()
    return select(placed).where(placed.c.id.in_(bindparam("job_ids", expanding=True)))


def checkpoint(session: Session, job_id: str, step: int | None) -> Checkpoint | None:
    """Return the newest checkpoint, or the newest one of a step."""
    found = checkpoints(session, job_id)
    return next((one for one in found if step is None or one.step == step), None)


def continued_by(session: Session, name: str) -> str | None:
    """Return the id of a job that has not ended and continues from this job or adapter, without dry runs."""
    is_alive = (Job.status.not_in(ENDED), ~Job.is_temporary)
    return session.scalar(select(Job.id).where(Job.continues == name, *is_alive).limit(1))


def uses_file(session: Session, file_id: str) -> bool:
    """Return whether a job that has not ended reads the file. A dry run counts while its request waits."""
    named = or_(Job.file_id == file_id, Job.eval_file_id == file_id)
    is_abandoned = or_(Job.requested_action == RequestedAction.CANCEL, Job.created_at < utc_now() - LONGEST_DRY_RUN)
    is_alive = and_(Job.status.not_in(ENDED), ~and_(Job.is_temporary, is_abandoned))
    return session.scalar(select(Job.id).where(named, is_alive).limit(1)) is not None


def add(session: Session, job: Job) -> None:
    """Store a new job with its labels. A dry run is in no list, so its labels are not stored by themselves."""
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
    job_id: str,
    target: JobStatus,
    now: datetime,
    *guards: Any,
    reason: str | None = None,
    **values: Any,
) -> Job | None:
    """Change a job's status with one guarded UPDATE, and store the event. No other function changes a status.

    Returns None if the job's status does not allow the move (any more), or a guard does not hold.
    """
    if target.is_final:
        values = {"finished_at": now, "worker": None, "slot": None, "phase": None, **values}
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.status.in_(sources_of(target)), *guards)
        .values(status=target, last_seq=Job.last_seq + 1, **values)
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    job = session.scalars(statement).one_or_none()
    if job is not None:
        append_event(session, job, "status", {"status": target.value, "reason": reason, "error": job.error}, now)
    return job


def request(session: Session, job_id: str, requested_action: RequestedAction, *guards: Any) -> Job | None:
    """Store what the user requested of the job. Returns None if the job has ended, or a guard does not hold."""
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.status.in_(ALIVE), *guards)
        .values(requested_action=requested_action)
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    return session.scalars(statement).one_or_none()


def append_request(session: Session, job: Job, what: str, now: datetime) -> None:
    """Store the event of a request that a worker has to carry out. The caller's UPDATE has locked the row."""
    job.last_seq += 1
    append_event(session, job, "request", {"request": what}, now)


def ask_for_checkpoint(session: Session, job_id: str) -> Job | None:
    """Count one more requested checkpoint. Returns None if the job is not running."""
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.RUNNING)
        .values(checkpoints_requested=Job.checkpoints_requested + 1)
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    return session.scalars(statement).one_or_none()


def remove(session: Session, job_id: str) -> bool:
    """Delete an ended job with all that is of it. Returns False if it does not exist or has not ended."""
    for table in (JobEvent, Attempt, Checkpoint, IdempotencyKey, JobLabel, MetricSummary):
        session.execute(delete(table).where(table.job_id == job_id))
    statement = delete(Job).where(Job.id == job_id, Job.status.not_in(ALIVE)).returning(Job.id)
    return session.scalar(statement) is not None


def dry_runs(session: Session) -> Sequence[DryRun]:
    """Return all dry runs. They are few: those with a waiting request, and those that are about to be removed."""
    found = session.execute(select(Job.id, Job.created_at, Job.finished_at).where(Job.is_temporary))
    return [DryRun(*row) for row in found]


def count_waiting(session: Session, most: int) -> int:
    """Count the jobs whose training has not begun, without dry runs. Counting stops at `most`."""
    is_waiting = (Job.status.in_((JobStatus.VALIDATING, JobStatus.QUEUED)), ~Job.is_temporary)
    waiting = select(Job.id).where(*is_waiting).limit(most).subquery()
    return session.scalar(select(func.count()).select_from(waiting)) or 0


def expired(session: Session, before: datetime, limit: int) -> Sequence[str]:
    """Return jobs that ended before a moment, oldest end first, without those that an unfinished job continues from."""
    other = aliased(Job)
    continues = (other.continues == Job.id, other.status.not_in(ENDED), ~other.is_temporary)
    is_continued = select(other.id).where(*continues).exists()
    is_over = (Job.finished_at < before, Job.status.not_in(ALIVE), ~Job.is_temporary, ~is_continued)
    return session.scalars(select(Job.id).where(*is_over).order_by(Job.finished_at).limit(limit)).all()


def dry_runs_among(session: Session, job_ids: Sequence[str]) -> set[str]:
    return set(session.scalars(select(Job.id).where(Job.id.in_(job_ids), Job.is_temporary)))


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


def silent_workers(session: Session, for_longer_than: timedelta) -> Sequence[str]:
    return session.scalars(select(Worker.name).where(Worker.last_seen < database_time(ago=for_longer_than))).all()


def forget_workers(session: Session, names: Sequence[str], for_longer_than: timedelta) -> None:
    """Delete those of the workers that are still silent."""
    is_silent = Worker.last_seen < database_time(ago=for_longer_than)
    session.execute(delete(Worker).where(Worker.name.in_(names), is_silent))
