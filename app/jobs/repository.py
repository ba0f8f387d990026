"""Every query that the API makes about jobs. It never commits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Select, Subquery, and_, bindparam, delete, func, or_, select, update
from sqlalchemy.orm import Session, aliased, defer

from app.database.connection import database_time, utc_now
from app.jobs.models import Attempt, Checkpoint, IdempotencyKey, Job, JobEvent, Worker
from app.jobs.states import ALIVE, ENDED, Desire, JobStatus, Stage, sources_of

# No client waits longer for the answer of a dry run.
LONGEST_DRY_RUN = timedelta(seconds=600)
# What a list does not show. Documents may be large, and a list has many.
DETAILS = (Job.spec, Job.resolved, Job.data_report, Job.notices, Job.result)


@dataclass(frozen=True)
class DryRun:
    id: str
    created_at: datetime
    finished_at: datetime | None


def get(session: Session, job_id: str) -> Job | None:
    return session.get(Job, job_id)


def among(session: Session, job_ids: Sequence[str]) -> Sequence[Job]:
    """Those of them that are there."""
    return session.scalars(select(Job).where(Job.id.in_(job_ids))).all()


def lock(session: Session, job_id: str) -> Job | None:
    """The row, which nobody else changes or begins to go on from until the session ends."""
    return session.get(Job, job_id, with_for_update=True)


def lock_against_removal(session: Session, job_id: str) -> Job | None:
    """The row, which nobody deletes until the session ends; its worker may write to it."""
    return session.get(Job, job_id, with_for_update={"read": True, "key_share": True})


def find_status(session: Session, job_id: str) -> str | None:
    return session.scalar(select(Job.status).where(Job.id == job_id))


def standing(session: Session, job_id: str) -> tuple[JobStatus, str | None, int] | None:
    """Its status, its holder and the version of its spec, without the rest of the row; None for an unknown job."""
    query = select(Job.status, Job.worker, Job.spec_version).where(Job.id == job_id)
    found = session.execute(query).one_or_none()
    return (found.status, found.worker, found.spec_version) if found is not None else None


def page(
    session: Session, *, status: JobStatus | None = None, project: str | None = None, after: str | None, limit: int
) -> Sequence[Job]:
    """Newest first, without dry runs; `after` is the id of the last job of the page before. `unknown` are those of a
    status that only another version knows."""
    shown = select(Job).options(*(defer(document, raiseload=True) for document in DETAILS))
    query = shown.where(~Job.is_dry_run).order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)
    if status is not None:
        is_meant = Job.status == status
        query = query.where(is_meant if status is not JobStatus.UNKNOWN else Job.status.not_in((*ALIVE, *ENDED)))
    if project is not None:
        query = query.where(Job.project == project)
    last = session.scalar(select(Job.created_at).where(Job.id == after)) if after else None
    if last is not None:
        is_older = or_(Job.created_at < last, Job.id < after)
        query = query.where(Job.created_at <= last, is_older)  # the first of both bounds the index
    return session.scalars(query).all()


def attempts(session: Session, job_id: str) -> Sequence[Attempt]:
    return attempts_of(session, [job_id])


def attempts_of(session: Session, job_ids: Sequence[str]) -> Sequence[Attempt]:
    """In the order in which each job had them."""
    query = select(Attempt).where(Attempt.job_id.in_(job_ids)).order_by(Attempt.job_id, Attempt.epoch)
    return session.scalars(query).all()


def events(
    session: Session, job_id: str, *, after: int, limit: int, kinds: Sequence[str] | None = None
) -> Sequence[JobEvent]:
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after).order_by(JobEvent.seq).limit(limit)
    return session.scalars(query if kinds is None else query.where(JobEvent.kind.in_(kinds))).all()


def count_events(session: Session, job_id: str, kind: str) -> int:
    query = select(func.count()).select_from(JobEvent).where(JobEvent.job_id == job_id, JobEvent.kind == kind)
    return session.scalar(query) or 0


def each_nth_event(
    session: Session, job_id: str, kind: str, *, nth: int, last: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(epoch, payload) of the first event of a kind, of each n-th behind it, and of the one whose number is `last`.

    Two queries: the first reads the index alone, and a planner that joins them may read it anew for each event.
    """
    is_meant = (JobEvent.job_id == job_id, JobEvent.kind == kind)
    query = select(JobEvent.epoch, JobEvent.payload).where(*is_meant).order_by(JobEvent.seq)
    if nth > 1:
        number = func.row_number().over(order_by=JobEvent.seq).label("number")
        numbered = select(JobEvent.seq, number).where(*is_meant).subquery()
        is_shown = or_(numbered.c.number % nth == 1, numbered.c.number == last)
        query = query.where(JobEvent.seq.in_(session.scalars(select(numbered.c.seq).where(is_shown)).all()))
    yield from (tuple(row) for row in session.execute(query))


