"""The order in which waiting jobs are claimed, and the queue positions of some of them.

Projects take turns, so the queries here count the jobs of every project. Callers learn only numbers.
"""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import ColumnElement, Select, Subquery, bindparam, func, select
from sqlalchemy.orm import Session

from app.database.upsert import insert_into
from app.jobs.kinds import kinds_with
from app.jobs.models import Job, Turn
from app.jobs.states import Stage


def waits_for(stage: Stage) -> tuple[ColumnElement[bool], ...]:
    """The conditions under which a job without a worker waits for this stage. Jobs of unknown kinds do not."""
    return (Job.status == stage.waiting, Job.kind.in_(kinds_with(stage)))


def jobs_at_work(stage: Stage) -> Subquery:
    """Select (project, jobs): how many jobs of each project have the active status of a stage; no row for none."""
    is_held = (Job.worker.is_not(None), Job.status == stage.active)
    return select(Job.project, func.count().label("jobs")).where(*is_held).group_by(Job.project).subquery()


def last_turn(stage: Stage) -> Subquery:
    """Select (project, number): the higher the number, the later the project began its last job of a stage."""
    return select(Turn.project, Turn.number).where(Turn.stage == stage).subquery()


def take_turn(session: Session, stage: Stage, project: str) -> None:
    """Note that a job of this project begins a stage, so that the other projects come first from now on."""
    newest = select(func.coalesce(func.max(Turn.number), 0) + 1).where(Turn.stage == stage).scalar_subquery()
    one = insert_into(session, Turn).values(stage=stage, project=project, number=newest)
    same = (Turn.stage, Turn.project)
    session.execute(one.on_conflict_do_update(index_elements=same, set_={"number": one.excluded.number}))


def places(session: Session, stage: Stage, job_ids: Sequence[str], spec_version: int) -> dict[str, int]:
    """Return the queue positions (from 1) of those of these jobs that wait, if no running job ended meanwhile.

    The order is that of `claims.claim`: priority, then fair share between projects, then age. For fair share a job's
    `turn` is the number of its project's jobs that will be running once it has started. Of equal turns, the
    project of which fewer of these jobs have begun (`number`), then the one whose last begin is the oldest, is first.
    Only specs up to `spec_version` are counted, which a worker of that version understands. Temporary jobs are not
    counted.
    """
    query = _places(stage, tuple(kinds_with(stage)))
    rows = session.execute(query, {"job_ids": list(job_ids), "spec_version": spec_version})
    return {job_id: place for job_id, place in rows}


@cache  # building this query takes longer than executing it
def _places(stage: Stage, _kinds: tuple[str, ...]) -> Select[str, int]:
    at_work, turns = jobs_at_work(stage), last_turn(stage)
    is_understood = Job.spec_version <= bindparam("spec_version")
    is_waiting = (*waits_for(stage), Job.worker.is_(None), ~Job.is_temporary, is_understood)
    number = func.row_number().over(partition_by=Job.project, order_by=(Job.priority.desc(), Job.created_at, Job.id))
    turn = (func.coalesce(at_work.c.jobs, 0) + number).label("turn")
    last = func.coalesce(turns.c.number, 0).label("last")
    waiting = select(Job.id, Job.priority, Job.created_at, turn, number.label("number"), last).where(*is_waiting)
    joined = waiting.outerjoin(at_work, at_work.c.project == Job.project)
    one = joined.outerjoin(turns, turns.c.project == Job.project).subquery()
    order = (one.c.priority.desc(), one.c.turn, one.c.number, one.c.last, one.c.created_at, one.c.id)
    placed = select(one.c.id, func.row_number().over(order_by=order).label("place")).subquery()
    return select(placed).where(placed.c.id.in_(bindparam("job_ids", expanding=True)))
