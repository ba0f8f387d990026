"""Counts how many jobs and attempts have ended in each way, in the transactions that end them.

The rows of `totals` are the last that such a transaction locks, so two of them never wait for each other.
"""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database.upsert import insert_into
from app.jobs.models import Total

JOBS, ATTEMPTS = "jobs", "attempts"


def add(session: Session, subject: str, part: str, outcome: str) -> None:
    """Count one more. `part` is the kind of a job, or the stage of an attempt."""
    one = insert_into(session, Total).values(subject=subject, part=part, outcome=outcome, count=1)
    same = (Total.subject, Total.part, Total.outcome)
    session.execute(one.on_conflict_do_update(index_elements=same, set_={"count": Total.count + 1}))


def all_of(session: Session) -> Sequence[Total]:
    return session.scalars(select(Total).order_by(Total.subject, Total.part, Total.outcome)).all()