def newest_events(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """The number of the newest event of each of these jobs, without those that are gone."""
    rows = session.execute(select(Job.id, Job.last_seq).where(Job.id.in_(job_ids)))
    return {job_id: last_seq for job_id, last_seq in rows}


def checkpoints(session: Session, job_id: str) -> Sequence[Checkpoint]:
    """Which checkpoints a job has, newest first: all that a client is told of them comes from here.

    The trainer writes them into the job's folder and the rows follow with its events, a heartbeat later. Only the
    worker trusts the folder, for resuming (`worker.supervising.resuming`): it then finds a checkpoint that a killed
    process wrote without an event, and puts the rows right. Whoever opens one has to expect that a newer one has taken
    its place.
    """
    query = select(Checkpoint).where(Checkpoint.job_id == job_id)
    return session.scalars(query.order_by(Checkpoint.step.desc(), Checkpoint.epoch.desc())).all()


def jobs_at_work(stage: Stage) -> Subquery:
    """(project, jobs): how many of each project are held in a stage; projects without any are left out."""
    is_held = (Job.worker.is_not(None), Job.status == stage.active)
    return select(Job.project, func.count().label("jobs")).where(*is_held).group_by(Job.project).subquery()


def places(session: Session, stage: Stage, job_ids: Sequence[str], spec_version: int) -> dict[str, int]:
    """The places of those of these jobs that wait, in the order in which `claims.claim` takes them while none ends.

    Only jobs up to a version of the spec are counted: the order for a worker that understands that one. Of equally
    urgent jobs, `turn` is how many jobs of its project will be at work with it. Dry runs, which nobody sees, are not
    counted.
    """
    rows = session.execute(_places(stage), {"job_ids": list(job_ids), "spec_version": spec_version})
    return {job_id: place for job_id, place in rows}


@cache  # it takes longer to make than to execute
def _places(stage: Stage) -> Select[str, int]:
    at_work = jobs_at_work(stage)
    is_understood = Job.spec_version <= bindparam("spec_version")
    is_waiting = (Job.status == stage.waiting, Job.worker.is_(None), ~Job.is_dry_run, is_understood)
    number = func.row_number().over(partition_by=Job.project, order_by=(Job.priority.desc(), Job.created_at, Job.id))
    turn = (func.coalesce(at_work.c.jobs, 0) + number).label("turn")
    waiting = select(Job.id, Job.priority, Job.created_at, turn).where(*is_waiting)
    one = waiting.outerjoin(at_work, at_work.c.project == Job.project).subquery()
    order = (one.c.priority.desc(), one.c.turn, one.c.created_at, one.c.id)
    placed = select(one.c.id, func.row_number().over(order_by=order).label("place")).subquery()
    return select(placed).where(placed.c.id.in_(bindparam("job_ids", expanding=True)))


def checkpoint(session: Session, job_id: str, step: int | None) -> Checkpoint | None:
    """The newest, or the newest of a step."""
    found = checkpoints(session, job_id)
    return next((one for one in found if step is None or one.step == step), None)


def continued_by(session: Session, name: str) -> str | None:
    """A job that has not ended and goes on from this job or adapter. Dry runs, which are never trained, do not."""
    is_alive = (Job.status.not_in(ENDED), ~Job.is_dry_run)
    return session.scalar(select(Job.id).where(Job.continues == name, *is_alive).limit(1))


def uses_file(session: Session, file_id: str) -> bool:
    """Whether a job that has not ended reads the file. A dry run counts while somebody waits for its answer."""
    named = or_(Job.file_id == file_id, Job.eval_file_id == file_id)
    is_left = or_(Job.desired == Desire.CANCEL, Job.created_at < utc_now() - LONGEST_DRY_RUN)
    is_alive = and_(Job.status.not_in(ENDED), ~and_(Job.is_dry_run, is_left))
    return session.scalar(select(Job.id).where(named, is_alive).limit(1)) is not None


def append_event(session: Session, job: Job, kind: str, payload: dict[str, Any], at: datetime) -> None:
    """Number an event behind the last one; the caller's UPDATE of the row has raised `last_seq` for it."""
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
    """The one way a status changes: a guarded UPDATE and its event. None when somebody else was first."""
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


def request(session: Session, job_id: str, desired: Desire, *guards: Any) -> Job | None:
    """Leave a wish for the worker that holds the job. None when the job is not alive, or a guard does not hold."""
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.status.in_(ALIVE), *guards)
        .values(desired=desired)
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    return session.scalars(statement).one_or_none()


