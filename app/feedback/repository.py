"""Every query about feedback. It never commits."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.orm import Session

from app.database.newest_first import is_behind
from app.feedback.models import Feedback, Rating
from app.scope import Scope

ROWS_AT_ONCE = 500


class DatasetCounts(NamedTuple):
    """How many rows of a dataset are what."""

    name: str
    rows: int
    up: int
    down: int
    corrected: int
    learned: int


def add(session: Session, scope: Scope, row: Feedback) -> None:
    """Raises InvalidRequest if its project is not in the scope."""
    scope.check(row.project)
    session.add(row)


def count(session: Session, scope: Scope, project: str) -> int:
    is_of = (Feedback.project == project, scope.permits(Feedback.project))
    return session.scalar(select(func.count()).where(*is_of)) or 0


def datasets(session: Session, scope: Scope, project: str) -> list[DatasetCounts]:
    """Return the datasets of a project by name."""
    is_of, rows = (Feedback.project == project, scope.permits(Feedback.project)), func.count()
    kinds = (
        rows.filter(Feedback.rating == Rating.UP),
        rows.filter(Feedback.rating == Rating.DOWN),
        rows.filter(Feedback.correction.is_not(None)),
        rows.filter(_is_learned()),
    )
    query = select(Feedback.dataset, rows, *kinds).where(*is_of).group_by(Feedback.dataset).order_by(Feedback.dataset)
    return [DatasetCounts(*found) for found in session.execute(query)]


def get(session: Session, scope: Scope, project: str, dataset: str, row_id: str) -> Feedback | None:
    return session.scalar(select(Feedback).where(Feedback.id == row_id, *_is_of(scope, project, dataset)))


def page(
    session: Session, scope: Scope, project: str, dataset: str, *, after: Feedback | None, limit: int
) -> Sequence[Feedback]:
    """Return rows of a dataset, newest first. `after` is the last one of the previous page."""
    query = select(Feedback).where(*_is_of(scope, project, dataset))
    if after is not None:
        query = query.where(is_behind(Feedback.created_at, Feedback.id, after.created_at, after.id))
    return session.scalars(query.order_by(Feedback.created_at.desc(), Feedback.id.desc()).limit(limit)).all()


def learned(session: Session, scope: Scope, project: str, dataset: str) -> Iterator[Feedback]:
    """Yield the rows of a dataset that a job learns from, oldest first, without holding them all in memory."""
    query = select(Feedback).where(*_is_of(scope, project, dataset), _is_learned())
    in_order = query.order_by(Feedback.created_at, Feedback.id)
    yield from session.scalars(in_order.execution_options(yield_per=ROWS_AT_ONCE))


def remove(session: Session, scope: Scope, project: str, dataset: str, row_id: str | None = None) -> int:
    """Delete one row of a dataset, or all of them, and return how many."""
    statement = delete(Feedback).where(*_is_of(scope, project, dataset)).returning(Feedback.id)
    if row_id is not None:
        statement = statement.where(Feedback.id == row_id)
    return len(session.scalars(statement).all())


def _is_of(scope: Scope, project: str, dataset: str) -> tuple[ColumnElement[bool], ...]:
    return Feedback.project == project, Feedback.dataset == dataset, scope.permits(Feedback.project)


def _is_learned() -> ColumnElement[bool]:
    """The condition for rows whose `learned` is not None."""
    return or_(Feedback.correction.is_not(None), Feedback.rating == Rating.UP)