def append_request(session: Session, job: Job, what: str, now: datetime) -> None:
    """The event of a request that a worker is to carry out. The caller's UPDATE has locked the row."""
    job.last_seq += 1
    append_event(session, job, "request", {"request": what}, now)


def ask_for_checkpoint(session: Session, job_id: str) -> Job | None:
    """None when the job is not training."""
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.RUNNING)
        .values(checkpoints_asked=Job.checkpoints_asked + 1)
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    return session.scalars(statement).one_or_none()


def remove(session: Session, job_id: str) -> bool:
    """Delete a job that is not alive, with its attempts and events. False when there is none, or it is alive."""
    for table in (JobEvent, Attempt, Checkpoint, IdempotencyKey):
        session.execute(delete(table).where(table.job_id == job_id))
    statement = delete(Job).where(Job.id == job_id, Job.status.not_in(ALIVE)).returning(Job.id)
    return session.scalar(statement) is not None


def dry_runs(session: Session) -> Sequence[DryRun]:
    """All that are there, which are few: those that somebody waits for, and those that are about to be removed."""
    found = session.execute(select(Job.id, Job.created_at, Job.finished_at).where(Job.is_dry_run))
    return [DryRun(*row) for row in found]


def count_waiting(session: Session, most: int) -> int:
    """Jobs that nobody has begun to train, without dry runs; it stops to count at `most`."""
    is_waiting = (Job.status.in_((JobStatus.VALIDATING, JobStatus.QUEUED)), ~Job.is_dry_run)
    waiting = select(Job.id).where(*is_waiting).limit(most).subquery()
    return session.scalar(select(func.count()).select_from(waiting)) or 0


def expired(session: Session, before: datetime, limit: int) -> Sequence[str]:
    """Jobs that ended before a moment, the first to end first, without those that a job which is alive goes on from."""
    heir = aliased(Job)
    is_continued = select(heir.id).where(heir.continues == Job.id, heir.status.not_in(ENDED), ~heir.is_dry_run).exists()
    is_over = (Job.finished_at < before, Job.status.not_in(ALIVE), ~Job.is_dry_run, ~is_continued)
    return session.scalars(select(Job.id).where(*is_over).order_by(Job.finished_at).limit(limit)).all()


def dry_runs_among(session: Session, job_ids: Sequence[str]) -> set[str]:
    return set(session.scalars(select(Job.id).where(Job.id.in_(job_ids), Job.is_dry_run)))


def workers(session: Session) -> Sequence[Worker]:
    return session.scalars(select(Worker).order_by(Worker.name)).all()


def able_workers(session: Session, within: timedelta) -> dict[Stage, int]:
    """How many of each stage were seen within so long, and have no problem."""
    is_able = (Worker.last_seen >= database_time(ago=within), Worker.problem.is_(None))
    query = select(Worker.stage, func.count()).where(*is_able).group_by(Worker.stage)
    return {Stage(stage): workers for stage, workers in session.execute(query)}


def newest_spec_version(session: Session, stage: Stage, within: timedelta) -> int | None:
    """The newest version of a spec that a worker understands which was seen within so long; None: none was."""
    is_alive = (Worker.stage == stage, Worker.last_seen >= database_time(ago=within))
    return session.scalar(select(func.max(Worker.spec_version)).where(*is_alive))


def silent_workers(session: Session, for_longer_than: timedelta) -> Sequence[str]:
    return session.scalars(select(Worker.name).where(Worker.last_seen < database_time(ago=for_longer_than))).all()


def forget_workers(session: Session, names: Sequence[str], for_longer_than: timedelta) -> None:
    """Those that have been silent all the while."""
    is_silent = Worker.last_seen < database_time(ago=for_longer_than)
    session.execute(delete(Worker).where(Worker.name.in_(names), is_silent))
